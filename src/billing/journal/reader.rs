//! Records as they are read back from segments, one segment in memory at a time.

use super::folder::{Named, explain};
use super::record::{self, Frame, Head, Record};
use crate::billing::Charge;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::vec::IntoIter;

/// Reads a segment whole, or its first `length` bytes.
pub fn load(path: &Path, length: Option<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let file = File::open(path)?;
    file.take(length.unwrap_or(u64::MAX)).read_to_end(bytes)?;
    Ok(())
}

/// The frames of one segment's bytes, in order.
pub struct Frames<'a> {
    bytes: &'a [u8],
    epoch: u64,
    /// The byte after the last frame.
    pub end: usize,
    /// The number of the last frame.
    pub last: u64,
}

impl<'a> Frames<'a> {
    /// `last` is the number of the last frame of the segment before.
    pub fn new(bytes: &'a [u8], epoch: u64, last: u64) -> Frames<'a> {
        Frames {
            bytes,
            epoch,
            end: record::HEADER,
            last,
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let frame = record::next(self.bytes, self.end, self.epoch, self.last)?;
        self.end = frame.end;
        self.last = frame.seq;
        Some(frame)
    }
}

/// Why a segment with this header must not be read.
pub fn refuse(path: &Path, head: Head) -> Option<String> {
    let Head::Version(version) = head else {
        return None;
    };
    Some(format!(
        "`{}`: a journal of format {version}, and this version reads format {} only; start the version of tollgate that wrote it once more, until all is charged",
        path.display(),
        record::VERSION
    ))
}

/// What is said of a record that is whole, and unknown.
pub fn unknown(path: &Path, at: usize) -> String {
    format!(
        "`{}`: the record at offset {at} is not of this version's format; start the version of tollgate that wrote it once more, until all is charged",
        path.display()
    )
}

/// The charges of an epoch, in the order of their numbers, read while they are asked for.
#[derive(Debug)]
pub struct Charges {
    files: IntoIter<(Named, Option<u64>)>,
    after: u64,
    segment: Option<Named>,
    bytes: Vec<u8>,
    at: usize,
    last: u64,
    /// Files may be gone: all in them was applied.
    gone: bool,
    error: Option<String>,
}

impl Charges {
    /// Those with a number above `after`; of each file only so many bytes, if a number is given.
    /// `gone` says whether files may have been deleted meanwhile, since all in them was applied.
    pub fn new(mut files: Vec<(Named, Option<u64>)>, after: u64, gone: bool) -> Charges {
        // The first file of interest is the last one that begins at or below the first number wanted.
        let begun = files.partition_point(|(named, _)| named.first <= after.saturating_add(1));
        files.drain(..begun.saturating_sub(1));
        Charges {
            files: files.into_iter(),
            after,
            segment: None,
            bytes: Vec::new(),
            at: 0,
            last: 0,
            gone,
            error: None,
        }
    }

    /// Why it ended before the last charge, if it did: what follows must not be taken for applied.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn fail(&mut self, error: String) {
        log::error!("{error}");
        self.error = Some(error);
        self.segment = None;
        self.files = Vec::new().into_iter();
    }

    /// The next settle record of the segment in memory.
    fn of_segment(&mut self) -> Option<(u64, Charge)> {
        let segment = self.segment.as_ref()?;
        while let Some(frame) = record::next(&self.bytes, self.at, segment.epoch, self.last) {
            self.at = frame.end;
            self.last = frame.seq;
            if frame.seq <= self.after || frame.payload.first() != Some(&record::SETTLE) {
                continue;
            }
            match record::decode(frame.payload) {
                Some(Record::Settle { charge }) => return Some((frame.seq, charge)),
                _ => {
                    let error = unknown(&segment.path, frame.start);
                    self.fail(error);
                    return None;
                }
            }
        }
        self.segment = None;
        None
    }
}

impl Iterator for Charges {
    type Item = (u64, Charge);

    fn next(&mut self) -> Option<(u64, Charge)> {
        loop {
            let found = self.of_segment();
            if found.is_some() {
                return found;
            }
            let (named, length) = self.files.next()?;
            match load(&named.path, length, &mut self.bytes) {
                Ok(()) => {}
                Err(error) if self.gone && error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    self.fail(explain(&named.path, "read", &error));
                    continue;
                }
            }
            let head = record::head(&self.bytes, named.epoch);
            if let Some(error) = refuse(&named.path, head) {
                self.fail(error);
                continue;
            }
            self.at = record::HEADER;
            self.segment = Some(named);
        }
    }
}
