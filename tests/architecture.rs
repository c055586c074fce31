//! The import rules of `src/lib.rs`, held.
//!
//! Read are paths that begin with `crate::` or `super::`; a file's part behind its first
//! `#[cfg(test)]` is free, as are files of tests.
//!
//! Above 400 lines: the rules stand beside the small reader of Rust that they need, and its own test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// The table of `src/lib.rs`, by module; the longest match holds.
const LAYERS: [(&str, u8); 50] = [
    ("id", 0),
    ("clock", 0),
    ("billing::money", 0),
    ("rejection", 0),
    ("nearest", 0),
    ("route", 1),
    ("auth", 1),
    ("catalog", 1),
    ("limit", 1),
    ("upstream", 1),
    ("wire", 1),
    ("meter", 1),
    ("billing", 1),
    ("admit", 2),
    ("record", 3),
    ("store", 3),
    ("socket", 3),
    ("limit::memory", 3),
    ("limit::redis", 3),
    ("limit::limiter", 3),
    ("limit::joined", 3),
    ("limit::settling", 3),
    ("limit::flood", 3),
    ("auth::directory", 3),
    ("auth::registry", 3),
    ("auth::shared", 3),
    ("billing::asking", 3),
    ("billing::books", 3),
    ("billing::embedded", 3),
    ("billing::journal", 3),
    ("billing::ledger", 3),
    ("billing::leftovers", 3),
    ("billing::lines", 3),
    ("billing::nodes", 3),
    ("billing::recent", 3),
    ("billing::redis", 3),
    ("billing::seeds", 3),
    ("admit::gate", 3),
    ("upstream::addresses", 3),
    ("upstream::pool", 3),
    ("downstream", 4),
    ("proxy", 4),
    ("admin", 4),
    ("demo", 4),
    ("upstream::dial", 4),
    ("upstream::peer", 4),
    ("config", 5),
    ("server", 5),
    ("cli", 5),
    ("main", 5),
];

/// Modules that may name pingora.
const MAY_NAME_PINGORA: [&str; 8] = [
    "downstream",
    "proxy",
    "admin::serve",
    "server",
    "demo",
    "upstream::dial",
    "upstream::peer",
    "limit::flood",
];
const MAY_NAME_CONFIG: [&str; 3] = ["server", "cli", "config"];
const SOFT_CAP: usize = 400;

struct Source {
    path: PathBuf,
    /// `proxy::headers`; `lib` is the empty one.
    module: String,
    /// Numbered lines, without comments, strings' contents and tests.
    lines: Vec<(usize, String)>,
}

impl Source {
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    fn is_in(&self, modules: &[&str]) -> bool {
        modules.iter().any(|module| within(&self.module, module))
    }
}

fn within(module: &str, parent: &str) -> bool {
    module
        .strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn layer(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .filter(|(name, _)| within(module, name))
        .max_by_key(|(name, _)| name.len())
        .map(|(_, layer)| *layer)
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 50, "where are the sources?");
    files
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&root).unwrap();
            let mut parts: Vec<String> = path
                .with_extension("")
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            if parts
                .last()
                .is_some_and(|last| last == "mod" || last == "lib")
            {
                parts.pop();
            }
            let text = fs::read_to_string(&file).unwrap();
            Source {
                path: Path::new("src").join(path),
                module: parts.join("::"),
                lines: code(&text),
            }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let tests = name == "tests" || name.ends_with("_tests");
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") && !tests {
            files.push(path);
        }
    }
    files.sort();
}

/// Every file of code below a folder, those of tests included.
fn everything(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            everything(&path, files);
        } else if ["rs", "py", "mjs", "sh"]
            .iter()
            .any(|end| path.extension().is_some_and(|found| found == *end))
        {
            files.push(path);
        }
    }
    files.sort();
}

