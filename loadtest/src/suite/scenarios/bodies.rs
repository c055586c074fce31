//! Bodies from small to large: what a byte costs, what is held in memory, and what others notice.

use super::super::field::{CONNECTIONS, Field};
use super::super::figures::{Cell, Scenario, grouped};
use super::super::measure::Measure;
use super::super::work::{Beside, Work};
use super::{BARE, BESIDE, LARGEST_BODY, Name, Plan, Planned, TOLLGATE};
use crate::Result;
use crate::bench::{Proxy, chat};
use crate::gateway::MODEL;
use crate::load::{Load, Requests, Until};
use crate::target::{Answer, BODY_LENGTH, chat_body_of, request};

/// From here on a body is alone on its way, so that the memory of one is seen.
const ALONE: usize = 2_000_000;

/// Bytes of a turn.
const BYTES: u64 = 400_000_000;

/// Bodies of this size, so many a turn.
fn load(field: &Field, proxy: &Proxy, size: usize) -> Load {
    let target = chat(proxy.address);
    let body = chat_body_of(size, MODEL, Answer::Whole);
    let bytes = request(&target, &field.client().key, Answer::Whole, body.as_bytes());
    let connections = if size < ALONE { CONNECTIONS } else { 1 };
    let most = field.pick(BYTES / 2, BYTES) / size as u64;
    Load {
        requests: Requests::one(bytes),
        connections,
        at_once: connections,
        until: Until::Requests(most.min(field.requests())),
        ..field.load(proxy, &field.client().key)
    }
}

/// A request's size.
pub async fn size(field: &Field) -> Result<Plan> {
    let sizes: &[usize] = field.pick(
        &[BODY_LENGTH, 20_000, LARGEST_BODY],
        &[BODY_LENGTH, 2_000, 20_000, 200_000, ALONE, LARGEST_BODY],
    );
    let mut planned = Vec::new();
    for size in sizes {
        let yardstick = planned.len();
        for side in [BARE, TOLLGATE] {
            let cell = Cell::sized(*size as u64, side);
            let (cell, proxy) = match side {
                BARE => (cell, field.bare().await?),
                _ => (cell.against(yardstick), field.everything(None).await?),
            };
            let charged = proxy.admin.is_some();
            let load = load(field, &proxy, *size);
            let one = field.answered(cell, proxy, load).await?;
            let one = if charged {
                one.charges(&field.client().name)
            } else {
                one
            };
            planned.push(one.body(*size));
        }
    }
    let scenario = Scenario {
        axis: Some("bytes of a request's body".to_owned()),
        plots: vec![Measure::Throughput],
        ..Name::Size.scenario(
            "Size of a request",
            "One JSON text with a long prompt; everything on. Tollgate reads all of it, checks it and sends it from memory, the \
             bare pass-through sends each piece as it comes. From 2 MB on one body is on its way at a time; memory is the most \
             that was resident during a turn beyond that after the start.",
        )
    };
    Ok(Plan {
        rounds: field.pick(1, 4),
        turn: format!(
            "closed loop, {} requests a turn over {CONNECTIONS} connections, of large bodies {} MB",
            grouped(field.requests()),
            field.pick(BYTES / 2, BYTES) / 1_000_000
        ),
        scenario,
        planned,
    })
}

/// What small requests notice of large ones.
pub async fn beside(field: &Field) -> Result<Plan> {
    let (rate, seconds) = (200, field.pick(3, 10));
    let mut planned = Vec::new();
    for point in ["alone", BESIDE] {
        for side in [BARE, TOLLGATE] {
            let cell = Cell::new(point, side);
            let (cell, proxy) = match side {
                BARE => (cell, field.bare().await?),
                _ => (
                    cell.against(planned.len() - 1),
                    field.everything(None).await?,
                ),
            };
            let large = (point == BESIDE).then(|| load(field, &proxy, LARGEST_BODY));
            let work = Beside {
                proxy,
                key: field.client().key.clone(),
                rate,
                seconds,
                large,
            };
            planned.push(Planned {
                cell,
                work: Work::Beside(Box::new(work)),
            });
        }
    }
    let scenario = Scenario {
        main: Measure::LatencyHigh,
        ..Name::Beside.scenario(
            "Small requests beside large ones",
            "Chat requests of 240 bytes in an open loop, timed from when each was due; beside them two bodies of 20 MB a second, one \
             at a time.",
        )
    };
    Ok(Plan {
        rounds: field.pick(1, 3),
        turn: format!("open loop, {rate} requests a second for {seconds} s a turn"),
        scenario,
        planned,
    })
}
