//! What the integration tests stand on: a scripted provider and Redis servers behind the gateway
//! and a raw client before it, all over real sockets on 127.0.0.1.
//!
//! Every test binary uses a part of this, hence the allowances; a panic here is a failed test.
#![allow(dead_code, unused_imports, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod clock;
pub mod endless;
pub mod gateway;
pub mod hostile;
pub mod http;
pub mod operator;
pub mod provider;
pub mod redis;
pub mod refusal;
pub mod served;
pub mod tls;
