//! What a hostile provider answers with, and what may come of it.

use clap::ValueEnum;

/// Before and behind an attack in a prompt.
const OPEN: &str = "[attack ";
const CLOSE: char = ']';

/// A way to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Attack {
    /// Bytes that are no HTTP.
    Garbage,
    /// A header of 1 MiB.
    LongHeader,
    /// A header of 1,000 fields.
    ManyFields,
    /// One byte of a header a second.
    SlowHeader,
    /// `100 Continue`, as often as it can.
    Interim,
    /// One line of 64 MiB in a stream.
    LongLine,
    /// Events that are none, and no end.
    BrokenEvents,
    /// 256 MiB in less than 2, with `content-encoding: gzip`.
    Bomb,
    /// A stream without end, as fast as it can.
    Endless,
    /// One byte of a body a second.
    SlowBody,
    /// A body of 64 MiB with its length.
    LongBody,
    /// The same in chunks.
    LongChunks,
    /// A body that is longer than its length says: behind it comes an answer that nobody asked for.
    ShortLength,
    /// A body that is shorter than its length says.
    LongLength,
    /// To another server on this machine.
    Redirect,
    /// Usage that cannot be: negative, text, not a number, beyond all bounds.
    Usage,
    /// Usage that could be, and is beyond what was asked for.
    LargeUsage,
    /// A good answer: none at all.
    Behave,
}

/// What an attack answers: text or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON text.
    Text,
    /// Events.
    Stream,
}

impl Attack {
    /// In the order of the run.
    pub const ALL: [Attack; 17] = [
        Attack::Garbage,
        Attack::LongHeader,
        Attack::ManyFields,
        Attack::SlowHeader,
        Attack::Interim,
        Attack::LongLine,
        Attack::BrokenEvents,
        Attack::Bomb,
        Attack::Endless,
        Attack::SlowBody,
        Attack::LongBody,
        Attack::LongChunks,
        Attack::ShortLength,
        Attack::LongLength,
        Attack::Redirect,
        Attack::Usage,
        Attack::LargeUsage,
    ];

    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Garbage => "garbage instead of HTTP",
            Attack::LongHeader => "header of 1 MiB",
            Attack::ManyFields => "1,000 header fields",
            Attack::SlowHeader => "header, 1 byte/s",
            Attack::Interim => "endless 100 Continue",
            Attack::LongLine => "line of 64 MiB",
            Attack::BrokenEvents => "broken events, no end",
            Attack::Bomb => "gzip bomb",
            Attack::Endless => "endless stream",
            Attack::SlowBody => "body, 1 byte/s",
            Attack::LongBody => "body of 64 MiB, with its length",
            Attack::LongChunks => "body of 64 MiB, in chunks",
            Attack::ShortLength => "content-length too short",
            Attack::LongLength => "content-length too long",
            Attack::Redirect => "302",
            Attack::Usage => "usage that cannot be",
            Attack::LargeUsage => "usage beyond what was asked",
            Attack::Behave => "a good answer",
        }
    }

    /// What a request asks for: both in turns, where the attack has both.
    pub fn form(self, number: u64) -> Form {
        match self {
            Attack::LongLine | Attack::BrokenEvents | Attack::Endless => Form::Stream,
            Attack::LongBody
            | Attack::LongChunks
            | Attack::ShortLength
            | Attack::LongLength
            | Attack::Behave => Form::Text,
            _ if number.is_multiple_of(2) => Form::Stream,
            _ => Form::Text,
        }
    }

    /// Whether a client may get a whole answer: nothing in these is beyond a limit.
    pub fn may_be_whole(self) -> bool {
        matches!(
            self,
            Attack::ManyFields
                | Attack::ShortLength
                | Attack::Usage
                | Attack::LargeUsage
                | Attack::Behave
        )
    }

    /// As it stands in a prompt, with the request's number.
    pub fn mark(self, number: u64) -> String {
        let value = self.to_possible_value();
        let name = value.as_ref().map_or("", |value| value.get_name());
        format!("{OPEN}{name} {number}{CLOSE}")
    }

    /// Finds the one in a body.
    pub fn find(body: &[u8]) -> Option<(Attack, u64)> {
        let body = std::str::from_utf8(body).ok()?;
        let (_, rest) = body.split_once(OPEN)?;
        let (mark, _) = rest.split_once(CLOSE)?;
        let (name, number) = mark.split_once(' ')?;
        let attack = Attack::from_str(name, false).ok()?;
        Some((attack, number.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_found_in_a_body() {
        for attack in Attack::ALL {
            let body = format!(r#"{{"content":"Do. {} x"}}"#, attack.mark(17));
            assert_eq!(Attack::find(body.as_bytes()), Some((attack, 17)));
        }
        for wrong in ["", "[attack ]", "[attack garbage]", "[attack nothing 4]"] {
            assert_eq!(Attack::find(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
