//! The README tells the truth: what it shows is accepted, what it names exists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use clap::Parser;
use tollgate::cli::Cli;
use tollgate::config::parse;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| !line.starts_with("```"))
            .collect();
        if name == language {
            blocks.push(block.join("\n"));
        }
    }
    blocks
}

#[test]
fn configurations_are_accepted() {
    for page in ["README.md", "docs/limits.md"] {
        let blocks = blocks(&read(page), "yaml");
        assert!(!blocks.is_empty(), "{page} shows no configuration");
        blocks.iter().for_each(|block| accepted(page, block));
    }
}

fn accepted(page: &str, block: &str) {
    // Hashes that differ: no two keys may be the same.
    let set = |name: &str| {
        Some(match name.strip_suffix("_SHA256") {
            Some(key) => format!("{:064x}", key.len()),
            None if name == "REDIS_URL" => "redis://redis.example:6379".to_owned(),
            None => "sk-secret".to_owned(),
        })
    };
    match parse(page, block, &set) {
        Ok(config) => assert_eq!(config.dormant, Vec::<String>::new(), "without effect"),
        Err(errors) => panic!("{errors}"),
    }
}

#[test]
fn make_targets_exist() {
    let makefile = read("Makefile");
    let readme = read("README.md");
    let mut seen = 0;
    for word in readme.split("make ").skip(1) {
        let before_is_command = ["`", "    ", "\n"];
        let at = word.as_ptr() as usize - readme.as_ptr() as usize - "make ".len();
        // "make your own" is no command: commands stand in code.
        if !before_is_command
            .iter()
            .any(|before| readme[..at].ends_with(before))
        {
            continue;
        }
        let target: String = word.chars().take_while(char::is_ascii_lowercase).collect();
        assert!(
            makefile.contains(&format!("\n{target}:\n")),
            "the Makefile has no target `{target}`"
        );
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} targets found");
    // And the other way round: none is kept from the reader.
    for line in makefile.lines().filter(|line| !line.starts_with('.')) {
        if let Some(target) = line.strip_suffix(':').filter(|target| *target != "help") {
            assert!(
                readme.contains(&format!("make {target}")),
                "the README does not tell of `make {target}`"
            );
        }
    }
}

#[test]
fn commands_are_understood() {
    let readme = read("README.md");
    let mut seen = 0;
    for line in readme.lines() {
        let command = line.split("tollgate ").nth(1);
        let at_start = line.starts_with("tollgate ") || line.contains("=... tollgate ");
        let (true, Some(command)) = (at_start, command) else {
            continue;
        };
        // What stands after two spaces is an explanation.
        let command = command.split("  ").next().unwrap_or_default();
        let words = std::iter::once("tollgate").chain(command.split(' '));
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}\n{error}");
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} commands found");
}

#[test]
fn links_resolve() {
    let mut pages = vec![
        PathBuf::from("README.md"),
        "CHANGELOG.md".into(),
        "tests/sdk/README.md".into(),
    ];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    let mut broken = Vec::new();
    for page in pages {
        for rest in read(&page).split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.starts_with("https://") {
                continue;
            }
            let place = root().join(&page);
            if !place.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links: {broken:#?}");
}

/// Every code of the table of errors is one of the gateway's.
#[test]
fn error_codes_exist() {
    let readme = read("README.md");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Errors"))
        .unwrap();
    for row in section
        .lines()
        .filter(|line| line.starts_with("| 4") || line.starts_with("| 5"))
    {
        for code in row.split('`').skip(1).step_by(2) {
            assert!(
                tollgate::rejection::CODES.contains(&code),
                "there is no code `{code}`"
            );
        }
    }
}
