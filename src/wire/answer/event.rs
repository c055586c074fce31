//! The payload of one event of a stream, read in one pass.

use std::ops::Range;

use crate::wire::json::{Cursor, JsonError, Kind};

/// The value of a `usage` member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UsageMember {
    /// There is none.
    #[default]
    Absent,
    /// `null`: the provider will report later.
    Null,
    /// The object's place, braces included.
    Object(Range<usize>),
    /// Something that is no usage.
    Other,
}

/// What the gateway wants to know of an event. Ranges are bytes of the payload; those of
/// models include the quotes, that of `kind` does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventScan {
    /// The whole payload is one JSON object. If not, the rest tells only of its beginning.
    pub complete: bool,
    /// Top-level `type`, a string.
    pub kind: Option<Range<usize>>,
    /// Top-level `model`, a string.
    pub model: Option<Range<usize>>,
    /// `response.model`, a string.
    pub response_model: Option<Range<usize>>,
    /// `message.model`, a string.
    pub message_model: Option<Range<usize>>,
    /// Top-level `usage`.
    pub usage: UsageMember,
    /// `response.usage`.
    pub response_usage: UsageMember,
    /// `message.usage`.
    pub message_usage: UsageMember,
    /// `choices` is an array without elements.
    pub no_choices: bool,
    /// Some `choices[].finish_reason` is a string.
    pub finished: bool,
    /// Some of `choices` carries a part of its answer, be it text, a thought or a call.
    pub content: bool,
    /// A top-level `error` that is not null.
    pub error: bool,
}

/// Reads one payload. Anything else than a JSON object gives the default.
pub fn scan_event(payload: &[u8]) -> EventScan {
    let mut scan = EventScan::default();
    let mut cursor = Cursor::lenient(payload);
    cursor.space();
    let read = cursor.object(&mut |cursor, key| {
        match payload.get(key) {
            Some(b"type") => {
                scan.kind = text(cursor)?.map(|quoted| quoted.start + 1..quoted.end - 1)
            }
            Some(b"model") => scan.model = text(cursor)?,
            Some(b"usage") => scan.usage = usage(cursor)?,
            Some(b"error") => scan.error = cursor.value()?.1 != Kind::Null,
            Some(b"choices") => choices(payload, cursor, &mut scan)?,
            Some(b"response") => {
                inner(
                    payload,
                    cursor,
                    &mut scan.response_model,
                    &mut scan.response_usage,
                )?;
            }
            Some(b"message") => {
                inner(
                    payload,
                    cursor,
                    &mut scan.message_model,
                    &mut scan.message_usage,
                )?;
            }
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    });
    scan.complete = read.is_ok() && cursor.at_end();
    scan
}

fn text(cursor: &mut Cursor<'_>) -> Result<Option<Range<usize>>, JsonError> {
    let (range, kind) = cursor.value()?;
    Ok((kind == Kind::String).then_some(range))
}

fn usage(cursor: &mut Cursor<'_>) -> Result<UsageMember, JsonError> {
    Ok(match cursor.value()? {
        (range, Kind::Object) => UsageMember::Object(range),
        (_, Kind::Null) => UsageMember::Null,
        _ => UsageMember::Other,
    })
}

fn inner(
    payload: &[u8],
    cursor: &mut Cursor<'_>,
    model: &mut Option<Range<usize>>,
    reported: &mut UsageMember,
) -> Result<(), JsonError> {
    if cursor.peek() != Some(b'{') {
        cursor.value()?;
        return Ok(());
    }
    cursor.object(&mut |cursor, key| {
        match payload.get(key) {
            Some(b"model") => *model = text(cursor)?,
            Some(b"usage") => *reported = usage(cursor)?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn choices(payload: &[u8], cursor: &mut Cursor<'_>, scan: &mut EventScan) -> Result<(), JsonError> {
    if cursor.peek() != Some(b'[') {
        cursor.value()?;
        return Ok(());
    }
    scan.no_choices = true;
    cursor.array(&mut |cursor| {
        scan.no_choices = false;
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Ok(());
        }
        cursor.object(&mut |cursor, key| {
            match payload.get(key) {
                Some(b"delta") if cursor.peek() == Some(b'{') => delta(payload, cursor, scan)?,
                Some(b"text") => scan.content |= says(cursor)?,
                Some(b"finish_reason") => scan.finished |= text(cursor)?.is_some(),
                _ => {
                    cursor.value()?;
                }
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

/// A delta: every member but the role may be a part of the answer, if there is anything in it.
fn delta(payload: &[u8], cursor: &mut Cursor<'_>, scan: &mut EventScan) -> Result<(), JsonError> {
    cursor.object(&mut |cursor, key| {
        let counts = payload.get(key) != Some(b"role");
        scan.content |= says(cursor)? && counts;
        Ok(())
    })?;
    Ok(())
}

/// Whether a value says anything: an empty text, list or object does not.
fn says(cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    Ok(match cursor.value()? {
        (range, Kind::String | Kind::Array | Kind::Object) => range.len() > 2,
        _ => false,
    })
}