/// What a file says of itself at its top.
fn top(path: &Path, text: &str) -> String {
    let mark = match path.extension().and_then(|end| end.to_str()) {
        Some("rs") => "//!",
        Some("py") => {
            let docstring = text.strip_prefix("\"\"\"").unwrap_or_default();
            return docstring.split("\"\"\"").next().unwrap_or_default().into();
        }
        Some("mjs") => "//",
        _ => "#",
    };
    text.lines()
        .take_while(|line| line.starts_with(mark))
        .collect()
}

/// The lines that are compiled into the product, without comments and without what strings say.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for (nth, line) in text.lines().enumerate() {
        if line.trim() == "#[cfg(test)]" {
            break;
        }
        lines.push((nth + 1, bare(line)));
    }
    lines
}

fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    out
}

/// All paths below `crate::` and `super::` that a file names, each with its line and as seen from
/// the crate's root.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // One text, so that a `use` over several lines is read whole.
    let mut text = String::new();
    let mut starts = Vec::new();
    for (number, line) in &source.lines {
        starts.push((text.len(), *number));
        text.push_str(line);
        text.push('\n');
    }
    let line_of = |at: usize| starts[starts.partition_point(|(start, _)| *start <= at) - 1].1;
    for (at, _) in text.match_indices("crate::") {
        if !continues(&text, at) {
            tree(&text[at + "crate::".len()..], "", &mut |path| {
                found.push((line_of(at), path));
            });
        }
    }
    for (at, _) in text.match_indices("super::") {
        if text[..at].ends_with("super::") || continues(&text, at) {
            continue;
        }
        let mut rest = &text[at..];
        let mut base: Vec<&str> = source.module.split("::").collect();
        // In a file that is `mod.rs`, or has none below it, `super` is the parent all the same.
        while let Some(after) = rest.strip_prefix("super::") {
            base.pop();
            rest = after;
        }
        let base: String = base.iter().map(|part| format!("{part}::")).collect();
        tree(rest, &base, &mut |path| found.push((line_of(at), path)));
    }
    found
}

/// Whether the word that begins here is the end of a longer one.
fn continues(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Reads a path or a tree of them: `a::b`, `a::{b, c::{d}}`. Gives how much of the text it was.
fn tree(text: &str, base: &str, each: &mut dyn FnMut(String)) -> usize {
    let mut path = base.to_owned();
    let mut at = 0;
    loop {
        at += space(&text[at..]);
        if text[at..].starts_with('{') {
            at += 1;
            loop {
                at += space(&text[at..]);
                match text[at..].chars().next() {
                    Some('}') => return at + 1,
                    Some(',') => at += 1,
                    Some(_) => at += tree(&text[at..], &path, each).max(1),
                    None => return at,
                }
            }
        }
        let word: String = text[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        at += word.len();
        path.push_str(&word);
        if text[at..].starts_with("::") && !text[at..].starts_with("::<") {
            at += 2;
            path.push_str("::");
        } else {
            // `as name` belongs to the leaf.
            let rest = text[at..].trim_start();
            if rest.starts_with("as ") {
                at += text[at..].find([',', '}', ';', '\n']).unwrap_or(0);
            }
            each(path);
            return at.max(1);
        }
    }
}

fn space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn hold(what: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{what}:\n{}", violations.join("\n"));
}

#[test]
fn every_module_has_its_layer() {
    let strays: Vec<String> = sources()
        .iter()
        .filter(|source| !source.module.is_empty() && layer(&source.module).is_none())
        .map(|source| source.at(1))
        .collect();
    hold("without a layer in the table of src/lib.rs", &strays);
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (module, _) in LAYERS {
        let named = map.contains(&format!("`{module}`")) || map.contains(&format!("`{module}::"));
        assert!(
            named || module == "main",
            "src/lib.rs does not name {module}"
        );
    }
}

#[test]
fn nobody_imports_from_a_layer_above() {
    let mut violations = Vec::new();
    for source in sources() {
        let Some(own) = layer(&source.module) else {
            continue;
        };
        for (line, path) in imports(&source) {
            // A parent owns its children: `auth` hands out what `auth::directory` holds.
            let child = within(&path, &source.module);
            if let Some(other) = layer(&path).filter(|other| *other > own && !child) {
                violations.push(format!(
                    "{}: {} (layer {own}) imports {path} (layer {other})",
                    source.at(line),
                    source.module
                ));
            }
        }
    }
    hold("imports from above", &violations);
}

#[test]
fn only_the_shell_knows_pingora() {
    let mut violations = Vec::new();
    for source in sources() {
        if source.is_in(&MAY_NAME_PINGORA) {
            continue;
        }
        for (line, text) in &source.lines {
            if text.contains("pingora") {
                violations.push(format!("{}: {}", source.at(*line), text.trim()));
            }
        }
    }
    hold("pingora outside of the shell", &violations);
}

#[test]
fn only_the_wiring_knows_the_configuration() {
    let mut violations = Vec::new();
    for source in sources() {
        if source.is_in(&MAY_NAME_CONFIG) {
            continue;
        }
        for (line, path) in imports(&source) {
            if within(&path, "config") {
                violations.push(format!("{}: {path}", source.at(line)));
            }
        }
    }
    hold("the configuration outside of the wiring", &violations);
}

#[test]
fn a_long_file_says_why() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "loadtest/src"] {
        everything(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "where are the files?");
    let mut violations = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let length = text.lines().count();
        if length > SOFT_CAP && !top(&path, &text).contains(&format!("{SOFT_CAP} lines")) {
            let path = path.strip_prefix(root).unwrap();
            violations.push(format!("{}: {length} lines", path.display()));
        }
    }
    hold(
        "above 400 lines without a sentence at the top that says `400 lines` and why",
        &violations,
    );
}

