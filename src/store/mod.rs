//! Redis, as the one thing that nodes share: [`link`] is the way to it, [`breaker`] when to give it up,
//! [`target`] its URL, [`part`] what shares a call, [`nodes`] who else is there. [`db`] is the file of a node that shares nothing. What is
//! stored there, and what happens without it, is for those who store it.

pub mod breaker;
pub mod db;
mod durable;
pub mod link;
pub mod nodes;
pub mod part;
mod supervise;
pub mod target;
