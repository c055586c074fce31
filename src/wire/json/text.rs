//! The bytes of JSON: where strings end, where brackets stand, escapes both ways.

use std::borrow::Cow;

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Index of the first `"`, `\` or control character at or after `at`, else the length.
#[inline]
pub(crate) fn plain_run(bytes: &[u8], at: usize) -> usize {
    let Some(mut rest) = bytes.get(at..) else {
        return bytes.len();
    };
    // Keys and short values end within the first words; blocks pay off after that.
    for _ in 0..3 {
        let Some((word, tail)) = rest.split_first_chunk::<8>() else {
            break;
        };
        let found = special_bytes(u64::from_le_bytes(*word));
        if found != 0 {
            return bytes.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = tail;
    }
    // The compiler turns the fold into SIMD compares.
    while let Some((block, tail)) = rest.split_first_chunk::<32>() {
        if block.iter().fold(false, |any, &b| {
            any | (b < 0x20) | (b == b'"') | (b == b'\\')
        }) {
            break;
        }
        rest = tail;
    }
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        let found = special_bytes(u64::from_le_bytes(*word));
        if found != 0 {
            return bytes.len() - rest.len() + (found.trailing_zeros() / 8) as usize;
        }
        rest = tail;
    }
    let left = rest
        .iter()
        .position(|&b| b < 0x20 || b == b'"' || b == b'\\');
    bytes.len() - rest.len() + left.unwrap_or(rest.len())
}

/// The top bit of every byte that ends a plain run. A borrow may also set bits above the
/// lowest hit, so only the lowest one counts.
fn special_bytes(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    ((quote.wrapping_sub(ONES) & !quote)
        | (slash.wrapping_sub(ONES) & !slash)
        | (word.wrapping_sub(ONES * 0x20) & !word))
        & TOPS
}

/// Index of the first quote, bracket or brace at or after `at`, else the length.
#[inline]
pub(crate) fn structure_run(bytes: &[u8], at: usize) -> usize {
    // `| 0x20` folds `[` onto `{` and `]` onto `}`.
    let matters = |b: u8| (b == b'"') | (b | 0x20 == b'{') | (b | 0x20 == b'}');
    let mut rest = bytes.get(at..).unwrap_or_default();
    // Mostly there is a colon or a comma in between, and no more.
    if let Some(near) = rest.iter().take(4).position(|&b| matters(b)) {
        return at + near;
    }
    // Long runs are the numbers of embeddings; the compiler turns the fold into SIMD.
    while let Some((block, tail)) = rest.split_first_chunk::<16>() {
        if block.iter().fold(false, |any, &b| any | matters(b)) {
            break;
        }
        rest = tail;
    }
    let from = bytes.len() - rest.len();
    rest.iter()
        .position(|&b| matters(b))
        .map_or(bytes.len(), |i| from + i)
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits
        .get(..4)?
        .iter()
        .try_fold(0, |sum, &b| Some(sum * 16 + (b as char).to_digit(16)?))
}

/// The character of the escape at the start of `rest` and the escape's length in bytes;
/// `None` for an unknown escape or half a surrogate pair.
pub(super) fn read_escape(rest: &[u8]) -> Option<(char, usize)> {
    let plain = match rest.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let high = hex4(rest.get(2..)?)?;
            if !(0xd800..0xdc00).contains(&high) {
                // `from_u32` refuses a low half that stands alone.
                return Some((char::from_u32(high)?, 6));
            }
            let low = hex4(rest.get(6..)?.strip_prefix(b"\\u")?)?;
            if !(0xdc00..0xe000).contains(&low) {
                return None;
            }
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return Some((char::from_u32(code)?, 12));
        }
        _ => return None,
    };
    Some((plain, 2))
}

/// What the raw content of a JSON string (quotes excluded) says. `None` if it is not UTF-8
/// or has a bad escape; borrowed where it has none.
pub fn decode_string(raw: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(raw).ok()?;
    let Some(mut next) = text.find('\\') else {
        return Some(Cow::Borrowed(text));
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        out.push_str(rest.get(..next)?);
        rest = rest.get(next..)?;
        if rest.is_empty() {
            return Some(Cow::Owned(out));
        }
        let (c, length) = read_escape(rest.as_bytes())?;
        out.push(c);
        rest = rest.get(length..)?;
        next = rest.find('\\').unwrap_or(rest.len());
    }
}

/// Appends `s` to `out` as a JSON string, quotes included, with the fewest escapes.
pub fn encode_string(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = s.as_bytes();
    let mut from = 0;
    loop {
        let at = plain_run(bytes, from);
        out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
        let Some(&b) = bytes.get(at) else { break };
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let hex = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0') as u8;
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 15)]);
            }
        }
        from = at + 1;
    }
    out.push(b'"');
}
