//! The document against the JSON Schema: every structural error at once.
//!
//! What is wrong is reported and taken out, so that the rest can still be resolved.

use serde_json::{Map, Value as Json};
use serde_yaml::{Mapping, Value};

use super::path;
use super::report::Report;
use super::shape::{Shapes, at_most, branches, number_of, words};
use crate::nearest::{hint, nearest};

/// Checks the document of `report` against `schema`; what comes back fits it, required fields that
/// were reported as missing aside.
pub(crate) fn check(schema: &Json, report: &mut Report<'_>) -> Value {
    let document = report.document;
    let shapes = Shapes { root: schema };
    let mut checker = Checker { shapes, report };
    checker
        .visit(&document.root, schema, "")
        .unwrap_or_else(|| Value::Mapping(Mapping::new()))
}

struct Checker<'s, 'r, 'd> {
    shapes: Shapes<'s>,
    report: &'r mut Report<'d>,
}

impl<'s> Checker<'s, '_, '_> {
    /// The part of a value that fits; `None` when it cannot be used and that is reported.
    fn visit(&mut self, value: &Value, schema: &'s Json, path: &str) -> Option<Value> {
        if self.report.is_unusable(path) {
            return None;
        }
        let schema = self.shapes.follow(schema);
        if value.is_null() {
            self.report.unusable_value(path, self.empty(path));
            return None;
        }
        if let Some(allowed) = words(schema) {
            return self.word(value, schema, &allowed, path);
        }
        let branch = match branches(schema) {
            Some(branches) => branches
                .iter()
                .map(|one| self.shapes.follow(one))
                .find(|one| self.shapes.takes(value, one)),
            None => Some(schema).filter(|one| self.shapes.takes(value, one)),
        };
        let Some(branch) = branch else {
            return self.mismatch(value, schema, path);
        };
        if let Some(allowed) = words(branch) {
            // Nothing near: the other alternatives may be what was meant.
            let near = value
                .as_str()
                .and_then(|text| nearest(text, allowed.iter().copied()));
            return match near {
                Some(_) => self.word(value, branch, &allowed, path),
                None => self.mismatch(value, schema, path),
            };
        }
        match value {
            Value::Mapping(map) => Some(self.mapping(map, branch, path)),
            Value::Sequence(items) => self.list(items, branch, path),
            Value::Number(number) => self.number(number, branch, path),
            Value::String(text) => self.text(text, branch, path),
            _ => Some(value.clone()),
        }
    }

    fn empty(&self, path: &str) -> String {
        if path.is_empty() {
            "the file is empty; start from conf/tollgate.yaml".to_owned()
        } else if self.report.document.is_expanded(path) {
            "expands to nothing; set the variable, or remove the item".to_owned()
        } else {
            format!(
                "`{}` has no value; give one, or remove it",
                path::name(path)
            )
        }
    }

