//! Those who ask Redis at the same moment, asked in one call: what a call costs by itself, here and there, and what Redis
//! has to read and to write of an account, is shared by all of them.
//!
//! Whoever comes while fewer than [`CALLS`] calls are under way is sent at once; the others wait until one of them is
//! answered, and go together. Ended requests of plans that limit requests at once do not wait for that: they go at the end
//! of this turn of the event loop, and take along whoever waits, so that who asks again after the last byte of an answer,
//! here or at another node, finds the place free. In a cluster a call is about one account, and nobody waits for the
//! call of another.

mod group;

use super::Ask;
use super::redis::{Answer, LIFE, Shared, understood};
use super::settling::{Ended, Settling, corrections};
use crate::record::limits::Function;
use crate::store::link::{Away, DEADLINE};
use crate::store::part::Part;
use ahash::AHashMap;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all, ready};
use group::{Group, Rider, text};
use redis::{Cmd, Value, cmd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

/// So many calls are under way at a time, but for those that ends cannot wait for.
const CALLS: usize = 1;

/// Groups of one call at most: Redis does nothing else meanwhile, and answers all at its end.
const GROUPS: usize = 16;

/// Admissions on their way to Redis.
pub(super) struct Joined {
    shared: Arc<Shared>,
    settling: Arc<Settling>,
    waiting: Mutex<Waiting>,
    /// Who has it puts a call on the connection.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    groups: Vec<Group>,
    /// Where the last one of a subject stands, and the last one where parts of this kind ask.
    places: AHashMap<(u128, Option<usize>), usize>,
    /// Tasks that send what waits, one call after the other.
    senders: usize,
    /// One will, at the end of this turn.
    rushing: bool,
}

/// A part whose question is on its way.
struct Asked<'a>(Option<&'a mut dyn Part>);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(part) = self.0.take() {
            part.unanswered();
        }
    }
}

