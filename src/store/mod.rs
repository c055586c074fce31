//! Redis, as the one thing that nodes share: [`link`] is the way to it, [`breaker`] when to give it up,
//! [`target`] its URL. What is stored there, and what happens without it, is for those who store it.

pub mod breaker;
pub mod link;
mod supervise;
pub mod target;
