//! The rules of each kind of event stream.
//!
//! Nearly every event is a small delta in which nothing matters, so a few substring searches
//! decide whether an event is worth a scan.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::Form;
use super::output::Output;
use super::sse::{DEFAULT_LIMIT, Layout, PICTURE_LIMIT, Piece, SseSplit, TooLong};
use super::usage::{PartialUsage, Shape, parse};
use crate::wire::answer::{EventScan, Rename, UsageMember, scan_event};

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));
static COMPLETED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b".completed\""));
static RESPONSE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"response\""));

/// One stream of events, cut, read and put into strict form.
#[derive(Debug)]
pub(super) struct Stream {
    split: SseSplit,
    rules: Rules,
}

#[derive(Debug)]
struct Rules {
    form: Form,
    shape: Shape,
    /// With the public name as a JSON string.
    rename: Option<(Rename, Vec<u8>)>,
    strip_usage_chunk: bool,
    fields: PartialUsage,
    /// A `message_delta` has told the final output of a message.
    has_final_usage: bool,
    hostile: bool,
    ended: bool,
    failed: bool,
    events: u64,
    /// Those of them that carry a part of the answer.
    deltas: u64,
    /// Pictures that came whole.
    images: u64,
    finished: bool,
    /// An event that is none of chat, messages or Responses told of an error.
    error_event: bool,
}

/// What becomes of an event.
enum Verdict {
    Keep,
    Drop,
    /// This range of it becomes the public model name.
    Rename(Range<usize>),
}

impl Stream {
    /// The form of the events.
    pub(super) const fn form(&self) -> Form {
        self.rules.form
    }

    pub(super) fn new(
        form: Form,
        shape: Shape,
        rename: Option<Rename>,
        strip_usage_chunk: bool,
    ) -> Self {
        let rename = rename.map(|rename| {
            let encoded = rename.encoded();
            (rename, encoded)
        });
        let rules = Rules {
            form,
            shape,
            rename,
            strip_usage_chunk,
            fields: PartialUsage::default(),
            has_final_usage: false,
            hostile: false,
            ended: false,
            failed: false,
            events: 0,
            deltas: 0,
            images: 0,
            finished: false,
            error_event: false,
        };
        let limit = match form {
            Form::ResponsesSse | Form::OtherSse => PICTURE_LIMIT,
            _ => DEFAULT_LIMIT,
        };
        Self {
            split: SseSplit::new(limit),
            rules,
        }
    }

    pub(super) fn push(&mut self, chunk: Bytes) -> Result<Bytes, TooLong> {
        let mut out = Output::new(&chunk);
        let rules = &mut self.rules;
        self.split.split(&chunk, &mut |piece| match piece {
            Piece::Inside(range) => {
                let raw = chunk.get(range.clone()).unwrap_or_default();
                rules.pass(raw, Some(range), &mut out);
            }
            Piece::Joined(raw) => rules.pass(&raw, None, &mut out),
        })?;
        Ok(match out.end() {
            Ok(copied) => copied,
            Err(kept) if kept == (0..chunk.len()) => chunk,
            Err(kept) => chunk.slice(kept),
        })
    }

    pub(super) fn finish(&mut self) -> Bytes {
        self.rules.finished = true;
        let mut tail = self.split.take_tail();
        let ends_line = tail.ends_with(b"\n") || tail.ends_with(b"\r");
        let length = tail.trim_ascii_end().len();
        tail.truncate(length);
        let layout = Layout::read(&tail);
        let is_whole = match layout.data(&tail) {
            Some(data) if data.starts_with(b"{") => scan_event(&data).complete,
            Some(data) => ends_line || *data == *b"[DONE]",
            None => ends_line,
        };
        // Half an event must not reach the client: what follows would be read as its rest.
        if length == 0 || !is_whole {
            return Bytes::new();
        }
        tail.extend_from_slice(b"\n\n");
        let mut out = Output::new(&[]);
        self.rules.pass(&tail, None, &mut out);
        out.end().unwrap_or_default()
    }

    pub(super) const fn failed(&self) -> bool {
        self.rules.failed
    }

