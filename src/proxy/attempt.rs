//! One attempt at a provider, and what is told of how it ended: to the metrics, to the upstream's health, to its keys.

use crate::record::metrics::AttemptEnd;
use crate::record::recorder::Recorder;
use crate::upstream::Provider;
use crate::upstream::dial::Dial;
use crate::upstream::turn::{Changes, Found, Turn};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One attempt at a provider.
pub struct Attempt {
    /// Who.
    pub provider: Arc<Provider>,
    /// Its place in the configuration's list.
    pub place: usize,
    /// The model's name there.
    pub model: Arc<str>,
    /// Which bit of [`super::context::Forward::tried`] is its.
    pub bit: u64,
    /// Which of the provider's keys it goes with.
    pub key: usize,
    /// Its place among the requests there.
    pub turn: Turn,
    /// When the provider was chosen, by the clock that times its silence.
    pub chosen: Instant,
    /// How its connection came about, if Pingora did not make it.
    pub dial: Option<Arc<Dial>>,
    /// The usage chunk was asked for by us, not by the client.
    pub injected: bool,
    /// How it ended, once that is known.
    pub ended: Option<AttemptEnd>,
    /// The status that it ended with, if it was one.
    pub status: Option<u16>,
}

impl Attempt {
    /// A good answer has begun.
    pub fn begins(&mut self, recorder: &Recorder) {
        let now = Instant::now();
        let live = self.turn.live();
        live.latency.add(now - self.chosen, now.into_std());
        let changes = self.turn.begins(now.into_std());
        self.tell(recorder, changes);
    }

    /// There is a connection.
    pub fn connected(&mut self, recorder: &Recorder) {
        let changes = self.turn.connected(Instant::now().into_std());
        self.tell(recorder, changes);
    }

    /// It has ended; only the first word counts.
    pub fn end(&mut self, recorder: &Recorder, end: AttemptEnd) {
        self.end_with(recorder, end, None, None);
    }

    /// The same of an answer with this status, that may tell how long the key has to rest.
    pub fn end_with(
        &mut self,
        recorder: &Recorder,
        end: AttemptEnd,
        status: Option<u16>,
        wait: Option<Duration>,
    ) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(end);
        self.status = status;
        recorder.attempt(self.place, end);
        let now = Instant::now().into_std();
        let (keys, name) = (&self.provider.keys, &self.provider.name);
        let nth = self.key + 1;
        let found = match end {
            AttemptEnd::Ok | AttemptEnd::ClientError => {
                let refused = keys.refused_ones();
                keys.good(self.key, self.chosen.into_std());
                if refused > 0 {
                    recorder.upstreams().keys_refused(name, keys.refused_ones());
                }
                Found::Answers
            }
            AttemptEnd::Auth => {
                // A 403 may be about the request: what it asks for, or from where.
                let certain = status == Some(401);
                let rest = keys.refused(self.key, certain, now).as_secs();
                log::error!(
                    "provider {name}: key {nth} of {} was refused; check it (set aside for {rest} s)",
                    keys.count()
                );
                recorder.upstreams().keys_refused(name, keys.refused_ones());
                Found::Answers
            }
            AttemptEnd::RateLimited => {
                let rest = keys.limited(self.key, wait, now).as_secs_f64();
                log::warn!(
                    "provider {name}: key {nth} of {} is limited; it rests for {rest:.1} s",
                    keys.count()
                );
                Found::Answers
            }
            AttemptEnd::ServerError | AttemptEnd::Timeout | AttemptEnd::Broken => Found::Fails,
            AttemptEnd::Unreachable => Found::Unreachable,
            // The connection was of an earlier time, or nobody waited for what would have come.
            AttemptEnd::Stale | AttemptEnd::ClientGone => return,
        };
        let changes = self.turn.found(found, now);
        self.tell(recorder, changes);
    }

    fn tell(&self, recorder: &Recorder, changes: Changes) {
        let live = self.turn.live();
        if let Some(change) = changes.provider {
            recorder.upstreams().changed(&live.provider, "", change);
        }
        if let Some(change) = changes.upstream {
            recorder
                .upstreams()
                .changed(&live.provider, &live.model, change);
        }
    }
}