#[test]
fn nothing_unfinished_and_no_printing_is_left() {
    let mut violations = Vec::new();
    for source in sources() {
        let printing = source.is_in(&["cli", "main"]);
        for (line, text) in &source.lines {
            let left = ["todo!", "unimplemented!", "dbg!"];
            let prints = ["println!", "eprintln!", "print!", "eprint!"];
            let found = left
                .iter()
                .chain(prints.iter().filter(|_| !printing))
                .any(|word| text.match_indices(word).any(|(at, _)| !continues(text, at)));
            if found {
                violations.push(format!("{}: {}", source.at(*line), text.trim()));
            }
        }
    }
    hold("left over", &violations);
}

#[test]
fn the_reader_of_paths_reads_paths() {
    let read = |module: &str, text: &str| {
        let source = Source {
            path: PathBuf::new(),
            module: module.to_owned(),
            lines: code(text),
        };
        imports(&source)
    };
    let paths = |module: &str, text: &str| -> Vec<String> {
        read(module, text)
            .into_iter()
            .map(|(_, path)| path)
            .collect()
    };
    assert_eq!(paths("a", "use crate::b::C;"), ["b::C"]);
    assert_eq!(
        paths("a", "use crate::{\n    b::{C, d::E as F},\n    g,\n};"),
        ["b::C", "b::d::E", "g"]
    );
    assert_eq!(
        paths("a::b", "use super::c::{self, D};"),
        ["a::c::self", "a::c::D"]
    );
    assert_eq!(paths("a::b::c", "super::super::d()"), ["a::d"]);
    assert_eq!(
        paths("a", "let x = crate::b::new::<crate::c::D>();"),
        ["b::new", "c::D"]
    );
    assert_eq!(
        paths("a", "// crate::b\nlet x = \"crate::c\"; mycrate::d();"),
        [""; 0]
    );
    assert_eq!(paths("a", "#[cfg(test)]\nuse crate::b;"), [""; 0]);
    assert_eq!(read("a", "\n\nuse crate::b;"), [(3, "b".to_owned())]);
    assert_eq!(layer("auth::secret"), Some(1));
    assert_eq!(layer("auth::directory::Directory"), Some(3));
    assert_eq!(layer("authority"), None);
}