    pub(super) fn ended(&self) -> bool {
        self.rules.ended || self.rules.form == Form::OtherSse
    }

    pub(super) fn usage_is_final(&self) -> bool {
        self.ended() || self.rules.has_final_usage
    }

    pub(super) fn fields(&self) -> PartialUsage {
        self.rules.fields
    }

    pub(super) fn hostile(&self) -> bool {
        self.rules.hostile
    }

    pub(super) fn events(&self) -> u64 {
        self.rules.events
    }

    pub(super) fn deltas(&self) -> u64 {
        self.rules.deltas
    }

    /// Pictures that came whole in a stream that came to its end. None at all is not believed: the
    /// provider may name its events in a way of its own.
    pub(super) fn images(&self) -> Option<u64> {
        let rules = &self.rules;
        Some(rules.images).filter(|count| rules.finished && (*count > 0 || rules.error_event))
    }

    pub(super) fn discard_partial(&mut self) {
        self.split.take_tail();
    }
}

impl Rules {
    /// Reads one event and writes what becomes of it; `place` is where it lies in the chunk.
    fn pass(&mut self, raw: &[u8], place: Option<Range<usize>>, out: &mut Output<'_>) {
        let keep_event_lines = self.form != Form::ChatSse;
        let layout = Layout::read(raw);
        if layout.is_strict(keep_event_lines) {
            return self.apply(raw, &layout, place, out);
        }
        // The name of the event is lost with its line, and chat has no use for it.
        if let Some(strict) = layout.normalized(raw, keep_event_lines) {
            let layout = Layout::read(&strict);
            self.apply(&strict, &layout, None, out);
        }
    }

    fn apply(
        &mut self,
        raw: &[u8],
        layout: &Layout,
        place: Option<Range<usize>>,
        out: &mut Output<'_>,
    ) {
        match (self.judge(raw, layout), place) {
            (Verdict::Drop, _) => {}
            (Verdict::Keep, Some(range)) => out.keep(range),
            (Verdict::Keep, None) => {
                out.flush();
                out.write(raw);
            }
            (Verdict::Rename(range), _) => {
                out.flush();
                out.write(raw.get(..range.start).unwrap_or_default());
                out.write(self.rename.as_ref().map_or(&[], |(_, public)| public));
                out.write(raw.get(range.end..).unwrap_or_default());
            }
        }
    }

    fn judge(&mut self, raw: &[u8], layout: &Layout) -> Verdict {
        let Some(data) = layout.data(raw) else {
            return Verdict::Keep;
        };
        if self.form == Form::ChatSse && data.trim_ascii() == b"[DONE]" {
            self.ended = true;
            return Verdict::Keep;
        }
        let name = layout.event(raw);
        let mut content = self.carries_content(name.unwrap_or_default());
        let model = if self.is_worth_a_scan(&data, name) {
            let scan = scan_event(&data);
            // Of a payload that is no JSON, only the name of the event tells.
            let scan = if scan.complete {
                scan
            } else {
                EventScan::default()
            };
            if self.read(&data, name, &scan) {
                return Verdict::Drop;
            }
            content = match self.form {
                Form::ChatSse => scan.content,
                _ => content || self.carries_content(kind_of(&data, name, &scan)),
            };
            self.model_to_replace(&data, &scan)
        } else {
            None
        };
        self.events += 1;
        self.deltas += u64::from(content);
        match model.and_then(|range| layout.locate(raw, range)) {
            Some(range) => Verdict::Rename(range),
            None => Verdict::Keep,
        }
    }

    /// Whether an event of this kind carries a part of the answer. Those of chat have no names: each
    /// of them counts that is not read and found empty, as the first ones and the last ones are.
    fn carries_content(&self, kind: &[u8]) -> bool {
        match self.form {
            Form::AnthropicSse => kind == b"content_block_delta",
            Form::ResponsesSse => kind.ends_with(b".delta"),
            _ => true,
        }
    }

