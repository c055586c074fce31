//! JSON bodies, strictly: known fields only, each once, and numbers as they were written.

use super::failure::{Code, Failure, Outcome};
use crate::nearest::hint;
use crate::rejection::quoted;
use crate::wire::json::{Cursor, JsonError, Kind, decode_string};

/// A JSON value. A number keeps its text: money must not pass through a float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// Its digits.
    Number(String),
    /// Decoded.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// Members, in their order.
    Object(Vec<(String, Json)>),
}

/// No body of this API nests deeper.
const DEEPEST: usize = 8;

impl Json {
    /// Reads a text that is one value and nothing else.
    fn read(text: &[u8]) -> Result<Json, JsonError> {
        if let Err(error) = std::str::from_utf8(text) {
            let offset = error.valid_up_to();
            return Err(JsonError::Utf8 { offset });
        }
        let mut cursor = Cursor::strict(text);
        cursor.space();
        let value = value(&mut cursor, text, 0)?;
        match cursor.at_end() {
            true => Ok(value),
            false => Err(JsonError::TrailingBytes {
                offset: cursor.offset(),
            }),
        }
    }

    /// As it is shown in errors.
    pub fn shown(&self) -> String {
        match self {
            Json::Null => "null".to_owned(),
            Json::Bool(value) => value.to_string(),
            Json::Number(text) => quoted(text),
            Json::Text(text) => format!("\"{}\"", quoted(text)),
            Json::List(_) => "a list".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        }
    }
}

fn value(cursor: &mut Cursor<'_>, text: &[u8], depth: usize) -> Result<Json, JsonError> {
    if depth > DEEPEST {
        return Err(JsonError::TooDeep { limit: DEEPEST });
    }
    cursor.space();
    match cursor.peek() {
        Some(b'{') => {
            let mut members = Vec::new();
            cursor.object(&mut |cursor, key| {
                let key = string(text.get(key).unwrap_or_default());
                members.push((key, value(cursor, text, depth + 1)?));
                Ok(())
            })?;
            Ok(Json::Object(members))
        }
        Some(b'[') => {
            let mut items = Vec::new();
            cursor.array(&mut |cursor| {
                items.push(value(cursor, text, depth + 1)?);
                Ok(())
            })?;
            Ok(Json::List(items))
        }
        _ => {
            let (range, kind) = cursor.value()?;
            let raw = text.get(range).unwrap_or_default();
            Ok(match kind {
                Kind::String => {
                    let inner = raw.get(1..raw.len().saturating_sub(1));
                    Json::Text(string(inner.unwrap_or_default()))
                }
                Kind::Number => Json::Number(String::from_utf8_lossy(raw).into_owned()),
                Kind::True => Json::Bool(true),
                Kind::False => Json::Bool(false),
                Kind::Null | Kind::Object | Kind::Array => Json::Null,
            })
        }
    }
}

/// A hint may be a question, which has its end.
pub fn ended(hint: &str) -> String {
    let stop = if hint.ends_with('?') { "" } else { "." };
    format!("{hint}{stop}")
}

/// The strict cursor has checked the escapes.
fn string(raw: &[u8]) -> String {
    decode_string(raw).unwrap_or_default().into_owned()
}

/// The members of an object that a call takes.
#[derive(Debug)]
pub struct Form {
    /// Its place in the body: empty, or `spend_cap.`.
    prefix: &'static str,
    members: Vec<(String, Json)>,
}

