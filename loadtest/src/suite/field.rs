//! What scenarios are measured with: the provider, the gateway's program, a Redis if one is asked for; and how one is
//! measured: there and back over all its cells, so that what drifts meanwhile hits all alike.

use std::path::PathBuf;

use super::figures::Cell;
use super::progress::Progress;
use super::work::{Answered, Work};
use crate::Result;
use crate::bench::{self, Bench, Cores, Proxy, Variant, WARM_UP};
use crate::gateway::{Client, Limits, Shared};
use crate::load::{Load, Until};
use crate::process::find_program;
use crate::redis::Redis;
use crate::wire::Wire;

/// Connections of a closed loop, where they are not what grows.
pub const CONNECTIONS: u64 = 32;

/// What scenarios are measured with.
pub struct Field {
    /// The provider, and the cores.
    pub bench: Bench,
    /// The gateway's program.
    pub program: PathBuf,
    /// Few rounds, few points.
    pub quick: bool,
    /// There from the first one who asks for it on.
    pub redis: Option<Redis>,
    client: [Client; 1],
}

/// A cell that is to be measured.
pub struct Planned {
    /// Where its figures go.
    pub cell: Cell,
    /// What gives them.
    pub work: Work,
}

impl Field {
    /// With a provider that runs.
    pub async fn new(cores: Cores, program: PathBuf, quick: bool) -> Result<Self> {
        Ok(Field {
            bench: Bench::new(Some(cores)).await?,
            program,
            quick,
            redis: None,
            client: [Client::new("bench", Limits::high())],
        })
    }

    /// One of the two, as the run is quick or not.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        match self.quick {
            true => quick,
            false => full,
        }
    }

    /// Requests of a turn.
    pub fn requests(&self) -> u64 {
        self.pick(10_000, 40_000)
    }

    /// One with limits of every kind that are never reached.
    pub fn client(&self) -> &Client {
        &self.client[0]
    }

    /// The yardstick.
    pub async fn bare(&self) -> Result<Proxy> {
        self.bare_over(Wire::Plain).await
    }

    /// The same, over a wire.
    pub async fn bare_over(&self, wire: Wire) -> Result<Proxy> {
        let key = &self.client().key;
        self.bench.passthrough(wire, "bare Pingora", key).await
    }

    /// A gateway.
    pub async fn gateway(&self, variant: &Variant<'_>) -> Result<Proxy> {
        self.bench.serve("Tollgate", &self.program, variant).await
    }

    /// A gateway with everything on: key, routing, limits of every kind, hold and settlement, usage, metrics, access log;
    /// with a cap on connections, if it is to have more than the system's limits give.
    pub async fn everything(&self, connections: Option<u64>) -> Result<Proxy> {
        self.gateway(&Variant {
            charging: true,
            connections,
            ..Variant::plain(&self.client)
        })
        .await
    }

    /// The Redis that is there, or a new one; nothing where none is installed, which is noted.
    pub async fn redis(&mut self, notes: &mut Vec<String>) -> Result<Option<Shared>> {
        if self.redis.is_none() {
            if let Err(why) = find_program("redis-server", "redis-server") {
                notes.push(format!("What asks Redis was left out: {why}."));
                return Ok(None);
            }
            self.redis = Some(self.bench.redis().await?);
        }
        let address = self.redis.as_ref().map(Redis::address);
        Ok(address.map(Shared::strict))
    }

    /// Chat requests at a proxy, always the same.
    pub fn load(&self, proxy: &Proxy, key: &str) -> Load {
        bench::load(proxy.address, key, 200, CONNECTIONS, self.requests())
    }

    /// A cell whose turns are a closed loop that is answered; warmed up with each of its requests once at least.
    pub async fn answered(&self, cell: Cell, proxy: Proxy, load: Load) -> Result<Planned> {
        let count = WARM_UP.max(load.requests.count() as u64);
        let warm_up = Load {
            until: match load.until {
                // Of large ones a few do.
                Until::Requests(few) if few < WARM_UP && load.requests.count() == 1 => {
                    Until::Requests(few.min(50))
                }
                _ => Until::Requests(count),
            },
            ..load.clone()
        };
        let outcome = warm_up.run().await?.correct()?;
        let work = Answered {
            proxy,
            load,
            shared: false,
            account: None,
            body: None,
            crowd: false,
            // The first one waited for the proxy.
            sent: outcome.requests + 1,
        };
        Ok(Planned {
            cell,
            work: Work::Answered(Box::new(work)),
        })
    }

    /// Measures the cells: so many times there and back.
    pub async fn measure(
        &mut self,
        rounds: u32,
        planned: Vec<Planned>,
        progress: &mut Progress,
    ) -> Result<Vec<Cell>> {
        let mut planned = planned;
        progress.turns(u64::from(2 * rounds) * planned.len() as u64);
        for number in 0..2 * rounds {
            for place in order(planned.len(), number) {
                let Planned { cell, work } = &mut planned[place];
                progress.turn(&cell.side, &cell.point);
                let measured = work.turn(self).await.map_err(|error| told(cell, &error))?;
                cell.take(measured);
            }
        }
        let mut cells = Vec::with_capacity(planned.len());
        for Planned { mut cell, mut work } in planned {
            let measured = work.end().await.map_err(|error| told(&cell, &error))?;
            cell.take(measured);
            cells.push(cell);
        }
        Ok(cells)
    }
}

impl Planned {
    /// Asks Redis about each request.
    pub fn shared(self) -> Self {
        self.with(|work| work.shared = true)
    }

    /// Charges this account for each request.
    pub fn charges(self, account: &str) -> Self {
        self.with(|work| work.account = Some(account.to_owned()))
    }

    /// Measures bytes and memory of bodies of this size.
    pub fn body(self, length: usize) -> Self {
        self.with(|work| work.body = Some(length))
    }

    /// Measures the memory of connections.
    pub fn crowd(self) -> Self {
        self.with(|work| work.crowd = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Answered)) -> Self {
        if let Work::Answered(work) = &mut self.work {
            change(work);
        }
        self
    }
}

/// The places of a turn: forth, then back.
fn order(count: usize, number: u32) -> Vec<usize> {
    match number % 2 {
        0 => (0..count).collect(),
        _ => (0..count).rev().collect(),
    }
}

/// A failure with the cell that it happened to.
fn told(cell: &Cell, error: &impl std::fmt::Display) -> String {
    match cell.point.is_empty() {
        true => format!("{}: {error}", cell.side),
        false => format!("{}, {}: {error}", cell.side, cell.point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_back_undoes_the_turn_forth() {
        let places: Vec<usize> = (0..2).flat_map(|number| order(3, number)).collect();
        assert_eq!(places, [0, 1, 2, 2, 1, 0]);
    }
}
