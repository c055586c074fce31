//! How many tokens a request will probably take, before anyone has counted them.
//!
//! A rule of thumb that needs no model's tokenizer: four ASCII characters a token, one token for a
//! Chinese, Japanese or Korean character or an emoji, half a token for other letters. It is corrected
//! by the real usage when the request has ended; until then it only has to be near.

use memchr::{memchr, memrchr};

/// Without `max_tokens` an answer is taken to be this long: what most answers stay below.
pub const OUTPUT: u64 = 1024;

/// A picture or a sound inside the JSON: about what providers charge for a picture in low detail.
/// Its base64 text says nothing of its tokens.
const ATTACHMENT: u64 = 1000;

/// A string that is longer than this may be an attachment.
const LONGEST_WORD: usize = 2048;

/// An upload's prompt is not read; its text is short and its sound is counted by the provider.
pub const UPLOAD: u64 = 1000;

/// Tokens of a JSON body.
pub fn prompt(body: &[u8]) -> u64 {
    if body.len() <= LONGEST_WORD {
        return text(body);
    }
    let (mut tokens, mut from) = (0, 0);
    while let Some(rest @ [_, ..]) = body.get(from..) {
        let near = rest.get(..LONGEST_WORD).unwrap_or(rest);
        // Up to the last quote that is near, nothing is longer than a word: all of that is text.
        if let Some(quote) = memrchr(b'"', near) {
            tokens += text(near.get(..quote).unwrap_or_default());
            from += quote + 1;
            continue;
        }
        let end = memchr(b'"', rest).unwrap_or(rest.len());
        let piece = rest.get(..end).unwrap_or_default();
        let before = body.get(..from).unwrap_or_default();
        tokens += match piece.len() > LONGEST_WORD && is_attachment(before, piece) {
            true => ATTACHMENT,
            false => text(piece),
        };
        from += end + 1;
    }
    tokens
}

/// Members in which the APIs take files: their values are no text that a model reads.
const FILES: [&[u8]; 5] = [b"url", b"data", b"file_data", b"image_url", b"b64_json"];

/// Whether a long string, with what stands before it in the body, is a file in base64.
fn is_attachment(before: &[u8], piece: &[u8]) -> bool {
    let member = || {
        let key = before.strip_suffix(b"\"")?.trim_ascii_end();
        let key = key.strip_suffix(b":")?.trim_ascii_end();
        let key = key.strip_suffix(b"\"")?;
        let start = memrchr(b'"', key)? + 1;
        key.get(start..)
    };
    member().is_some_and(|member| FILES.contains(&member))
        && piece.is_ascii()
        && memchr(b' ', piece).is_none()
}

fn text(piece: &[u8]) -> u64 {
    // A sum over bytes, without branches, so that the compiler can take many at a time: each byte
    // is worth so many eighths of a token. Continuation bytes are worth nothing.
    let eighths: u64 = piece
        .chunks(4096)
        .map(|chunk| match chunk.is_ascii() {
            // By far the most, at a fifth of the time.
            true => 2 * chunk.len() as u64,
            false => u64::from(
                chunk
                    .iter()
                    .map(|byte| u32::from(worth(*byte)))
                    .sum::<u32>(),
            ),
        })
        .sum();
    eighths.div_ceil(8)
}

/// Eighths of a token that a byte of UTF-8 stands for.
const fn worth(byte: u8) -> u8 {
    match byte {
        0..=0x7f => 2,
        0x80..=0xbf => 0,
        // Two bytes: Latin with accents, Cyrillic, Arabic.
        0xc0..=0xdf => 4,
        // Three bytes: Chinese, Japanese, Korean; four: emoji.
        0xe0..=0xff => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_counted_by_its_letters() {
        assert_eq!(prompt(b""), 0);
        assert_eq!(prompt(b"abcdefgh"), 2);
        assert_eq!(prompt("你好世界".as_bytes()), 4);
        assert_eq!(prompt("привет".as_bytes()), 3);
        assert_eq!(prompt("🙂".as_bytes()), 1);
        let long = format!("\"{}\"", "a few words ".repeat(1000));
        assert!((3000..3010).contains(&prompt(long.as_bytes())));
        assert!((8000..8010).contains(&prompt(format!("\"{}\"", "好".repeat(8000)).as_bytes())));
    }

    #[test]
    fn an_attachment_is_not_counted_by_its_letters() {
        let picture = format!(
            r#"{{"messages":[{{"content":[{{"text":"What is this?"}},{{"url":"data:image/png;base64,{}"}}]}}]}}"#,
            "iVBORw0KGgo/".repeat(100_000)
        );
        assert!(
            (1000..1100).contains(&prompt(picture.as_bytes())),
            "{}",
            prompt(picture.as_bytes())
        );
    }

    #[test]
    fn a_text_that_looks_like_one_is_counted() {
        for body in [
            format!(r#"{{"messages":[{{"content":"{}"}}]}}"#, "x".repeat(40_000)),
            format!(
                r#"{{"text": "data:image/png;base64,{}"}}"#,
                "A".repeat(40_000)
            ),
            format!(
                r#"{{"data": "{} and {}"}}"#,
                "A".repeat(20_000),
                "A".repeat(20_000)
            ),
        ] {
            let tokens = prompt(body.as_bytes());
            assert!((10_000..10_100).contains(&tokens), "{tokens}");
        }
    }
}
