//! What is asked in one admission beside the limits: everything is granted, or nothing is.

use redis::{Cmd, Value};

/// A part of an admission. Exactly one of [`Part::locally`], or [`Part::write`] and then [`Part::read`]
/// or [`Part::unanswered`], is called for each admission.
pub trait Part: Send {
    /// Decides on this node: asks `others` only if it agrees itself, and keeps what it agreed to only if
    /// they agree too. All of it is one step to everyone else who asks the same.
    fn locally(&mut self, others: &mut dyn FnMut() -> bool);

    /// Adds its key to a call to Redis.
    fn key(&self, call: &mut Cmd);

    /// Adds its arguments.
    fn write(&mut self, call: &mut Cmd);

    /// Takes its share of the answer: whether it agrees; `None` if that is no answer. `granted` says
    /// whether all others agreed.
    fn read(&mut self, said: &[Value], granted: bool) -> Option<bool>;

    /// There was no answer to what was written: it may have been done or not.
    fn unanswered(&mut self);
}
