//! Who gets in at a listener: the cap on connections, those beyond it, and what happens when there
//! are no file descriptors left.

use crate::downstream::idle::Idle;
use crate::limit::overload::{Cap, Caps, Claim};
use std::fs::File;
use std::io::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A connection beyond the cap has this time for all that it wants.
const BRIEFLY: Duration = Duration::from_secs(2);
/// One on a spare descriptor has this: who asks after our health stands in a row behind all others.
const AT_ONCE: Duration = Duration::from_millis(250);
/// Descriptors that are kept to accept clients with when there are no others.
const SPARE: usize = 16;
/// The same for each of the operators' listeners.
const OPERATORS_SPARE: usize = 4;
/// The log is not told of a trouble that goes on more often than that.
const REMINDER: Duration = Duration::from_secs(10);

/// The door of one listener.
pub struct Door<A> {
    app: Arc<A>,
    cap: Option<Arc<Cap>>,
    /// Tells who finds no room that there is none.
    overflow: Option<Overflow<A>>,
    /// Those who can make room.
    idle: Option<Arc<Idle>>,
    spares: Arc<Spares>,
}

/// Where those are told who find no room.
struct Overflow<A> {
    app: Arc<A>,
    cap: Arc<Cap>,
    /// Lets the one go that came first: the crowd is silent, who asks after our health says so at once.
    leave: Arc<Notify>,
}

impl<A> Clone for Overflow<A> {
    fn clone(&self) -> Overflow<A> {
        Overflow {
            app: self.app.clone(),
            cap: self.cap.clone(),
            leave: self.leave.clone(),
        }
    }
}

impl<A> Overflow<A> {
    /// Lets one more in; those who wait make room from half of the cap on.
    fn admit(&self) -> Option<Claim> {
        if self.cap.taken() >= self.cap.most() / 2 {
            self.leave.notify_one();
        }
        self.cap.take(1)
    }
}

impl<A> Clone for Door<A> {
    fn clone(&self) -> Door<A> {
        Door {
            app: self.app.clone(),
            cap: self.cap.clone(),
            overflow: self.overflow.clone(),
            idle: self.idle.clone(),
            spares: self.spares.clone(),
        }
    }
}

impl<A> Door<A> {
    /// A door that is open to everyone: behind it is what only this process calls.
    pub fn open(app: Arc<A>) -> Door<A> {
        Door {
            app,
            cap: None,
            overflow: None,
            idle: None,
            spares: Spares::new(0),
        }
    }

    /// The clients' door: within the cap to `app`, beyond it to `overflow`, which refuses.
    pub fn clients(app: Arc<A>, overflow: Arc<A>, idle: Arc<Idle>, caps: &Caps) -> Door<A> {
        Door {
            app,
            cap: Some(caps.connections.clone()),
            overflow: Some(Overflow {
                app: overflow,
                cap: caps.overflow.clone(),
                leave: Arc::default(),
            }),
            idle: Some(idle),
            spares: Spares::new(SPARE),
        }
    }

    /// The operators' door, with a cap of its own: what clients do does not close it.
    pub fn operators(app: Arc<A>, caps: &Caps) -> Door<A> {
        Door {
            app,
            cap: Some(caps.operators.clone()),
            overflow: None,
            idle: None,
            spares: Spares::new(OPERATORS_SPARE),
        }
    }

    /// Lets a connection in, which may be on a spare descriptor; `None` if it is to be closed.
    pub fn admit(&self, loan: Option<Loan>) -> Option<Guest<A>> {
        let claim = match &self.cap {
            Some(cap) => {
                if cap.taken() >= cap.most() - cap.most() / 16 {
                    self.make_room();
                }
                cap.take(1)
            }
            None => None,
        };
        let beyond = self.cap.is_some() && claim.is_none();
        let within = match (&loan, beyond) {
            (Some(_), _) => Some(AT_ONCE),
            (None, true) => Some(BRIEFLY),
            (None, false) => None,
        };
        let (app, claim, leave) = match &self.overflow {
            Some(overflow) if within.is_some() => {
                let claim = overflow.admit()?;
                (&overflow.app, Some(claim), Some(overflow.leave.clone()))
            }
            _ if beyond => return None,
            _ => (&self.app, claim, None),
        };
        Some(Guest {
            app: app.clone(),
            within,
            leave,
            _claim: claim,
            _loan: loan,
        })
    }

    /// Closes connections that nobody uses at this moment.
    pub fn make_room(&self) {
        if let Some(idle) = &self.idle {
            idle.release();
        }
    }

    /// Gives a descriptor back to the system, so that one more connection can be accepted.
    pub fn spare(&self) -> Option<Loan> {
        self.spares.lend()
    }

    /// Takes the spare descriptors again that could not be had when they were due.
    pub fn replenish(&self) {
        Spares::replenish(&mut self.spares.state());
    }
}

/// A connection that was let in: it keeps its place for as long as this lives.
pub struct Guest<A> {
    /// What serves it.
    pub app: Arc<A>,
    /// How long, where that is limited.
    pub within: Option<Duration>,
    /// Tells it to make room for another, where it may be told.
    pub leave: Option<Arc<Notify>>,
    _claim: Option<Claim>,
    _loan: Option<Loan>,
}

/// Descriptors that are held for nothing but to be let go: without one, who asks after our health
/// when there are none could not even be accepted.
struct Spares(Mutex<State>);

struct State {
    held: Vec<File>,
    lent: usize,
    most: usize,
}

impl Spares {
    fn new(most: usize) -> Arc<Spares> {
        let mut state = State {
            held: Vec::new(),
            lent: 0,
            most,
        };
        Spares::replenish(&mut state);
        Arc::new(Spares(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(self: &Arc<Self>) -> Option<Loan> {
        let mut state = self.state();
        drop(state.held.pop()?);
        state.lent += 1;
        Some(Loan(self.clone()))
    }

    fn replenish(state: &mut State) {
        while state.held.len() + state.lent < state.most {
            match File::open("/dev/null") {
                Ok(file) => state.held.push(file),
                Err(_) => return,
            }
        }
    }
}

/// A spare descriptor that was let go; dropped, it is taken again.
pub struct Loan(Arc<Spares>);

impl Loan {
    /// Takes it again at once; `None` if that worked: the connection has a descriptor of its own then.
    pub fn needed(self) -> Option<Loan> {
        let file = File::open("/dev/null").ok();
        match file {
            Some(file) => {
                self.0.state().held.push(file);
                None
            }
            None => Some(self),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.lent -= 1;
        Spares::replenish(&mut state);
    }
}

/// A trouble that goes on: told when it begins, and then now and then.
#[derive(Default)]
pub struct Trouble {
    on: bool,
    told: Option<Instant>,
    untold: u64,
}

impl Trouble {
    /// It happened again.
    pub fn again(&mut self, error: &Error) {
        self.on = true;
        self.untold += 1;
        let now = Instant::now();
        if self.told.is_some_and(|told| now - told < REMINDER) {
            return;
        }
        self.told = Some(now);
        let times = std::mem::take(&mut self.untold);
        log::warn!("cannot accept connections ({times} times): {error}");
    }

    /// It is over; true if there was any.
    pub fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.on)
    }
}