impl Joined {
    pub(super) fn new(shared: Arc<Shared>, settling: Arc<Settling>) -> Joined {
        Joined {
            shared,
            settling,
            waiting: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Asks for one request, held as `id` if its end matters, tells of what ended before it, and asks what
    /// comes with it: true if that agrees.
    pub(super) async fn admit(
        self: &Arc<Self>,
        ask: &Ask,
        id: Option<u64>,
        ended: &[Ended],
        mut part: Option<&mut dyn Part>,
    ) -> Result<(Answer, bool), Away> {
        let link = self.shared.link();
        if !link.up() {
            return Err(Away::Down);
        }
        let (answer, told) = oneshot::channel();
        let rider = Rider {
            estimate: ask.limits.charged(ask.estimate),
            id: id.unwrap_or_default(),
            part: part.as_mut().map_or([0; 3], |part| part.ask()),
            answer,
        };
        // No part has its kind where there is none.
        let kind = part.as_deref().map_or(0, Part::kind);
        self.put(ask, Some(kind), part.as_deref(), |group| {
            group.riders.push(rider);
            group.along.extend(corrections(ended).cloned());
        });
        // Also if nobody waits for the answer any more.
        let mut asked = Asked(part);
        let told = match timeout(DEADLINE, told).await {
            Ok(Ok(told)) => told,
            // Whoever sends has been ended: the process ends.
            Ok(Err(_)) => Err(Away::Failed),
            Err(_) => Err(Away::TimedOut),
        };
        if matches!(told, Err(Away::TimedOut)) {
            link.late();
        }
        let told = told?;
        let both = understood(told.limits, &ask.limits).and_then(|answer| {
            let Some(part) = &mut asked.0 else {
                return Some((answer, true));
            };
            let granted = answer.fired.is_none();
            let agreed = part.read(told.part.as_ref()?, granted)?;
            asked.0 = None;
            Some((answer, agreed))
        });
        both.ok_or_else(|| link.misunderstood())
    }

    /// Tells of a request that has ended.
    pub(super) fn end(self: &Arc<Self>, ask: Ask, ended: Ended) {
        if Handle::try_current().is_err() {
            return self.settling.later(ask, vec![ended]);
        }
        self.put(&ask, None, None, |group| group.ended.push(ended));
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the group where it belongs, and sees to it that somebody sends that.
    fn put(
        self: &Arc<Self>,
        ask: &Ask,
        kind: Option<usize>,
        part: Option<&dyn Part>,
        fill: impl FnOnce(&mut Group),
    ) {
        let cluster = self.shared.link().is_cluster();
        let mut waiting = self.waiting();
        let ends = waiting.fill(ask, kind, part, fill);
        if waiting.senders < CALLS {
            waiting.senders += 1;
            drop(waiting);
            tokio::spawn(self.clone().send());
        } else if (ends || cluster) && !waiting.rushing {
            waiting.rushing = true;
            drop(waiting);
            tokio::spawn(self.clone().rush());
        }
    }

    /// Sends what waits, until nothing does.
    async fn send(self: Arc<Self>) {
        while let Some(sending) = self.begin(Waiting::next) {
            sending.await;
        }
    }

    /// Sends what waits at the end of this turn.
    async fn rush(self: Arc<Self>) {
        yield_now().await;
        if let Some(sending) = self.begin(Waiting::rushed) {
            sending.await;
        }
    }

    /// Takes what waits and puts it on the connection, as one step: nobody overtakes who came before.
    fn begin(&self, take: fn(&mut Waiting) -> Option<Vec<Group>>) -> Option<BoxFuture<'_, ()>> {
        let _one = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = take(&mut self.waiting())?;
        let mut sending = self.deliver(groups).boxed();
        // The first poll hands the call to the connection.
        match (&mut sending).now_or_never() {
            Some(()) => Some(ready(()).boxed()),
            None => Some(sending),
        }
    }

    async fn deliver(&self, mut groups: Vec<Group>) {
        let most = match self.shared.link().is_cluster() {
            true => 1,
            false => GROUPS,
        };
        if groups.len() <= most {
            return self.call(groups).await;
        }
        let mut calls = Vec::new();
        while !groups.is_empty() {
            let rest = groups.split_off(groups.len().min(most));
            calls.push(self.call(std::mem::replace(&mut groups, rest)));
        }
        join_all(calls).await;
    }

    async fn call(&self, mut groups: Vec<Group>) {
        groups.retain_mut(Group::is_wanted);
        if groups.is_empty() {
            return;
        }
        let asked = groups.iter().any(|group| !group.riders.is_empty());
        // How one fails that nobody waits for says nothing of Redis.
        let function = match asked {
            true => Function::Admit,
            false => Function::Settle,
        };
        let call = self.written(&mut groups);
        let link = self.shared.link();
        let why = match link.call(function, &call).await {
            Ok(Value::Array(said)) if said.len() == groups.len() => {
                for (group, said) in groups.into_iter().zip(&said) {
                    self.answer(group, said);
                }
                return;
            }
            Ok(_) => link.misunderstood(),
            Err(why) => why,
        };
        for group in groups {
            self.fail(group, why);
        }
    }

    fn written(&self, groups: &mut [Group]) -> Cmd {
        let mut call = cmd("FCALL");
        let keys: usize = groups.iter().map(Group::keys).sum();
        call.arg(self.shared.admission()).arg(keys);
        for group in &*groups {
            let subject = &group.ask.subject;
            call.arg(self.shared.key(subject, "l"))
                .arg(self.shared.key(subject, "h"));
            if let Some(common) = &group.common {
                common.key(&mut call);
            }
        }
        self.shared.now(&mut call);
        call.arg(self.shared.holds()).arg(LIFE.as_millis() as u64);
        for group in groups {
            group.write(&self.shared, &mut call);
        }
        call
    }

    fn answer(&self, group: Group, said: &Value) {
        let link = self.shared.link();
        let why = match said {
            Value::Array(said) if group.ends_with(said) => return group.tell(said),
            Value::Array(_) => link.misunderstood(),
            said => match text(said) {
                Some(text) => link.unreadable(Function::Admit, text),
                None => link.misunderstood(),
            },
        };
        self.fail(group, why);
    }

    fn fail(&self, group: Group, why: Away) {
        let mut heard = false;
        for rider in group.riders {
            heard |= rider.answer.send(Err(why)).is_ok();
        }
        // Whoever hears it sees to that, if anybody is left.
        if let Some(common) = group.common.filter(|_| !heard) {
            common.unanswered();
        }
        self.settling.again(group.ask, group.ended);
    }
}

impl Waiting {
    /// Says whether it must not wait. `kind` is who asks; nobody does for what has ended.
    fn fill(
        &mut self,
        ask: &Ask,
        kind: Option<usize>,
        part: Option<&dyn Part>,
        fill: impl FnOnce(&mut Group),
    ) -> bool {
        let subject = ask.subject.id;
        let own = self.places.get(&(subject, kind)).copied();
        // Ended requests go along with whoever asks, and whoever asks with them.
        let any = self.places.get(&(subject, None)).copied();
        let alone = any.filter(|place| self.groups.get(*place).is_some_and(Group::asks_nothing));
        let place = own.or(alone).filter(|place| {
            let group = self.groups.get(*place);
            group.is_some_and(|group| group.has_room(&ask.limits))
        });
        let place = place.unwrap_or_else(|| {
            self.groups.push(Group::new(ask.clone()));
            self.groups.len() - 1
        });
        self.places.insert((subject, None), place);
        self.places.insert((subject, kind), place);
        let Some(group) = self.groups.get_mut(place) else {
            return false;
        };
        if let Some(part) = part
            && group.common.is_none()
        {
            group.common = Some(part.common());
        }
        fill(group);
        !group.ended.is_empty()
    }

    /// What the next call says; nothing more for this task to do if there is nothing to say.
    fn next(&mut self) -> Option<Vec<Group>> {
        if self.groups.is_empty() {
            self.senders -= 1;
            return None;
        }
        Some(self.take())
    }

    fn rushed(&mut self) -> Option<Vec<Group>> {
        self.rushing = false;
        (!self.groups.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Vec<Group> {
        self.places.clear();
        std::mem::take(&mut self.groups)
    }
}
