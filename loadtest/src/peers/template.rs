//! Settings of other programs, as files with words between at-signs that are filled in.

/// Puts the value of each word in place of `@word@`. A word without a value, and a value without its word, are errors:
/// a misspelled setting would otherwise be measured.
pub fn fill(template: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut used = vec![false; values.len()];
    let mut rest = template;
    while let Some((word, from, to)) = next(rest) {
        let at = values
            .iter()
            .position(|(name, _)| *name == word)
            .ok_or_else(|| format!("nothing to put in place of @{word}@"))?;
        used[at] = true;
        text.push_str(&rest[..from]);
        text.push_str(values[at].1);
        rest = &rest[to..];
    }
    text.push_str(rest);
    match used.iter().position(|used| !used) {
        Some(at) => Err(format!("no place for @{}@", values[at].0)),
        None => Ok(text),
    }
}

/// The first `@word@`, and where it begins and ends. At-signs around anything else stay what they are.
fn next(text: &str) -> Option<(&str, usize, usize)> {
    let mut signs = text.match_indices('@').map(|(at, _)| at).peekable();
    while let Some(from) = signs.next() {
        let to = *signs.peek()?;
        let word = &text[from + 1..to];
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        if !word.is_empty() && word.bytes().all(letters) {
            return Some((word, from, to + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_and_nothing_else() {
        let values = [("bind", "127.0.0.1:80"), ("key", "a@b@")];
        assert_eq!(
            fill("\"@type\": x@y\nlisten @bind@; key @key@ @bind@\n", &values),
            Ok("\"@type\": x@y\nlisten 127.0.0.1:80; key a@b@ 127.0.0.1:80\n".to_owned())
        );
        assert_eq!(fill("nothing", &[]), Ok("nothing".to_owned()));
    }

    #[test]
    fn a_word_and_its_value_need_each_other() {
        assert!(fill("@bind@ @bnid@", &[("bind", "")]).is_err());
        assert!(fill("@bind@", &[("bind", ""), ("key", "")]).is_err());
    }
}
