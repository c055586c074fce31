//! Tollgate: the edge proxy in front of model providers.
//!
//! This is the map. A request goes through the rooms from top to bottom, and `docs/life-of-a-request.md`
//! walks the same way:
//!
//! accept → route → authenticate → admit → select an upstream → forward and stream → meter → record
//!
//! Who may import whom (tested by `tests/architecture.rs`):
//!
//! | layer | members | may import |
//! | --- | --- | --- |
//! | 0 words | [`id`], [`clock`], [`billing::money`], [`rejection`], `nearest` | std; http and bytes for header values |
//! | 1 pure | [`route`], [`auth`], [`catalog`], [`limit`] (words, [`limit::bucket`], [`limit::overload`], [`limit::state`]), [`upstream`] (selection), [`wire`], [`meter`], [`billing`] (words, [`billing::period`], [`billing::hold`], [`billing::wallet`]) | 0 |
//! | 2 use cases | [`admit`] | 0–1 |
//! | 3 adapters | [`record`], [`store`], [`limit::memory`], [`limit::redis`], [`limit::limiter`], `limit::joined`, `limit::settling`, [`limit::flood`], [`auth::directory`], [`auth::registry`], [`auth::shared`], [`billing::ledger`] and what it is made of ([`billing::asking`], `billing::books`, [`billing::embedded`], [`billing::journal`], `billing::leftovers`, `billing::lines`, `billing::nodes`, `billing::recent`, `billing::redis`, [`billing::seeds`]), [`admit::gate`], [`upstream::addresses`], [`upstream::pool`], [`socket`] | 0–2 |
//! | 4 shell | [`downstream`], [`proxy`], [`admin`], [`demo`], [`upstream::dial`], [`upstream::peer`] | all below, pingora |
//! | 5 wiring | [`config`] (seen by 5 only), [`server`], [`cli`] | all |

// Accept: listeners, TLS, start and shutdown.
pub mod server;

// What is sent, and when.
pub mod socket;

// The client's side of an exchange.
pub mod downstream;

// The phases of a request.
pub mod proxy;

// Method and path → endpoint.
pub mod route;

// Headers → key.
pub mod auth;

// May this key call this model now?
pub mod admit;

// How much may it ask for?
pub mod limit;

// The models.
pub mod catalog;

// The providers, and which of them is chosen.
pub mod upstream;

// Bodies and envelopes: what is read and rewritten.
pub mod wire;

// An answer's chunks → usage.
pub mod meter;

// Access log, metrics, status.
pub mod record;

// What nodes share.
pub mod store;

// Money.
pub mod billing;

// What operators do while it runs.
pub mod admin;

// Names that travel.
pub mod id;

// The name that was meant.
pub(crate) mod nearest;

// What time it is.
pub mod clock;

// Every refusal.
pub mod rejection;

// The verbs.
pub mod cli;

// The file: as typed, as used.
pub mod config;

// The built-in provider.
pub mod demo;
