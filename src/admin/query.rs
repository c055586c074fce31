//! The query of a call: known names only, each once.

use super::body::ended;
use super::failure::{Code, Failure, Outcome};
use crate::nearest::hint;
use crate::rejection::quoted;
use crate::route::percent_decode;

/// The parameters of a call.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// A name that is not among `known`, a name twice, a broken escape.
    pub fn read(text: Option<&str>, known: &[&str]) -> Outcome<Query> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A space is `+` in forms; what is written `+` in a time zone comes as it is from people.
            let decoded = percent_decode(name).zip(percent_decode(value));
            let Some((name, value)) = decoded else {
                return Err(Failure::new(
                    Code::InvalidValue,
                    format!(
                        "The query parameter {} is not percent-encoded UTF-8.",
                        quoted(pair)
                    ),
                ));
            };
            if !known.contains(&name.as_str()) {
                let hint = hint(&name, "known parameters", known.iter().copied());
                return Err(Failure::new(
                    Code::UnknownField,
                    format!(
                        "There is no query parameter `{}`{}",
                        quoted(&name),
                        ended(&hint)
                    ),
                )
                .param(quoted(&name)));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(Failure::new(
                    Code::DuplicateField,
                    format!("The query parameter `{name}` is given twice; give it once."),
                )
                .param(name));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// The value of a parameter; one without a value is as if it were not there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_strict() {
        let read = |text| Query::read(Some(text), &["by", "since"]);
        let query = read("by=model%2Cday&since=&").unwrap();
        assert_eq!(
            (query.get("by"), query.get("since")),
            (Some("model,day"), None)
        );
        assert_eq!(read("sinse=1").unwrap_err().code, Code::UnknownField);
        assert!(read("sinse=1").unwrap_err().message.contains("`since`?"));
        assert_eq!(read("by=a&by=b").unwrap_err().code, Code::DuplicateField);
        assert_eq!(read("by=%f").unwrap_err().code, Code::InvalidValue);
        assert_eq!(read("by=%ff").unwrap_err().code, Code::InvalidValue);
    }
}
