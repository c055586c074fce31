//! Money.

pub mod money;