    fn mapping(&mut self, map: &Mapping, schema: &'s Json, path: &str) -> Value {
        let none = Map::new();
        let fields = schema
            .get("properties")
            .and_then(Json::as_object)
            .unwrap_or(&none);
        let others = schema
            .get("additionalProperties")
            .filter(|others| others.is_object());
        let mut kept = Mapping::new();
        let mut absent: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_array)
            .map(|required| required.iter().filter_map(Json::as_str).collect())
            .unwrap_or_default();
        // Not `fields`: its life is shorter than the schema's when there are none.
        let field_of = |name: &str| schema.get("properties").and_then(|fields| fields.get(name));
        for (key, value) in map {
            let Some(name) = key.as_str() else { continue };
            let here = path::field(path, name);
            if let Some(field) = field_of(name) {
                // `${VAR:-}` leaves an optional setting out.
                if value.is_null() && self.report.document.is_expanded(&here) {
                    continue;
                }
                absent.retain(|required| *required != name);
                if let Some(value) = self.visit(value, field, &here) {
                    kept.insert(key.clone(), value);
                }
            } else if let Some(other) = others {
                let value = self
                    .visit(value, other, &here)
                    .unwrap_or_else(|| self.shapes.placeholder(other));
                kept.insert(key.clone(), value);
            } else {
                let hint = hint(name, "known fields", fields.keys().map(String::as_str));
                self.report
                    .unusable_key(&here, format!("unknown field `{name}`{hint}"));
            }
        }
        for name in absent {
            let here = path::field(path, name);
            let expected = field_of(name)
                .map(|field| self.shapes.expected(field))
                .unwrap_or_default();
            self.report.unusable_value(
                &here,
                format!("`{name}` is missing; add `{name}:` with {expected}"),
            );
        }
        Value::Mapping(kept)
    }

    fn list(&mut self, items: &[Value], schema: &'s Json, path: &str) -> Option<Value> {
        if number_of(schema, "minItems").is_some_and(|least| (items.len() as f64) < least) {
            self.report.unusable_value(
                path,
                "the list is empty; give at least one item, or remove the field",
            );
            return None;
        }
        let Some(one) = schema.get("items") else {
            return Some(Value::Sequence(items.to_vec()));
        };
        let mut kept = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            // An item keeps its place, or the paths of the later ones would be wrong.
            let value = self.visit(item, one, &path::item(path, at));
            kept.push(value.unwrap_or_else(|| self.shapes.placeholder(one)));
        }
        Some(Value::Sequence(kept))
    }

    fn number(
        &mut self,
        number: &serde_yaml::Number,
        schema: &'s Json,
        path: &str,
    ) -> Option<Value> {
        let shown = self.report.document.shown(path).unwrap_or_default();
        let at_most = at_most(schema);
        let at_least = number_of(schema, "minimum");
        let value = number.as_f64()?;
        let message = match (at_least, at_most) {
            (Some(least), _) if value < least => {
                format!("`{shown}` is too small; the least is {least}")
            }
            (_, Some(most)) if value > most => {
                format!("`{shown}` is too large; the most is {most}")
            }
            _ => return Some(Value::Number(number.clone())),
        };
        self.report.unusable_value(path, message);
        None
    }

    fn text(&mut self, text: &str, schema: &'s Json, path: &str) -> Option<Value> {
        if text.is_empty() && number_of(schema, "minLength").is_some_and(|least| least >= 1.0) {
            self.report.unusable_value(
                path,
                format!(
                    "`{}` is empty; give a value, or remove it",
                    path::name(path)
                ),
            );
            return None;
        }
        Some(Value::String(text.to_owned()))
    }

    /// A value out of a list of words.
    fn word(
        &mut self,
        value: &Value,
        schema: &Json,
        allowed: &[&str],
        path: &str,
    ) -> Option<Value> {
        let Some(text) = value.as_str() else {
            return self.mismatch(value, schema, path);
        };
        if allowed.contains(&text) {
            return Some(value.clone());
        }
        let shown = self.report.document.shown(path).unwrap_or_default();
        let hint = hint(text, "allowed", allowed.iter().copied());
        // With a suggestion the whole list is of use, too: it is short.
        let all = if hint.contains("did you mean") {
            format!(" (allowed: {})", allowed.join(", "))
        } else {
            String::new()
        };
        self.report
            .unusable_value(path, format!("unknown value `{shown}`{hint}{all}"));
        None
    }

    fn mismatch(&mut self, value: &Value, schema: &Json, path: &str) -> Option<Value> {
        let expected = self.shapes.expected(schema);
        let secret = self.shapes.holds_secret(schema, 0);
        let shown = self.report.document.shown(path).filter(|_| !secret);
        let types = self.shapes.types(schema);
        let title = schema.get("title").and_then(Json::as_str);
        let quoting_helps = types.contains(&"string")
            && matches!(title, None | Some("secret" | "SHA-256" | "path"));
        let remedy = match (value, shown) {
            (Value::Number(_) | Value::Bool(_), Some(shown)) if quoting_helps => {
                format!("; put it in quotes: \"{shown}\"")
            }
            (Value::Number(_) | Value::Bool(_), None) if quoting_helps => {
                "; put it in quotes".to_owned()
            }
            (Value::String(text), _)
                if super::scalar::typed(text) != *value && !types.contains(&"string") =>
            {
                "; remove the quotes".to_owned()
            }
            (Value::String(text), _) if types.contains(&"integer") && text.contains(['_', ',']) => {
                "; write digits only".to_owned()
            }
            _ => String::new(),
        };
        let found = found(value, shown);
        self.report
            .unusable_value(path, format!("expected {expected}, found {found}{remedy}"));
        None
    }
}

/// A value for a sentence; a scalar as it stands in the file, or hidden.
fn found(value: &Value, shown: Option<&str>) -> String {
    let kind = match value {
        Value::Null => return "nothing".to_owned(),
        Value::Sequence(_) => return "a list".to_owned(),
        Value::Mapping(_) | Value::Tagged(_) => return "a mapping".to_owned(),
        Value::Bool(_) => "",
        Value::Number(_) => "the number ",
        Value::String(_) => "the text ",
    };
    match shown {
        Some(shown) => format!("{kind}`{}`", brief(shown)),
        None if kind.is_empty() => "a boolean".to_owned(),
        None => kind.replace("the ", "a ").trim_end().to_owned(),
    }
}

/// A text on one line and not too long.
pub(crate) fn brief(text: &str) -> String {
    let line: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        format!("{line}…")
    } else {
        line
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
