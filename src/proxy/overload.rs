//! The refusals of a gateway that has all that it can take on.

use super::snapshot::Gateway;
use crate::limit::overload::Claim;
use crate::rejection::{Code, Rejection};
use http::Method;

/// Whether a request that found no room for its connection is served all the same: load balancers
/// would otherwise take an overloaded gateway for a dead one.
pub fn exempt(method: &Method, path: &str) -> bool {
    matches!(path, "/livez" | "/readyz") || (path == "/" && method == Method::HEAD)
}

/// The refusal of a request whose connection is one too many.
pub fn no_connection() -> Rejection {
    refusal("The gateway has as many connections as it can serve. Try again shortly.")
}

/// The refusal of a request for which no connection to its provider can be opened.
pub fn no_descriptor() -> Rejection {
    refusal("The gateway cannot open any more connections to providers. Try again shortly.")
}

/// A place among the requests in flight.
///
/// # Errors
/// There is none.
pub fn in_flight(gateway: &Gateway) -> Result<Claim, Rejection> {
    let claim = gateway.caps.in_flight.take(1);
    claim.ok_or_else(|| {
        refusal("The gateway has as many requests in flight as it can serve. Try again shortly.")
    })
}

/// Room for so many bytes of a body.
///
/// # Errors
/// There is not as much.
pub fn room(gateway: &Gateway, bytes: u64) -> Result<Claim, Rejection> {
    let claim = gateway.caps.buffered.take(bytes);
    claim.ok_or_else(no_room)
}

/// Room for so many bytes more.
///
/// # Errors
/// There is not as much.
pub fn more_room(claim: &mut Claim, bytes: u64) -> Result<(), Rejection> {
    match claim.more(bytes) {
        true => Ok(()),
        false => Err(no_room()),
    }
}

fn no_room() -> Rejection {
    refusal("The gateway holds as many request bodies as it can. Try again shortly.")
}

fn refusal(message: &str) -> Rejection {
    Rejection::new(Code::ServerIsOverloaded, message)
}
