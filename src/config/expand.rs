//! Expansion of `${VAR}`, `${VAR:-default}`, `${file:/path}` and `$$` in one scalar.
//!
//! What was expanded is never put into an error: it may be a secret.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// More than any secret is long: a mistyped path to a big file must not fill the memory.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The environment: the value of a variable, if it is set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands a scalar. `Ok(None)` when nothing was to be expanded. The files that it names, readable or not, are added to
/// `files`.
///
/// # Errors
///
/// One message for each expansion that failed.
pub(crate) fn expand(
    text: &str,
    env: Env<'_>,
    files: &mut BTreeSet<PathBuf>,
) -> Result<Option<String>, Vec<String>> {
    if !text.contains('$') {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut problems = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = from.strip_prefix("${") {
            let Some((inside, after)) = after.split_once('}') else {
                // The text is not shown: it may be a password with a dollar sign.
                let message = "`${` without `}`; write `${NAME}`, or `$$` for a dollar sign";
                problems.push(message.to_owned());
                return Err(problems);
            };
            match one(inside, env, files) {
                Ok(value) => out.push_str(&value),
                Err(problem) => problems.push(problem),
            }
            rest = after;
        } else {
            out.push('$');
            rest = from.get(1..).unwrap_or("");
        }
    }
    out.push_str(rest);
    if problems.is_empty() {
        Ok(Some(out))
    } else {
        Err(problems)
    }
}

/// What stands between `${` and `}`.
fn one(inside: &str, env: Env<'_>, files: &mut BTreeSet<PathBuf>) -> Result<String, String> {
    if let Some(path) = inside.strip_prefix("file:") {
        files.insert(path.into());
        return read(path);
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first_ok || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(format!(
            "`${{{inside}}}` names no variable; write `${{NAME}}`, `${{NAME:-default}}` or `${{file:/path}}`"
        ));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!(
            "the default of `${{{name}}}` holds another `${{`; defaults cannot be nested"
        ));
    }
    match (env(name), default) {
        // As in a shell, `:-` also stands in for an empty variable.
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "variable `{name}` is not set; set it, or give a default: `${{{name}:-default}}`"
        )),
    }
}

/// A file's text without one newline at its end.
fn read(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("`${file:}` names no file; write `${file:/path}`".to_owned());
    }
    let failed = |error: &dyn std::fmt::Display| format!("cannot read the file `{path}`: {error}");
    let file = File::open(path).map_err(|error| failed(&error))?;
    // Opening a pipe would have hung before this; a directory fails in read.
    let mut text = String::new();
    let size = file
        .take(FILE_LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if size as u64 > FILE_LIMIT {
        return Err(failed(&"it is larger than 1 MiB, so no secret"));
    }
    let trimmed = text.strip_suffix('\n').unwrap_or(&text);
    Ok(trimmed.strip_suffix('\r').unwrap_or(trimmed).to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::expand;
    use std::collections::BTreeSet;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("apple".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRAP" => Some("${A}$$".to_owned()),
            _ => None,
        }
    }

    fn good(text: &str) -> String {
        expand(text, &env, &mut Default::default())
            .unwrap()
            .unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn expands_each_form() {
        assert_eq!(good("plain"), "plain");
        assert_eq!(good("x${A}y${A}"), "xappleyapple");
        assert_eq!(good("${NONE:-d:-e}"), "d:-e");
        assert_eq!(good("${EMPTY:-d}|${EMPTY}|${NONE:-}"), "d||");
        assert_eq!(good("$$ $${A} $5 $"), "$ ${A} $5 $");
        assert_eq!(
            good("${TRAP}"),
            "${A}$$",
            "what was expanded is not expanded again"
        );
    }

    #[test]
    fn names_what_failed() {
        let bad = |text: &str| {
            let mut files = BTreeSet::new();
            expand(text, &env, &mut files).unwrap_err().join("|")
        };
        assert!(bad("${NONE} ${NADA}").contains("`NONE` is not set"));
        assert!(bad("${NONE} ${NADA}").contains("`NADA` is not set"));
        assert!(bad("a${A").contains("without `}`"));
        assert!(bad("${}").contains("names no variable"));
        assert!(bad("${1X}").contains("names no variable"));
        assert!(bad("${A:-${A}}").contains("nested"));
        assert!(bad("${file:}").contains("names no file"));
        assert!(bad("${file:/none/such}").contains("/none/such"));
        assert!(bad("${file:/}").contains("cannot read"));
    }

    #[test]
    fn reads_a_file_less_one_newline() {
        let path = std::env::temp_dir().join(format!("tollgate-expand-{}", std::process::id()));
        std::fs::write(&path, "secret\n\n").unwrap();
        let text = good(&format!("<${{file:{}}}>", path.display()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "<secret\n>");
    }
}
