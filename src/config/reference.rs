//! `docs/configuration.md`, generated from the JSON Schema.

use std::fmt::Write;

use serde_json::Value as Json;

use super::schema::json_schema;

const HEAD: &str = "\
# Configuration

<!-- Generated from src/config/schema/ by `tollgate::config::reference_markdown`; a test fails when this page is out of date. -->

One YAML file. `tollgate check --config FILE` reads it, reports all errors at once with file, line, column, the path of
the setting and the nearest known name, and starts nothing. `conf/tollgate.yaml` is a commented start.

- Unknown fields are errors. A field is given with a value or left out; an empty one is an error.
- `${VAR}`, `${VAR:-default}` and `${file:/run/secrets/x}` are expanded in values after parsing; `$$` is a dollar sign.
  An unset variable without a default is an error. What was expanded is never shown in an error. A value without quotes
  gets its type after expansion; in quotes it is text. `field: ${VAR:-}` leaves an optional field out.
- A file's text is taken without the newline at its end.
- Durations are whole numbers with a unit: `500ms`, `3s`, `2m`, `1h`, `30d`. Sizes: `1048576`, `32KiB`, `32MiB`, `1GiB`
  (also `kB`, `MB`, `GB` of 1000). Rates: `20/s`, `600/m`, `1000/h`.
- Money is decimal with at most 6 decimals, at most 9000000000, never rounded: `19.90`.
- Globs know `*` only, for any characters.
- A setting that this version does not act on yet is accepted; `tollgate check` and the start name each one.
- Anchors and aliases work; merge keys (`<<`), tags and several documents do not.

In the paths, `*` stands for a name that you choose, `[]` for each item of a list.
";

/// The reference page: every field with its path, type, default and description.
#[must_use]
pub fn reference_markdown() -> String {
    let schema = json_schema();
    let mut page = Page {
        schema: &schema,
        text: HEAD.to_owned(),
    };
    page.table("Top level", "", &schema, false);
    for (name, field) in properties(&schema) {
        page.section(name, page.follow(field), 2);
    }
    page.text
}

struct Page<'s> {
    schema: &'s Json,
    text: String,
}

impl<'s> Page<'s> {
    /// A section for what has fields of its own, then one for each such field in it.
    fn section(&mut self, path: &str, schema: &'s Json, depth: usize) {
        // The schema is a tree of at most a handful of levels.
        if depth > 8 {
            return;
        }
        if properties(schema).next().is_some() {
            self.table(&format!("`{path}`"), path, schema, true);
            for (name, field) in properties(schema) {
                self.section(&format!("{path}.{name}"), self.follow(field), depth + 1);
            }
        }
        if let Some(item) = schema.get("items") {
            self.section(&format!("{path}[]"), self.follow(item), depth + 1);
        }
        if let Some(other) = schema
            .get("additionalProperties")
            .filter(|other| other.is_object())
        {
            self.section(&format!("{path}.*"), self.follow(other), depth + 1);
        }
        for branch in schema
            .get("anyOf")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
        {
            self.section(path, self.follow(branch), depth + 1);
        }
    }

    fn table(&mut self, title: &str, path: &str, schema: &'s Json, described: bool) {
        let _ = write!(self.text, "\n## {title}\n\n");
        if let Some(text) = schema
            .get("description")
            .and_then(Json::as_str)
            .filter(|_| described)
        {
            let _ = write!(self.text, "{}\n\n", cell(text));
        }
        self.text
            .push_str("| setting | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for (name, field) in properties(schema) {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let required = schema
                .get("required")
                .and_then(Json::as_array)
                .is_some_and(|all| all.contains(&Json::from(name.as_str())));
            let default = match field.get("default") {
                _ if required => "required".to_owned(),
                Some(Json::String(text)) => format!("`{text}`"),
                Some(other) => format!("`{other}`"),
                None => "–".to_owned(),
            };
            let meaning = field
                .get("description")
                .and_then(Json::as_str)
                .map(cell)
                .unwrap_or_default();
            let meaning = meaning + &self.meanings(field);
            let _ = writeln!(
                self.text,
                "| `{path}` | {} | {default} | {meaning} |",
                self.kind(field)
            );
        }
    }

    /// The type of a field in words.
    fn kind(&self, field: &Json) -> String {
        let field = self.follow(field);
        if let Some(title) = field.get("title").and_then(Json::as_str) {
            return title.to_owned();
        }
        if let Some(words) = field
            .get("oneOf")
            .or_else(|| field.get("enum"))
            .and_then(Json::as_array)
        {
            let words = words
                .iter()
                .filter_map(|word| word.get("const").unwrap_or(word).as_str());
            return words
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(word) = field.get("const").and_then(Json::as_str) {
            return format!("`{word}`");
        }
        if let Some(branches) = field.get("anyOf").and_then(Json::as_array) {
            return branches
                .iter()
                .map(|one| self.kind(one))
                .collect::<Vec<_>>()
                .join(" or ");
        }
        match field.get("type").and_then(Json::as_str) {
            Some("array") => format!(
                "list of {}",
                field
                    .get("items")
                    .map(|item| self.kind(item))
                    .unwrap_or_default()
            ),
            Some("object") => match field
                .get("additionalProperties")
                .filter(|other| other.is_object())
            {
                Some(other) => format!("mapping of names to {}", self.kind(other)),
                None => "mapping".to_owned(),
            },
            Some("integer") => match (field.get("minimum"), field.get("maximum")) {
                (Some(least), Some(most)) if least == most => format!("`{least}`"),
                (Some(least), Some(most)) => format!("whole number, {least} to {most}"),
                (Some(least), None) => format!("whole number, from {least}"),
                _ => "whole number".to_owned(),
            },
            Some("string") => "text".to_owned(),
            Some("boolean") => "`true`, `false`".to_owned(),
            other => other.unwrap_or("any").to_owned(),
        }
    }

    /// What each word of an enumeration means.
    fn meanings(&self, field: &Json) -> String {
        let words = self.follow(field).get("oneOf").and_then(Json::as_array);
        let mut text = String::new();
        for word in words.into_iter().flatten() {
            let name = word.get("const").and_then(Json::as_str);
            let meaning = word.get("description").and_then(Json::as_str);
            if let (Some(name), Some(meaning)) = (name, meaning) {
                let _ = write!(text, "<br>`{name}`: {}", cell(meaning));
            }
        }
        text
    }

    fn follow(&self, schema: &'s Json) -> &'s Json {
        let target = schema
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|name| name.strip_prefix('#'));
        target
            .and_then(|pointer| self.schema.pointer(pointer))
            .unwrap_or(schema)
    }
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
}

/// A text that fits a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::reference_markdown;

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let page = reference_markdown();
        if std::env::var_os("TOLLGATE_BLESS").is_some() {
            let _ = std::fs::write(path, &page);
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page,
            "docs/configuration.md is out of date; run: TOLLGATE_BLESS=1 cargo test reference"
        );
    }

    #[test]
    fn every_field_is_described() {
        for line in reference_markdown()
            .lines()
            .filter(|line| line.starts_with("| `"))
        {
            assert!(!line.ends_with("|  |") && !line.contains("any |"), "{line}");
        }
    }
}
