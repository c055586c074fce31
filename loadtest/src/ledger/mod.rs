//! Whether a gateway charges what its provider counted: each request has a key of its own, so that what it cost
//! stands in a row of its own, and a provider of our own that knows what it told of each.
//!
//! [`wish`] is what a request asks for, [`provider`] answers and keeps count, [`traffic`] and [`client`] send, [`site`] runs the
//! gateways, [`admin`] asks them for their ledger, [`audit`] compares; [`claims`] says what holds.

pub mod admin;
pub mod audit;
pub mod claims;
pub mod client;
pub mod money;
pub mod provider;
pub mod sight;
pub mod site;
pub mod traffic;
pub mod wish;