    fn is_worth_a_scan(&self, data: &[u8], name: Option<&[u8]>) -> bool {
        match self.form {
            Form::ChatSse => {
                self.rename.is_some()
                    // The first ones often only name the role.
                    || self.deltas == 0
                    || has_value(&USAGE, data)
                    || (!self.ended && (has_value(&FINISH, data) || has_value(&ERROR, data)))
            }
            Form::AnthropicSse => match name {
                Some(
                    b"content_block_delta"
                    | b"content_block_start"
                    | b"content_block_stop"
                    | b"ping",
                ) => has_value(&USAGE, data),
                _ => true,
            },
            Form::ResponsesSse => name.is_none_or(ends_responses) || has_value(&RESPONSE, data),
            _ => {
                self.rename.is_some()
                    || has_value(&USAGE, data)
                    || name.is_some_and(|name| name == b"error" || name.ends_with(b".completed"))
                    || COMPLETED.find(data).is_some()
            }
        }
    }

    /// Takes from an event what matters; true if it is to be dropped.
    fn read(&mut self, data: &[u8], name: Option<&[u8]>, scan: &EventScan) -> bool {
        let kind = kind_of(data, name, scan);
        match self.form {
            Form::ChatSse => {
                self.ended |= scan.finished || scan.error;
                self.failed |= scan.error;
                self.note(data, &scan.usage);
                let only_usage = scan.no_choices && matches!(scan.usage, UsageMember::Object(_));
                return self.strip_usage_chunk && only_usage;
            }
            Form::AnthropicSse => {
                self.ended |= matches!(kind, b"message_stop" | b"error");
                self.failed |= kind == b"error";
                self.note(data, &scan.message_usage);
                self.note(data, &scan.usage);
                let reports = matches!(scan.usage, UsageMember::Object(_));
                self.has_final_usage |= kind == b"message_delta" && reports;
            }
            Form::ResponsesSse => {
                self.ended |= ends_responses(kind);
                self.failed |= matches!(kind, b"response.failed" | b"error");
                self.note(data, &scan.response_usage);
            }
            _ => {
                self.images += u64::from(matches!(
                    kind,
                    b"image_generation.completed" | b"image_edit.completed"
                ));
                self.error_event |= kind == b"error" || scan.error;
                self.note(data, &scan.usage);
            }
        }
        false
    }

    fn note(&mut self, data: &[u8], usage: &UsageMember) {
        let UsageMember::Object(range) = usage else {
            return;
        };
        let parsed = parse(data.get(range.clone()).unwrap_or_default(), self.shape);
        self.hostile |= parsed.hostile;
        if self.shape == Shape::Anthropic {
            // Cumulative, and later ones leave fields out.
            self.fields.merge(parsed.usage);
        } else if !parsed.usage.is_empty() {
            // The last one stands, whole.
            self.fields = parsed.usage;
        }
    }

    fn model_to_replace(&self, data: &[u8], scan: &EventScan) -> Option<Range<usize>> {
        let (rename, _) = self.rename.as_ref()?;
        let model = match self.form {
            Form::AnthropicSse => &scan.message_model,
            Form::ResponsesSse => &scan.response_model,
            _ => &scan.model,
        };
        let range = model.clone()?;
        rename.applies_to(data.get(range.clone())?).then_some(range)
    }
}

/// The kind of an event: what it calls itself, or what its line does.
fn kind_of<'a>(data: &'a [u8], name: Option<&'a [u8]>, scan: &EventScan) -> &'a [u8] {
    let own = scan.kind.clone().and_then(|range| data.get(range));
    own.or(name).unwrap_or_default()
}

fn ends_responses(kind: &[u8]) -> bool {
    let terminal: [&[u8]; 4] = [
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
        b"error",
    ];
    terminal.contains(&kind)
}

/// Whether the key that `finder` looks for has some other value than `null` here. Many
/// providers send `"usage":null` and `"finish_reason":null` with every delta.
fn has_value(finder: &Finder<'_>, data: &[u8]) -> bool {
    let mut rest = data;
    while let Some(at) = finder.find(rest) {
        rest = rest.get(at + finder.needle().len()..).unwrap_or_default();
        let value = rest.trim_ascii_start();
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii_start();
        if !value.starts_with(b"null") {
            return true;
        }
    }
    false
}
