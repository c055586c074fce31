//! What is left of a request: one [`event::Event`], which becomes a line of the access log, numbers
//! in the metrics and a mark in the models' status.

pub mod access_log;
pub mod billing;
pub mod event;
pub mod limits;
mod line;
pub mod metrics;
pub mod overload;
pub mod recorder;
pub mod reload;
pub mod status;
pub mod upstreams;