impl Form {
    /// Reads a body; an empty one is an empty object.
    ///
    /// # Errors
    /// No JSON object; a field that is not among `known`, or there twice.
    pub fn read(body: &[u8], known: &[&str]) -> Outcome<Form> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Form::of(Json::Object(Vec::new()), "", known);
        }
        let json = Json::read(body).map_err(|error| {
            let words = format!("The body is not valid JSON: {error}.");
            Failure::new(Code::InvalidJson, words)
        })?;
        match json {
            object @ Json::Object(_) => Form::of(object, "", known),
            other => Err(Failure::new(
                Code::InvalidJson,
                format!("The body must be a JSON object, not {}.", other.shown()),
            )),
        }
    }

    /// An object inside of the body; `prefix` is its name with a dot.
    ///
    /// # Errors
    /// As for [`Form::read`].
    pub fn of(json: Json, prefix: &'static str, known: &[&str]) -> Outcome<Form> {
        let Json::Object(members) = json else {
            let name = prefix.trim_end_matches('.');
            let message = format!("is {}; write an object", json.shown());
            return Err(Failure::value(name, message));
        };
        for (at, (name, value)) in members.iter().enumerate() {
            let path = format!("{prefix}{}", quoted(name));
            if !known.contains(&name.as_str()) {
                let hint = hint(name, "known fields", known.iter().copied());
                let message = format!(
                    "There is no field `{path}` (its value is {}){}",
                    value.shown(),
                    ended(&hint)
                );
                return Err(Failure::new(Code::UnknownField, message).param(path));
            }
            if members.iter().take(at).any(|(other, _)| other == name) {
                let message = format!("`{path}` is there twice; write it once.");
                return Err(Failure::new(Code::DuplicateField, message).param(path));
            }
        }
        Ok(Form { prefix, members })
    }

    /// Takes a field: `None` if it is not there, `Some(None)` if it is null.
    pub fn take(&mut self, name: &str) -> Option<Option<Json>> {
        let at = self.members.iter().position(|(known, _)| known == name)?;
        match self.members.swap_remove(at).1 {
            Json::Null => Some(None),
            value => Some(Some(value)),
        }
    }

    /// A field's name in errors.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field through a reader of values.
    ///
    /// # Errors
    /// The reader's words about the value.
    pub fn read_as<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Json) -> Result<T, String>,
    ) -> Outcome<Option<Option<T>>> {
        match self.take(name) {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(value)) => match read(value) {
                Ok(value) => Ok(Some(Some(value))),
                Err(message) => Err(Failure::value(&self.path(name), message)),
            },
        }
    }

    /// The same for a field that must be there.
    ///
    /// # Errors
    /// Also that it is missing.
    pub fn need<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Json) -> Result<T, String>,
    ) -> Outcome<T> {
        match self.read_as(name, read)?.flatten() {
            Some(value) => Ok(value),
            None => {
                let path = self.path(name);
                Err(
                    Failure::new(Code::MissingField, format!("`{path}` is missing; add it."))
                        .param(path),
                )
            }
        }
    }

    /// The same for a field that may be missing or null.
    ///
    /// # Errors
    /// The reader's words about the value.
    pub fn maybe<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Json) -> Result<T, String>,
    ) -> Outcome<Option<T>> {
        Ok(self.read_as(name, read)?.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        let read = |text: &str| Json::read(text.as_bytes());
        assert_eq!(
            read(r#" {"a":[1.10,-2e3,"x\u0041",null],"b":{"c":true}} "#),
            Ok(Json::Object(vec![
                (
                    "a".into(),
                    Json::List(vec![
                        Json::Number("1.10".into()),
                        Json::Number("-2e3".into()),
                        Json::Text("xA".into()),
                        Json::Null
                    ])
                ),
                (
                    "b".into(),
                    Json::Object(vec![("c".into(), Json::Bool(true))])
                ),
            ]))
        );
        for text in ["", "{", "{}x", "{'a':1}", "[1,]", r#""\ud800""#, "nul"] {
            assert!(read(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep), Err(JsonError::TooDeep { limit: DEEPEST }));
        assert!(Json::read(b"\"\xff\"").is_err());
    }

    #[test]
    fn forms_know_their_fields() {
        let read = |text: &str| Form::read(text.as_bytes(), &["name", "account"]);
        let unknown = read(r#"{"acount": "x"}"#).unwrap_err();
        assert_eq!(unknown.code, Code::UnknownField);
        assert_eq!(unknown.param.as_deref(), Some("acount"));
        assert_eq!(
            unknown.message,
            "There is no field `acount` (its value is \"x\"); did you mean `account`?"
        );
        let twice = read(r#"{"name":"a","n\u0061me":"b"}"#).unwrap_err();
        assert_eq!(twice.code, Code::DuplicateField);
        assert_eq!(read("[]").unwrap_err().code, Code::InvalidJson);
        assert_eq!(read("{").unwrap_err().code, Code::InvalidJson);
        let mut form = read(r#"{"name":null}"#).unwrap();
        assert_eq!(form.take("name"), Some(None));
        assert_eq!(form.take("account"), None);
        let missing = read("").unwrap().need("name", Ok::<Json, String>);
        assert_eq!(missing.unwrap_err().code, Code::MissingField);
    }
}
