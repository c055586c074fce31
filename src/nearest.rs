//! The nearest known name to a mistyped one.

/// The name out of `known` that `typed` was most likely meant to be, if one is near enough.
pub(crate) fn nearest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    // A long text is no misspelt name, and comparing it would be slow.
    if typed.is_empty() || typed.chars().count() > 64 {
        return None;
    }
    known
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let distance = distance(&typed, &lower);
            let longer = typed.chars().count().max(lower.chars().count());
            // A third may be wrong; one begun or run on (`token`, `tokens_per_min`) is near as well.
            let near = distance <= (longer / 3).max(1) && distance < longer;
            let begun = typed.len() >= 3
                && lower.len() >= 3
                && (lower.starts_with(&typed) || typed.starts_with(&lower));
            (near || begun).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean …?`, else the list of what is known when it is short, else nothing.
pub(crate) fn hint<'a>(
    typed: &str,
    what: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    if let Some(name) = nearest(typed, known.clone()) {
        return format!("; did you mean `{name}`?");
    }
    let known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
    match known.len() {
        0 => format!("; there are no {}", what.trim_start_matches("known ")),
        1..=24 => format!("; {what}: {}", known.join(", ")),
        _ => String::new(),
    }
}

/// Edits between two words: insert, remove, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = above[j] + usize::from(x != y);
            best = best.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{distance, hint, nearest};

    #[test]
    fn counts_edits() {
        assert_eq!(distance("input", "inptu"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn finds_what_was_meant() {
        let known = ["input", "output", "cached_input", "image"];
        assert_eq!(nearest("inptu", known), Some("input"));
        assert_eq!(nearest("Output", known), Some("output"));
        assert_eq!(nearest("cachedinput", known), Some("cached_input"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(
            hint("zebra", "known fields", ["a", "b"]),
            "; known fields: `a`, `b`"
        );
        assert_eq!(hint("x", "plans", []), "; there are no plans");
    }
}
