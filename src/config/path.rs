//! The path of a setting as people write it: `models[0].price`, `providers["a.b"].keys`.

/// The path of the field `key` of the mapping at `parent`; the document itself is the empty path.
pub(crate) fn field(parent: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (plain, parent.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{parent}.{key}"),
        // Debug escapes quotes, so that `parent` finds where the key begins.
        (false, _) => format!("{parent}[{key:?}]"),
    }
}

/// The path of item `at` of the list at `parent`.
pub(crate) fn item(parent: &str, at: usize) -> String {
    format!("{parent}[{at}]")
}

/// The path of what holds `path`; `None` for the document itself.
pub(crate) fn parent(path: &str) -> Option<&str> {
    let cut = if path.is_empty() {
        return None;
    } else if path.ends_with("\"]") {
        path.rfind("[\"")
    } else if path.ends_with(']') {
        path.rfind('[')
    } else {
        path.rfind('.')
    };
    Some(cut.and_then(|at| path.get(..at)).unwrap_or(""))
}

/// The last field name of a path, for sentences.
pub(crate) fn name(path: &str) -> &str {
    let above = parent(path).unwrap_or("");
    path.get(above.len()..)
        .unwrap_or(path)
        .trim_start_matches('.')
}

#[cfg(test)]
mod tests {
    use super::{field, item, parent};

    #[test]
    fn a_parent_undoes_a_step() {
        for start in ["", "models", "models[3]", "providers[\"a.b\"]"] {
            for path in [
                field(start, "x-1"),
                field(start, "a.b"),
                field(start, "a[\"]"),
                item(start, 7),
            ] {
                assert_eq!(parent(&path), Some(start), "{path}");
            }
        }
        assert_eq!(parent(""), None);
    }
}
