//! What is beyond the caps: more connections, more requests in flight, more bytes of bodies than the configuration
//! allows. It must be refused at once, and those who run the gateway must be answered all the time.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::beside::GOOD;
use super::in_order;
use super::members::{FIRST, KEY, ask};
use super::thrown::{Ends, Thrown};
use crate::Result;
use crate::ledger::claims::Claims;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::ledger::wish::{Kind, Wish};
use crate::process::Scratch;
use crate::report::Samples;
use crate::steady::Steady;
use crate::steady::balance::Balance;
use crate::steady::gateway::{ACCOUNT, Gateway, Places, Terms, released, secret};
use crate::steady::tally::Tally;
use crate::steady::watch::{ADMIN, Answers, LIVEZ, Memory, Probe, READYZ, pss};

/// The caps, and what is thrown at each.
const CONNECTIONS: u64 = 2_000;
const MORE_CONNECTIONS: u64 = 1_000;
const IN_FLIGHT: u64 = 200;
const REQUESTS: u64 = 400;
const BUFFERED_MIB: u64 = 64;
const BODIES: u64 = 200;
const BODY: usize = 1024 * 1024;

/// The bytes of `POST /v1/chat/completions HTTP/1.1`.
const FIRST_LINE: usize = 36;

/// Held requests that are completed at a time: fewer than may be in flight.
const AT_A_TIME: usize = 64;

/// Requests in flight are answered after so long: all of them are there meanwhile.
const THINKS_MS: u64 = 3_000;

/// A refusal takes at most so long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// So long bodies are held back: who is refused only with the last byte is refused too late.
const REFUSAL: Duration = Duration::from_secs(2);

/// Places that good traffic and those who ask after the gateway's health may take.
const OTHERS: u64 = 64;

/// Good traffic is alone for so long before and after.
const ALONE: Duration = Duration::from_secs(3);

/// Held bodies may cost so many times what the cap says, for the copies on their way.
const COPIES: u64 = 3;

/// How long a part of a request may take to be sent.
const SEND: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(60);

/// One thing that was thrown.
struct Throw {
    name: &'static str,
    /// How many may be answered well: the fewest and the most.
    well: (u64, u64),
    ends: Ends,
    /// What those who run it were told.
    operators: Vec<Answers>,
    /// KiB before, and the most meanwhile.
    memory: (u64, u64),
    /// From its end to the first good answer since.
    recovery: Option<Duration>,
}

/// What was seen.
pub struct Seen {
    throws: Vec<Throw>,
    /// Good traffic before and after, and all of it.
    calm: Tally,
    all: Tally,
    balance: Balance,
    held: i64,
    peak: u64,
    panics: Vec<String>,
}

/// Runs it.
pub async fn run(program: &Path, scratch: &Scratch, rate: u32) -> Result<Seen> {
    let provider = Provider::start().await?;
    let places = Places::new(scratch)?;
    let terms = Terms {
        keys: vec![GOOD.to_owned(), KEY.to_owned()],
        more: format!(
            "limits: {{ connections: {CONNECTIONS}, in_flight: {IN_FLIGHT}, buffered: {BUFFERED_MIB}MiB }}\n"
        ),
        ..Terms::default()
    };
    places.configure(&places.yaml(provider.address, &terms))?;
    let mut gateway = Gateway::start(program, &[], scratch, places).await?;
    let id = gateway.process.id();
    let memory = Memory::watch(id);
    let front = gateway.places.front;
    let probe = Probe::start(&gateway.places);
    let steady = Steady::start(front, &secret(GOOD), 0, rate)?;
    steady.phase(1);
    sleep(ALONE).await;
    let mut throws = Vec::new();
    for (name, well) in [
        ("connections", (CONNECTIONS - OTHERS, CONNECTIONS)),
        ("requests in flight", (IN_FLIGHT - OTHERS, IN_FLIGHT)),
        ("bodies of 1 MiB", (1, BUFFERED_MIB)),
    ] {
        steady.phase(2);
        let before = pss(id).unwrap_or(0);
        let here = Memory::watch(id);
        let from = Instant::now();
        let ends = match name {
            "connections" => connections(front).await?,
            "bodies of 1 MiB" => bodies(front).await?,
            _ => requests(front).await?,
        };
        let until = Instant::now();
        gateway.process.check()?;
        let operators = [LIVEZ, READYZ, ADMIN].map(|what| probe.answers(what, from, until));
        let peak = here.peak();
        steady.phase(0);
        sleep(Duration::from_secs(2)).await;
        steady.phase(1);
        let recovery = steady.served_since(until);
        throws.push(Throw {
            name,
            well,
            ends,
            operators: operators.to_vec(),
            memory: (before, peak),
            recovery: recovery.map(|at| at.saturating_duration_since(until)),
        });
        sleep(ALONE).await;
    }
    drop(probe);
    let tallies = steady.finish().await?;
    let peak = memory.peak();
    sight::settled(&[gateway.places.metrics], SETTLE).await?;
    let account = released(gateway.places.admin).await?;
    let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
    let told = provider.book.told();
    let balance = Balance::of(&told, 0..FIRST, rows.get(GOOD)).and(Balance::of(
        &told,
        FIRST..u64::MAX,
        rows.get(KEY),
    ));
    Ok(Seen {
        throws,
        calm: Tally::merged(tallies.get(1))?,
        all: Tally::merged(&tallies)?,
        balance,
        held: account.held,
        peak,
        panics: gateway.panics()?,
    })
}

