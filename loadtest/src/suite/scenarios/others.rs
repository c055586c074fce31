//! What others cost at the nearest same work, and what other wires cost.

use super::super::field::Field;
use super::super::figures::Cell;
use super::{BARE, Name, Plan, TOLLGATE};
use crate::Result;
use crate::bench::Variant;
use crate::gateway::{Client, Limits};
use crate::load::Load;
use crate::peers::{Peer, Work};
use crate::wire::Wire;

/// nginx, HAProxy and Envoy.
pub async fn peers(field: &Field) -> Result<Plan> {
    let clients = [Client::new("bench", Limits::high_requests())];
    let key = &clients[0].key;
    let keys = [key.clone()];
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for peer in Peer::ALL {
        match peer.find() {
            Ok(_) => found.push(peer),
            Err(why) => notes.push(format!("{} was left out: {why}.", peer.name())),
        }
    }
    let mut planned = Vec::new();
    for (point, work) in [
        ("nothing but forwarding", Work::Pass),
        ("key and rate", Work::Keyed),
    ] {
        let (side, proxy) = match work {
            Work::Pass => (BARE, field.bare().await?),
            Work::Keyed => (TOLLGATE, field.gateway(&Variant::plain(&clients)).await?),
        };
        let cell = Cell::new(point, side);
        let cell = match work {
            Work::Pass => cell,
            Work::Keyed => cell.against(0),
        };
        let load = field.load(&proxy, key);
        planned.push(field.answered(cell, proxy, load).await?);
        for peer in &found {
            let proxy = field.bench.peer(*peer, work, &keys).await?;
            let load = field.load(&proxy, key);
            let cell = Cell::new(point, peer.name()).against(0);
            planned.push(field.answered(cell, proxy, load).await?);
        }
    }
    let mut scenario = Name::Peers.scenario(
        "Beside others",
        "The nearest same work that each can do, with the settings of loadtest/peers: a key is checked and a limit of requests is \
         never reached. Tollgate also reads the body, chooses by model, meters the usage and keeps metrics and an access log.",
    );
    scenario.notes = notes;
    Ok(Plan::closed(field, field.pick(1, 4), scenario, planned))
}

/// TLS and HTTP/2 on the client's side.
pub async fn wire(field: &Field) -> Result<Plan> {
    let clients = [field.client().clone()];
    let mut planned = Vec::new();
    for (point, wire) in [
        ("HTTP/1.1", Wire::Plain),
        ("HTTP/1.1 over TLS", Wire::Tls),
        ("HTTP/2 over TLS", Wire::Http2),
    ] {
        let yardstick = planned.len();
        for side in [BARE, TOLLGATE] {
            let cell = Cell::new(point, side);
            let (cell, proxy) = match side {
                BARE => (cell, field.bare_over(wire).await?),
                _ => {
                    let variant = Variant {
                        wire,
                        ..Variant::plain(&clients)
                    };
                    (cell.against(yardstick), field.gateway(&variant).await?)
                }
            };
            let load = Load {
                wire,
                ..field.load(&proxy, &clients[0].key)
            };
            planned.push(field.answered(cell, proxy, load).await?);
        }
    }
    let scenario = Name::Wire.scenario(
        "TLS and HTTP/2",
        "Between client and proxy; connections are opened before the turn, so that no handshake is part of it. Over HTTP/2 eight \
         requests at a time share a connection.",
    );
    Ok(Plan::closed(field, field.pick(1, 4), scenario, planned))
}
