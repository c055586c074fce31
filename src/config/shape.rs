//! What a JSON Schema takes: for the check, and in words for its errors.

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

/// A whole schema, where `$ref` leads.
#[derive(Clone, Copy)]
pub(super) struct Shapes<'s> {
    pub(super) root: &'s Json,
}

impl<'s> Shapes<'s> {
    /// Whether the type of a value is one that the schema takes.
    pub(super) fn takes(&self, value: &Value, schema: &Json) -> bool {
        self.types(schema).iter().any(|kind| match (*kind, value) {
            ("integer", Value::Number(number)) => number.is_u64() || number.is_i64(),
            ("number", Value::Number(_))
            | ("string", Value::String(_))
            | ("boolean", Value::Bool(_))
            | ("array", Value::Sequence(_))
            | ("object", Value::Mapping(_)) => true,
            _ => false,
        })
    }

    /// Whether a secret may stand in a value or in something below it.
    pub(super) fn holds_secret(&self, schema: &Json, depth: usize) -> bool {
        let schema = self.follow(schema);
        let fields = schema.get("properties").and_then(Json::as_object);
        let below = ["items", "additionalProperties"]
            .into_iter()
            .filter_map(|name| schema.get(name));
        let below = below.chain(fields.into_iter().flat_map(|fields| fields.values()));
        let below = below.chain(branches(schema).into_iter().flatten());
        // The schema is a tree of at most a handful of levels.
        schema.get("writeOnly").is_some()
            || depth < 8
                && below
                    .into_iter()
                    .any(|one| self.holds_secret(one, depth + 1))
    }

    /// The JSON types that the schema takes.
    pub(super) fn types<'a>(&'a self, schema: &'a Json) -> Vec<&'a str> {
        let schema = self.follow(schema);
        if let Some(branches) = branches(schema) {
            return branches.iter().flat_map(|one| self.types(one)).collect();
        }
        match schema.get("type") {
            Some(Json::String(one)) => vec![one],
            Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
            _ if words(schema).is_some() => vec!["string"],
            _ => Vec::new(),
        }
    }

    /// What the schema takes, for a sentence.
    pub(super) fn expected(&self, schema: &Json) -> String {
        let schema = self.follow(schema);
        if let Some(words) = words(schema) {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            return match words.as_slice() {
                [one] => one.clone(),
                words => format!("one of {}", words.join(", ")),
            };
        }
        if let Some(branches) = branches(schema) {
            let all: Vec<String> = branches.iter().map(|one| self.expected(one)).collect();
            return all.join(" or ");
        }
        let title = schema.get("title").and_then(Json::as_str);
        if let Some(title) = title.filter(|_| schema.get("properties").is_none()) {
            let article = if title.starts_with(['a', 'e', 'i', 'o', 'u']) {
                "an"
            } else {
                "a"
            };
            let example = schema
                .get("examples")
                .and_then(|all| all.get(0))
                .map(|one| match one {
                    Json::String(text) => format!(" such as `{text}`"),
                    other => format!(" such as `{other}`"),
                });
            return format!("{article} {title}{}", example.unwrap_or_default());
        }
        let types = self.types(schema);
        let named = types.iter().map(|kind| match *kind {
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "text",
            "boolean" => "`true` or `false`",
            "array" => "a list",
            _ => "a mapping",
        });
        named.collect::<Vec<_>>().join(" or ")
    }

    /// Something of the schema's type, in the place of what was taken out.
    pub(super) fn placeholder(&self, schema: &Json) -> Value {
        let schema = self.follow(schema);
        if let Some(word) = words(schema).and_then(|words| words.first().copied()) {
            return Value::from(word);
        }
        match self.types(schema).first().copied() {
            Some("object") => Value::Mapping(Mapping::new()),
            Some("array") => Value::Sequence(Vec::new()),
            Some("integer" | "number") => Value::from(0),
            Some("boolean") => Value::from(false),
            _ => Value::from(""),
        }
    }

    /// Where `$ref` leads.
    pub(super) fn follow<'a>(&self, schema: &'a Json) -> &'a Json
    where
        's: 'a,
    {
        let target = schema
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|name| name.strip_prefix('#'));
        target
            .and_then(|pointer| self.root.pointer(pointer))
            .unwrap_or(schema)
    }
}

/// The alternatives of a schema.
pub(super) fn branches(schema: &Json) -> Option<&Vec<Json>> {
    schema
        .get("anyOf")
        .or_else(|| schema.get("oneOf"))
        .and_then(Json::as_array)
}

/// The words of an enumeration: `enum`, `const`, or `oneOf` of such.
pub(super) fn words(schema: &Json) -> Option<Vec<&str>> {
    if let Some(Json::Array(all)) = schema.get("enum") {
        return all.iter().map(Json::as_str).collect();
    }
    if let Some(one) = schema.get("const") {
        return one.as_str().map(|one| vec![one]);
    }
    let branches = schema.get("oneOf").and_then(Json::as_array)?;
    let words: Option<Vec<Vec<&str>>> = branches.iter().map(words).collect();
    words.map(|words| words.concat())
}

/// A number that the schema names.
pub(super) fn number_of(schema: &Json, name: &str) -> Option<f64> {
    schema.get(name).and_then(Json::as_f64)
}

/// The upper bound of a number: as written, or of the integer type behind the field.
pub(super) fn at_most(schema: &Json) -> Option<f64> {
    let of_type = match schema.get("format").and_then(Json::as_str) {
        Some("uint8") => Some(f64::from(u8::MAX)),
        Some("uint16") => Some(f64::from(u16::MAX)),
        Some("uint32") => Some(f64::from(u32::MAX)),
        _ => None,
    };
    let bounds = [number_of(schema, "maximum"), of_type];
    bounds.into_iter().flatten().reduce(f64::min)
}