/// Connections up to the cap, each with half of a request; then more of them, each with a whole one; then the other halves.
async fn connections(front: SocketAddr) -> Result<Ends> {
    let request = |index| ask(front, wish(index, 0));
    let held = (0..CONNECTIONS).map(request).collect();
    let more = (CONNECTIONS..CONNECTIONS + MORE_CONNECTIONS).map(request);
    // No more than the first line is sent.
    let kept = ask(front, wish(0, 0)).len() - FIRST_LINE;
    let held = Thrown::throw(front, held, kept, AT_A_TIME);
    held.begun(SEND).await;
    let refused = Thrown::throw(front, more.collect(), 0, AT_A_TIME)
        .complete()
        .await?;
    let mut ends = held.complete().await?;
    ends.extend(refused);
    Ok(ends)
}

/// Requests that are all in flight at once.
async fn requests(front: SocketAddr) -> Result<Ends> {
    let first = 10_000;
    let request = |index| ask(front, wish(index, THINKS_MS));
    let all = (first..first + REQUESTS).map(request).collect();
    Thrown::throw(front, all, 0, REQUESTS as usize)
        .complete()
        .await
}

/// Bodies of which the last byte comes when all the others are there.
async fn bodies(front: SocketAddr) -> Result<Ends> {
    let first = 20_000;
    let request = |index| padded(ask(front, wish(index, 0)), BODY);
    let all = (first..first + BODIES).map(request).collect();
    let thrown = Thrown::throw(front, all, 1, BODIES as usize);
    thrown.begun(SEND).await;
    // A refusal does not wait for the rest.
    sleep(REFUSAL).await;
    thrown.complete().await
}

fn wish(index: u64, wait_ms: u64) -> Wish {
    Wish {
        number: FIRST + index,
        kind: Kind::Whole,
        wait_ms,
    }
}

/// A request whose body is so much longer, of spaces behind its JSON text.
fn padded(request: Vec<u8>, more: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(&request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return request;
    };
    let lines = head
        .lines()
        .filter(|line| !line.starts_with("content-length:"));
    let head: Vec<&str> = lines.collect();
    let length = body.len() + more;
    let mut bytes = format!(
        "{}\r\ncontent-length: {length}\r\n\r\n{body}",
        head.join("\r\n")
    );
    bytes.extend(std::iter::repeat_n(' ', more));
    bytes.into_bytes()
}

