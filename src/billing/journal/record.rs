//! The journal's file format. All numbers are little-endian.
//!
//! ```text
//! segment  = header frame*
//! header   = magic (8 bytes) version (u32) crc (u32) epoch (u64)
//! frame    = crc (u32) length (u32) seq (u64) payload (length bytes)
//! payload  = a record, as postcard encodes it
//! ```
//!
//! The header's CRC-32 covers magic, version and epoch; these 24 bytes are the same in every version.
//! A frame's covers epoch, payload, length and seq, in this order: the payload's part is computed before
//! the sequence number is known, and bytes of another epoch, which a file system may bring back after
//! a crash of the machine, are no frame of this one. A frame of zeros has a wrong CRC too.
//!
//! Postcard does not describe itself: whoever changes a record, or a word in it, makes it a new
//! [`VERSION`]. A test holds the bytes of one of each.

use crate::billing::{Charge, Due, Held};
use crc32fast::Hasher;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER: usize = 24;
/// Bytes in front of a frame's payload.
pub const HEAD: usize = 16;
/// No payload is longer: what claims to be is damaged.
pub const LONGEST: usize = 64 << 10;

const MAGIC: [u8; 8] = *b"tolljrnl";

/// A record to be written.
#[derive(Debug, Serialize)]
pub enum Entry<'a> {
    /// A request is about to be sent.
    Reserve {
        /// What is held for it.
        held: &'a Held,
        /// What it costs if nothing more is heard of it.
        due: &'a Due,
    },
    /// An answer is on its way.
    Progress {
        /// The hold's number.
        id: u64,
        /// What it costs so far.
        due: &'a Due,
    },
    /// A request has ended.
    Settle {
        /// What it cost.
        charge: &'a Charge,
    },
}

/// A record as read: [`Entry`], owned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Record {
    /// A request was about to be sent.
    Reserve {
        /// What is held for it.
        held: Held,
        /// What it costs if nothing more is heard of it.
        due: Due,
    },
    /// An answer was on its way.
    Progress {
        /// The hold's number.
        id: u64,
        /// What it cost so far.
        due: Due,
    },
    /// A request had ended.
    Settle {
        /// What it cost.
        charge: Charge,
    },
}

/// The first byte of a settle record: a reader of charges skips the others undecoded.
pub const SETTLE: u8 = 2;

/// A record that the format has no room for: a name in it is absurdly long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record is too long")
    }
}

impl std::error::Error for TooLong {}

/// A record's frame without its sequence number.
pub struct Unsealed<'a> {
    bytes: &'a mut Vec<u8>,
    crc: Hasher,
}

impl Unsealed<'_> {
    /// Makes a frame in `bytes`, whatever was in there.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn new<'a>(
        epoch: u64,
        entry: &Entry<'_>,
        bytes: &'a mut Vec<u8>,
    ) -> Result<Unsealed<'a>, TooLong> {
        bytes.clear();
        bytes.resize(HEAD, 0);
        postcard::to_io(entry, &mut *bytes).map_err(|_| TooLong)?;
        let payload = bytes.get(HEAD..).unwrap_or_default();
        if payload.len() > LONGEST {
            return Err(TooLong);
        }
        let crc = started(epoch, payload);
        Ok(Unsealed { bytes, crc })
    }

    /// Bytes of its record.
    pub fn length(&self) -> usize {
        self.bytes.len().saturating_sub(HEAD)
    }

    /// The whole frame, with its number. Can be done again with another one.
    pub fn seal(&mut self, seq: u64) -> &[u8] {
        let length = self.length() as u32;
        let crc = finished(self.crc.clone(), length, seq);
        if let Some(head) = self.bytes.get_mut(..HEAD) {
            head[..4].copy_from_slice(&crc.to_le_bytes());
            head[4..8].copy_from_slice(&length.to_le_bytes());
            head[8..].copy_from_slice(&seq.to_le_bytes());
        }
        self.bytes
    }
}

fn started(epoch: u64, payload: &[u8]) -> Hasher {
    let mut crc = Hasher::new();
    crc.update(&epoch.to_le_bytes());
    crc.update(payload);
    crc
}

fn finished(mut crc: Hasher, length: u32, seq: u64) -> u32 {
    let mut head = [0; 12];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&seq.to_le_bytes());
    crc.update(&head);
    crc.finalize()
}

/// A segment's first bytes.
pub fn header(epoch: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&epoch.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn header_crc(header: &[u8; HEADER]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..]);
    crc.finalize()
}

/// What a segment's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A segment of this version and epoch.
    Ours,
    /// A segment of another version.
    Version(u32),
    /// The file ends within its header: its writer died before it wrote a record.
    Short,
    /// Anything else.
    Damaged,
}

/// Reads a segment's header.
pub fn head(bytes: &[u8], epoch: u64) -> Head {
    let Some(found) = bytes.first_chunk::<HEADER>() else {
        return Head::Short;
    };
    if *found == header(epoch) {
        return Head::Ours;
    }
    let version = u32_at(found, 8);
    let intact = found.starts_with(&MAGIC) && u32_at(found, 12) == header_crc(found);
    match intact && version != VERSION {
        true => Head::Version(version),
        false => Head::Damaged,
    }
}

/// A whole frame among a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// Its sequence number.
    pub seq: u64,
    /// Its record.
    pub payload: &'a [u8],
}

/// The first whole frame that begins at `from` or later and has a number above `after`. It begins later
/// than `from` only if what is there is damaged.
pub fn next(bytes: &[u8], from: usize, epoch: u64, after: u64) -> Option<Frame<'_>> {
    let last = bytes.len().checked_sub(HEAD)?;
    (from..=last).find_map(|at| frame(bytes, at, epoch).filter(|frame| frame.seq > after))
}

fn frame(bytes: &[u8], start: usize, epoch: u64) -> Option<Frame<'_>> {
    let rest = bytes.get(start..)?;
    let head = rest.first_chunk::<HEAD>()?;
    let length = u32_at(head, 4);
    let payload = usize::try_from(length).ok()?;
    // Before the CRC, so that a search through a damaged segment does not take minutes.
    if payload == 0 || payload > LONGEST {
        return None;
    }
    let end = HEAD + payload;
    let payload = rest.get(HEAD..end)?;
    let seq = u64::from(u32_at(head, 8)) | u64::from(u32_at(head, 12)) << 32;
    let whole = finished(started(epoch, payload), length, seq) == u32_at(head, 0);
    whole.then_some(Frame {
        start,
        end: start + end,
        seq,
        payload,
    })
}

/// Reads a frame's record; `None` if this version does not know it, although its bytes are as written.
pub fn decode(payload: &[u8]) -> Option<Record> {
    match postcard::take_from_bytes(payload) {
        Ok((record, [])) => Some(record),
        _ => None,
    }
}

/// Nothing beyond the end counts as zero: callers have asked for as many bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}
