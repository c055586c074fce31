//! Finds the `model` field of a `multipart/form-data` body while the body streams by.
//!
//! RFC 7578 and RFC 2046 §5.1. Only part headers and the one field's value are ever held. Strict on
//! purpose: where parsers are known to differ (folded headers, bare line feeds, a preamble or an
//! epilogue, transfer encodings, two boundaries), the model that we authorise and the one that the
//! provider runs could differ too, and no SDK sends any of that.

mod header;

use header::{boundary, is_model};
use memchr::memmem::Finder;
use std::ops::Range;

/// A part's headers may take so much; browsers and SDKs send under 300 bytes.
const MAX_PART_HEADER: usize = 8 << 10;
/// A model's name may take so much.
const MAX_MODEL: usize = 1 << 10;

/// The `model` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelField {
    /// Its value.
    pub value: String,
    /// Where the value stands in the body, in bytes from its start.
    pub span: Range<u64>,
}

/// What is wrong with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two `model` fields: whoever reads the other one serves another model.
    Repeated,
    /// A field whose name is `model` in another case or spelling.
    Variant,
    /// A part's header, or the model's name, is too long.
    TooLong,
    /// The model's name is not UTF-8, or has control characters.
    BadName,
    /// Not a multipart body with the boundary that its content type names.
    Malformed,
}

/// Reads the body piece by piece.
pub struct MultipartScan {
    content_type: String,
    /// `\r\n--boundary`.
    delimiter: Finder<'static>,
    place: Place,
    /// What was not decided yet: the beginning of it stands at `offset`.
    pending: Vec<u8>,
    offset: u64,
    model: Option<ModelField>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter, which must come at once.
    Start,
    /// Inside a part that is not the model's.
    Skipping,
    /// Right behind a delimiter.
    BehindDelimiter,
    /// In a part's headers.
    Header,
    /// In the model's value.
    Model,
    /// Behind the last delimiter.
    End,
}

impl MultipartScan {
    /// A scan of a body with this content type; `None` if it is no form with a plain boundary.
    pub fn new(content_type: &str) -> Option<MultipartScan> {
        let boundary = boundary(content_type)?;
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Some(MultipartScan {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            delimiter: Finder::new(&delimiter).into_owned(),
            place: Place::Start,
            // The first delimiter stands at the very start, without its line break: this stands in
            // for it.
            pending: b"\r\n".to_vec(),
            offset: 0u64.wrapping_sub(2),
            model: None,
        })
    }

    /// The content type in the one form that every parser reads alike.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The model's field, once it has been read whole.
    pub fn model(&self) -> Option<&ModelField> {
        self.model.as_ref()
    }

    /// The last delimiter has been seen.
    pub fn ended(&self) -> bool {
        self.place == Place::End
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// [`Fault`]; the body must not go further.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.pending.extend_from_slice(piece);
        while self.step()? {}
        Ok(())
    }

