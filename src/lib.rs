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
//! | 0 words | [`id`], [`billing::money`], [`rejection`] | std |
//! | 1 pure | [`route`], [`auth`], [`catalog`], [`upstream`] (selection), [`wire`], [`meter`] | 0 |
//! | 2 use cases | [`admit`] | 0–1 |
//! | 3 adapters | [`record`], [`auth::directory`], [`upstream::addresses`] | 0–2 |
//! | 4 shell | [`downstream`], [`proxy`], [`demo`], [`upstream::peer`] | all below, pingora |
//! | 5 wiring | [`config`] (seen by 4 and 5 only), [`server`], [`cli`] | all |

pub mod admit; // may this key call this model now
pub mod auth; // headers → key
pub mod catalog; // the models
pub mod downstream; // the client's side of an exchange
pub mod meter; // an answer's chunks → usage
pub mod proxy; // the phases of a request
pub mod record;
pub mod route; // method and path → endpoint
pub mod server; // accept: listeners, TLS, start and shutdown
pub mod upstream; // the providers, and which of them is chosen
pub mod wire; // bodies and envelopes: what is read and rewritten // access log, metrics, status

pub mod billing; // money
pub mod id; // names that travel
pub mod rejection; // every refusal

pub mod cli; // the verbs
pub mod config; // the file: as typed, as used
pub mod demo; // the built-in provider
