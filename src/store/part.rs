//! What is asked in one admission beside the limits: everything is granted, or nothing is.

use redis::Cmd;
use std::sync::Arc;

/// A part of an admission. Exactly one of [`Part::locally`], or [`Part::ask`] and then [`Part::read`]
/// or [`Part::unanswered`], is called for each admission.
pub trait Part: Send {
    /// Decides on this node: asks `others` only if it agrees itself, and keeps what it agreed to only if
    /// they agree too. All of it is one step to everyone else who asks the same.
    fn locally(&mut self, others: &mut dyn FnMut() -> bool);

    /// Tells parts apart that have nothing in common.
    fn kind(&self) -> usize;

    /// What parts of one kind have in common in a call.
    fn common(&self) -> Box<dyn Common>;

    /// What it asks itself.
    fn ask(&mut self) -> [i64; 3];

    /// Takes its share of the answer: whether it agrees; `None` if that is no answer. `granted` says
    /// whether all others agreed.
    fn read(&mut self, said: &Said, granted: bool) -> Option<bool>;

    /// There was no answer to what was asked: it may have been done or not.
    fn unanswered(&mut self);
}

/// What is sent once in a call, for all parts of one kind.
pub trait Common: Send {
    /// Adds its key.
    fn key(&self, call: &mut Cmd);

    /// Decides what is sent, and says how many arguments that is. Called once, right before the call.
    fn load(&mut self) -> usize;

    /// Adds them.
    fn write(&self, call: &mut Cmd);

    /// Takes its share of the answer.
    fn read(&self, said: [i64; 2]);

    /// There was no answer.
    fn unanswered(&self);
}

/// The answer to one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its numbers.
    pub numbers: [i64; 6],
    /// Its word.
    pub word: Arc<str>,
}
