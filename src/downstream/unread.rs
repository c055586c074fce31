//! The part of a request body that was looked at and is to be read again: in memory, or, when the
//! field that decides the route came late, in an unnamed file.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// More than this of one body is kept in a file.
const MEMORY: u64 = 256 << 10;
/// A file is read in steps of this size.
const STEP: u64 = 64 << 10;

/// A run of body bytes.
#[derive(Clone, Debug)]
pub enum Piece {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(Arc<File>, Range<u64>),
}

impl Piece {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Memory(bytes) => bytes.len() as u64,
            Piece::File(_, range) => range.end - range.start,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slice(&self, range: Range<u64>) -> Piece {
        match self {
            Piece::Memory(bytes) => {
                let at = |offset: u64| {
                    usize::try_from(offset)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len())
                };
                Piece::Memory(bytes.slice(at(range.start)..at(range.end)))
            }
            Piece::File(file, whole) => Piece::File(
                file.clone(),
                whole.start + range.start..whole.start + range.end,
            ),
        }
    }
}

/// Collects what is looked at.
#[derive(Debug, Default)]
pub struct Collected {
    pieces: Vec<Piece>,
    file: Option<(Arc<File>, u64)>,
    len: u64,
}

impl Collected {
    /// Adds a chunk.
    ///
    /// # Errors
    /// The file could not be made or written: the disk is full, or there is none.
    pub fn push(&mut self, chunk: Bytes) -> std::io::Result<()> {
        self.len += chunk.len() as u64;
        if self.file.is_none() && self.len <= MEMORY {
            self.pieces.push(Piece::Memory(chunk));
            return Ok(());
        }
        let (file, end) = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((Arc::new(tempfile::tempfile()?), 0)),
        };
        // Page cache in nearly all cases; the disk's own pace bounds the client's otherwise.
        file.as_ref().write_all(&chunk)?;
        *end += chunk.len() as u64;
        Ok(())
    }

    /// All of it, in order.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut pieces = self.pieces.clone();
        if let Some((file, end)) = &self.file {
            pieces.push(Piece::File(file.clone(), 0..*end));
        }
        pieces
    }

    /// How many bytes of a body this long are in memory, at most.
    pub fn in_memory(len: u64) -> u64 {
        len.min(MEMORY)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Puts `replacement` in place of the bytes `span`, which lie within the pieces.
pub fn splice(pieces: Vec<Piece>, span: Range<u64>, replacement: Bytes) -> Vec<Piece> {
    let mut spliced = Vec::with_capacity(pieces.len() + 2);
    let mut replacement = Some(replacement);
    let mut start = 0;
    for piece in pieces {
        let end = start + piece.len();
        if end <= span.start || start >= span.end {
            spliced.push(piece);
        } else {
            if start < span.start {
                spliced.push(piece.slice(0..span.start - start));
            }
            spliced.extend(replacement.take().map(Piece::Memory));
            if end > span.end {
                spliced.push(piece.slice(span.end - start..piece.len()));
            }
        }
        start = end;
    }
    spliced
}

/// Pieces on their way out.
#[derive(Debug, Default)]
pub struct Unread(VecDeque<Piece>);

impl Unread {
    /// These pieces.
    pub fn new(pieces: Vec<Piece>) -> Unread {
        Unread(
            pieces
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .collect(),
        )
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The run to be read next, at most a step of a file.
    pub fn peek(&self) -> Option<Piece> {
        let piece = self.0.front()?;
        Some(match piece {
            Piece::Memory(_) => piece.clone(),
            Piece::File(..) => piece.slice(0..piece.len().min(STEP)),
        })
    }

    /// Takes away what was read.
    pub fn advance(&mut self, count: u64) {
        if let Some(front) = self.0.front_mut() {
            let len = front.len();
            if count >= len {
                self.0.pop_front();
            } else {
                *front = front.slice(count..len);
            }
        }
    }
}

/// The bytes of a run.
///
/// # Errors
/// The file could not be read.
pub async fn read(piece: Piece) -> std::io::Result<Bytes> {
    match piece {
        Piece::Memory(bytes) => Ok(bytes),
        Piece::File(file, range) => {
            let read = move || {
                let len = usize::try_from(range.end - range.start).unwrap_or(0);
                let mut buffer = BytesMut::zeroed(len);
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(buffer.freeze())
            };
            spawn_blocking(read).await.map_err(std::io::Error::other)?
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(pieces: Vec<Piece>) -> Vec<u8> {
        let mut unread = Unread::new(pieces);
        let mut bytes = Vec::new();
        while let Some(piece) = unread.peek() {
            let len = piece.len();
            bytes.extend_from_slice(&read(piece).await.unwrap());
            unread.advance(len);
        }
        bytes
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_from_memory_and_from_the_file() {
        let mut collected = Collected::default();
        let mut expected = Vec::new();
        for n in 0..400u32 {
            let chunk = n.to_le_bytes().repeat(500);
            expected.extend_from_slice(&chunk);
            collected.push(chunk.into()).unwrap();
        }
        assert_eq!(collected.len(), expected.len() as u64);
        let pieces = collected.pieces();
        assert!(matches!(pieces.last(), Some(Piece::File(..))));
        assert!(matches!(pieces.first(), Some(Piece::Memory(_))));
        assert_eq!(all(pieces).await, expected);
    }

    #[tokio::test]
    async fn splices_anywhere() {
        let text = b"0123456789";
        for start in 0..text.len() {
            for end in start + 1..=text.len() {
                let pieces = text
                    .chunks(3)
                    .map(|chunk| Piece::Memory(Bytes::from_static(chunk)))
                    .collect();
                let span = start as u64..end as u64;
                let spliced = splice(pieces, span, Bytes::from_static(b"<>"));
                let expected = [&text[..start], b"<>", &text[end..]].concat();
                assert_eq!(all(spliced).await, expected, "{start}..{end}");
            }
        }
    }
}