    /// One decision; false when more bytes are needed.
    fn step(&mut self) -> Result<bool, Fault> {
        let delimiter = self.delimiter.needle().len();
        match self.place {
            Place::End => match self.pending.iter().all(|byte| b"\r\n".contains(byte)) {
                true => {
                    self.consume(self.pending.len());
                    Ok(false)
                }
                false => Err(Fault::Malformed),
            },
            Place::Start => {
                let (have, want) = (self.pending.as_slice(), self.delimiter.needle());
                let common = have.len().min(want.len());
                if have.get(..common) != want.get(..common) {
                    return Err(Fault::Malformed);
                }
                if have.len() < want.len() {
                    return Ok(false);
                }
                self.consume(delimiter);
                self.place = Place::BehindDelimiter;
                Ok(true)
            }
            Place::Skipping => match self.delimiter.find(&self.pending) {
                Some(at) => {
                    self.consume(at + delimiter);
                    self.place = Place::BehindDelimiter;
                    Ok(true)
                }
                None => {
                    let keep = self.pending.len().min(delimiter - 1);
                    self.consume(self.pending.len() - keep);
                    Ok(false)
                }
            },
            Place::BehindDelimiter => match self.pending.get(..2) {
                None => Ok(false),
                Some(b"--") => {
                    self.consume(2);
                    self.place = Place::End;
                    Ok(true)
                }
                Some(b"\r\n") => {
                    // The line break stays: an empty header is then the same two breaks in a row.
                    self.place = Place::Header;
                    Ok(true)
                }
                Some(_) => Err(Fault::Malformed),
            },
            Place::Header => match memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                None if self.pending.len() > MAX_PART_HEADER => Err(Fault::TooLong),
                None => Ok(false),
                Some(end) if end > MAX_PART_HEADER => Err(Fault::TooLong),
                Some(end) => {
                    let named = is_model(self.pending.get(..end).unwrap_or_default())?;
                    if named && self.model.is_some() {
                        return Err(Fault::Repeated);
                    }
                    self.consume(end + 4);
                    self.place = match named {
                        true => Place::Model,
                        false => Place::Skipping,
                    };
                    Ok(true)
                }
            },
            Place::Model => match self.delimiter.find(&self.pending) {
                None if self.pending.len() > MAX_MODEL + delimiter => Err(Fault::TooLong),
                None => Ok(false),
                Some(at) if at > MAX_MODEL => Err(Fault::TooLong),
                Some(at) => {
                    let value = std::str::from_utf8(self.pending.get(..at).unwrap_or_default())
                        .map_err(|_| Fault::BadName)?;
                    if value.chars().any(char::is_control) {
                        return Err(Fault::BadName);
                    }
                    self.model = Some(ModelField {
                        value: value.to_owned(),
                        span: self.offset..self.offset + at as u64,
                    });
                    self.consume(at + delimiter);
                    self.place = Place::BehindDelimiter;
                    Ok(true)
                }
            },
        }
    }

    fn consume(&mut self, count: usize) {
        self.pending.drain(..count);
        self.offset = self.offset.wrapping_add(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=XX";

    fn part(name: &str, value: &str) -> String {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    fn file(value: &str) -> String {
        format!(
            "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\nContent-Type: audio/mpeg\r\n\r\n{value}\r\n"
        )
    }

    fn scan(body: &str, step: usize) -> Result<MultipartScan, Fault> {
        let mut scan = MultipartScan::new(TYPE).unwrap();
        for piece in body.as_bytes().chunks(step) {
            scan.push(piece)?;
        }
        Ok(scan)
    }

    #[test]
    fn the_field_is_found_wherever_it_stands_and_however_the_body_is_cut() {
        let data = "x\r\n--X".repeat(50);
        for body in [
            format!("{}{}--XX--\r\n", part("model", "whisper-1"), file(&data)),
            format!("{}{}--XX--\r\n", file(&data), part("model", "whisper-1")),
            format!(
                "{}{}{}--XX--",
                part("prompt", ""),
                part("model", "whisper-1"),
                file("")
            ),
        ] {
            for step in [1, 2, 3, 7, 64, 10_000] {
                let scan = scan(&body, step).unwrap();
                let model = scan.model().unwrap();
                assert_eq!(model.value, "whisper-1");
                let span = model.span.start as usize..model.span.end as usize;
                assert_eq!(&body[span], "whisper-1", "step {step}");
                assert!(scan.ended());
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let model = part("model", "a");
        for (body, fault) in [
            (format!("{model}{model}--XX--"), Fault::Repeated),
            (part("Model", "a"), Fault::Variant),
            (
                "--XX\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\na\r\n".into(),
                Fault::Variant,
            ),
            (
                "--XX\r\nContent-Disposition: form-data; name=\"a\"; name=\"model\"\r\n\r\na\r\n"
                    .into(),
                Fault::Repeated,
            ),
            (part("model", "a\0b") + "--XX--", Fault::BadName),
            (part("model", &"a".repeat(2000)) + "--XX--", Fault::TooLong),
            (format!("--XX\r\n{}", "a".repeat(9000)), Fault::TooLong),
            ("--XXX\r\n".into(), Fault::Malformed),
            // Each of these shows a second model to some parser or other.
            (format!("preamble\r\n{model}--XX--"), Fault::Malformed),
            (format!("{model}--XX--\r\n--YY\r\n"), Fault::Malformed),
            (
                "--XX\r\nContent-Disposition: form-data;\r\n name=\"model\"\r\n\r\na\r\n".into(),
                Fault::Malformed,
            ),
            (
                "--XX\r\nX-A: b\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n"
                    .into(),
                Fault::Malformed,
            ),
            (
                "--XX\r\nContent-Transfer-Encoding: base64\r\n\r\na\r\n".into(),
                Fault::Malformed,
            ),
            (
                "--XX\r\nContent-Disposition: a; name=x\r\nContent-Disposition: a; name=model\r\n\r\n"
                    .into(),
                Fault::Repeated,
            ),
        ] {
            assert_eq!(scan(&body, 5).err(), Some(fault), "{body:.60}");
        }
    }

    #[test]
    fn a_form_without_the_field_ends_without_it() {
        let scan = scan(&format!("{}--XX--\r\n", file("data")), 3).unwrap();
        assert!(scan.model().is_none() && scan.ended());
    }

    #[test]
    fn content_types() {
        assert_eq!(boundary(TYPE).as_deref(), Some("XX"));
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"a-b\"").as_deref(),
            Some("a-b")
        );
        for wrong in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/mixed; boundary=a",
            "application/json; boundary=a",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; boundary*=b",
            "multipart/form-data; boundary=\"a;b\"",
            "multipart/form-data; boundary=\"a",
        ] {
            assert_eq!(boundary(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn file_names_may_look_like_parameters() {
        let body = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; name=model \\\"b\\\".mp3\"\r\n\r\nx\r\n--XX--";
        assert!(scan(body, 4).unwrap().model().is_none());
    }

    #[test]
    fn little_is_held_of_a_large_file() {
        let mut scan = MultipartScan::new(TYPE).unwrap();
        scan.push(file("").strip_suffix("\r\n").unwrap().as_bytes())
            .unwrap();
        for _ in 0..100 {
            scan.push(&[b'\r'; 10_000]).unwrap();
        }
        assert!(scan.pending.len() < 10);
    }
}
