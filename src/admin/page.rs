//! Lists, a page at a time.

use super::failure::{Failure, Outcome};
use super::query::Query;
use crate::rejection::quoted;
use serde_json::{Value, json};

/// The parameters of every list.
pub const PARAMETERS: [&str; 2] = ["limit", "cursor"];

const DEFAULT: usize = 100;
const MOST: usize = 1000;

/// Which page is wanted.
#[derive(Debug)]
pub struct Page {
    limit: usize,
    /// The place of the last item of the page before.
    after: Option<String>,
}

impl Page {
    /// Reads what was asked for.
    ///
    /// # Errors
    /// A limit out of its range, a cursor that no list gave.
    pub fn of(query: &Query) -> Outcome<Page> {
        let limit = match query.get("limit") {
            None => DEFAULT,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=MOST) => limit,
                _ => {
                    return Err(Failure::value(
                        "limit",
                        format!("is {}; write 1 to {MOST}", quoted(text)),
                    ));
                }
            },
        };
        let after = match query.get("cursor") {
            None => None,
            Some(text) => Some(unhex(text).ok_or_else(|| {
                Failure::value("cursor", "is no cursor; send `next` of the page before")
            })?),
        };
        Ok(Page { limit, after })
    }

    /// Cuts the page out of a list. `place` is where an item stands, as a text that is unique and by which the
    /// list is sorted: items that come and go between two pages move no other.
    pub fn cut<T>(&self, all: Vec<T>, place: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let begins = match &self.after {
            Some(after) => all
                .iter()
                .position(|item| place(item) > *after)
                .unwrap_or(all.len()),
            None => 0,
        };
        let more = all.len() > begins.saturating_add(self.limit);
        let page: Vec<T> = all.into_iter().skip(begins).take(self.limit).collect();
        let next = page.last().filter(|_| more).map(|last| hex(&place(last)));
        (page, next)
    }
}

/// The body of a list.
pub fn list(data: Vec<Value>, next: Option<String>) -> Value {
    json!({ "data": data, "next": next })
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<String> {
    let digits = text.as_bytes();
    if digits.is_empty()
        || !digits.len().is_multiple_of(2)
        || !digits.iter().all(u8::is_ascii_hexdigit)
    {
        return None;
    }
    let bytes = digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Outcome<Page> {
        Page::of(&Query::read(Some(query), &PARAMETERS).unwrap())
    }

    #[test]
    fn pages_follow_each_other_whatever_comes_and_goes() {
        let items = |all: &[&str]| {
            all.iter()
                .map(|item| (*item).to_owned())
                .collect::<Vec<_>>()
        };
        let place = |item: &String| item.clone();
        let (first, next) = page("limit=2").unwrap().cut(items(&["a", "b", "c"]), place);
        assert_eq!(first, ["a", "b"]);
        let query = format!("limit=2&cursor={}", next.unwrap());
        let (second, next) = page(&query)
            .unwrap()
            .cut(items(&["a", "aa", "c", "d"]), place);
        assert_eq!((second, next), (items(&["c", "d"]), None));
        let (last, next) = page(&query).unwrap().cut(items(&["a"]), place);
        assert!(last.is_empty() && next.is_none());
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        for query in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "cursor=xyz",
            "cursor=é",
            "cursor=f",
        ] {
            assert!(page(query).is_err(), "{query}");
        }
        assert_eq!(page("").unwrap().limit, DEFAULT);
    }
}
