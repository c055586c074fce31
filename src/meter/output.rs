//! What becomes of a chunk of events.

use std::ops::Range;

use bytes::Bytes;

/// What a chunk becomes: a run of its own bytes as long as that will do.
pub(super) struct Output<'a> {
    chunk: &'a [u8],
    kept: Range<usize>,
    copied: Vec<u8>,
}

impl<'a> Output<'a> {
    pub(super) const fn new(chunk: &'a [u8]) -> Self {
        Self {
            chunk,
            kept: 0..0,
            copied: Vec::new(),
        }
    }

    /// The new bytes; or, where nothing was copied, the range of the chunk that stays.
    pub(super) fn end(mut self) -> Result<Bytes, Range<usize>> {
        if self.copied.is_empty() {
            return Err(self.kept);
        }
        self.flush();
        Ok(Bytes::from(self.copied))
    }

    /// Keeps a range of the chunk.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        if range.start != self.kept.end {
            self.flush();
            self.kept = range;
        } else {
            self.kept.end = range.end;
        }
    }

    /// Copies what was kept so far; new bytes may follow.
    pub(super) fn flush(&mut self) {
        let kept = std::mem::replace(&mut self.kept, 0..0);
        if self.copied.is_empty() {
            // A rename may lengthen every event a little.
            self.copied
                .reserve(self.chunk.len() + self.chunk.len() / 8 + 64);
        }
        self.copied
            .extend_from_slice(self.chunk.get(kept).unwrap_or_default());
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }
}