impl Seen {
    /// Adds what must hold.
    pub fn claim(&self, claims: &mut Claims) {
        for throw in &self.throws {
            claims.part(throw.name);
            throw.claim(claims);
        }
        claims.part("beside what is beyond the caps");
        claims.none(
            "good traffic is answered, without an error, before and after",
            self.calm.sent,
            &self.calm.failures(),
        );
        claims.check(
            self.all.endless() == 0,
            "one terminal outcome a request",
            &self.all.endless().to_string(),
        );
        in_order(claims, &self.balance, self.held, &self.panics);
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\nBeyond the caps: `connections: {CONNECTIONS}, in_flight: {IN_FLIGHT}, buffered: {BUFFERED_MIB}MiB`. Good traffic meanwhile: \
             {} of {} requests without an answer of 200; before and after: {} of {}. Ledger − provider {}, peak PSS {:.1} MiB.\n\n\
             | thrown | how many | 200 | 503 with `Retry-After` | other | refused after, ms | most, ms | livez, readyz, admin: asked / wrong / longest, ms \
             | PSS before → most, MiB | recovery, ms |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            self.all.failed() - self.calm.failed(),
            self.all.sent - self.calm.sent,
            self.calm.failed(),
            self.calm.sent,
            self.balance.off,
            self.peak as f64 / 1024.0,
        );
        for throw in &self.throws {
            text.push_str(&throw.line());
        }
        text
    }
}

impl Throw {
    fn claim(&self, claims: &mut Claims) {
        let wrong = self.ends.wrong();
        claims.none(
            "what is beyond a cap is told 503 with Retry-After",
            self.ends.count(),
            &wrong,
        );
        let (least, most) = self.well;
        let well = self.ends.well();
        claims.check(
            (least..=most).contains(&well),
            "as many are served as the cap allows",
            &format!("{well}, from {least} to {most}"),
        );
        let refused = self.ends.refused();
        let late = refused.iter().filter(|after| **after > AT_ONCE);
        let late: Vec<String> = late.map(|after| format!("after {after:?}")).collect();
        claims.none("refusals come at once", refused.len() as u64, &late);
        let asked = self.operators.iter().map(|answers| answers.asked).sum();
        let unanswered: Vec<String> = self
            .operators
            .iter()
            .flat_map(|answers| answers.wrong.clone())
            .collect();
        claims.none(
            "/livez, /readyz and the admin API answer throughout",
            asked,
            &unanswered,
        );
        let (before, most) = self.memory;
        let bound = COPIES * BUFFERED_MIB * 1024;
        claims.check(
            most.saturating_sub(before) <= bound,
            "memory is bounded",
            &format!(
                "{} KiB more at most, {bound} allowed",
                most.saturating_sub(before)
            ),
        );
        claims.check(
            self.recovery
                .is_some_and(|time| time < Duration::from_secs(2)),
            "good traffic is answered within 2 s of the crowd's end",
            &format!("{:?}", self.recovery),
        );
    }

    fn line(&self) -> String {
        let mut after = Samples::default();
        for time in self.ends.refused() {
            after.add(time.as_secs_f64() * 1000.0);
        }
        let mut operators = String::new();
        for answers in &self.operators {
            let Answers {
                asked,
                wrong,
                longest,
            } = answers;
            let _ = write!(
                operators,
                "{asked} / {} / {}, ",
                wrong.len(),
                longest.as_millis()
            );
        }
        let (before, most) = self.memory;
        format!(
            "| {} | {} | {} | {} | {} | {} | {:.0} | {} | {:.1} → {:.1} | {:.0} |\n",
            self.name,
            self.ends.count(),
            self.ends.well(),
            after.count(),
            self.ends.wrong().len(),
            after.spread(1),
            after.most(),
            operators.trim_end_matches(", "),
            before as f64 / 1024.0,
            most as f64 / 1024.0,
            self.recovery
                .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Body, framing, head_length};

    #[test]
    fn a_padded_request_is_framed_and_asks_for_the_same() -> Result<()> {
        let front = "127.0.0.1:80".parse()?;
        let bytes = padded(ask(front, wish(5, 0)), 5_000);
        let length = head_length(&bytes).ok_or("no head")?;
        let (head, body) = bytes.split_at(length);
        assert_eq!(framing(head)?, Some(Body::Length(body.len() as u64)));
        assert!(body.len() > 5_000);
        assert_eq!(Wish::find(body), Some(wish(5, 0)));
        assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok());
        Ok(())
    }
}
