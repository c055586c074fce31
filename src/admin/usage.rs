//! What was used: sums by model, key, project, day and account, as JSON or CSV.

use super::csv::line;
use super::failure::{Failure, Outcome};
use super::page::{PARAMETERS, Page};
use super::query::Query;
use super::reply::Reply;
use super::values::{duration, one_of};
use super::{Admin, Call};
use crate::billing::money::Money;
use crate::billing::period::{date, day};
use crate::billing::{Sums, Used};
use crate::rejection::quoted;
use http::StatusCode;
use http::header::ACCEPT;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// The parameters beside those of pages.
pub const WHAT: [&str; 4] = ["by", "account", "since", "until"];

/// What rows can be of.
pub const BY: [&str; 5] = ["account", "model", "key", "project", "day"];

/// The sums of a row, in their order.
pub const SUMS: [&str; 11] = [
    "requests",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "images",
    "characters",
    "seconds",
    "package_tokens",
    "cost",
    "estimated_cost",
];

/// The period, if nobody says: so many days, today included.
const DAYS: i32 = 30;

/// A day, in milliseconds.
const DAY: u64 = 86_400_000;

#[derive(Default)]
struct Row {
    /// Of what, in the order that was asked for.
    names: Vec<(&'static str, String)>,
    sums: Sums,
}

impl Admin {
    pub(super) async fn usage(&self, call: &Call<'_>) -> Outcome<Reply> {
        let known: Vec<&str> = WHAT.iter().chain(&PARAMETERS).copied().collect();
        let query = call.query(&known)?;
        let page = Page::of(&query)?;
        let by = dimensions(&query)?;
        let account = query.get("account");
        if let Some(account) = account {
            self.known_account(account)?;
        }
        let (since, until) = self.period(&query, call.now)?;
        let rows = self.rows(account, since, until, &by).await?;
        let csv = call.headers.get_all(ACCEPT).iter().any(|accept| {
            let accept = accept.to_str().unwrap_or_default();
            accept.split(',').any(|range| {
                let media = range.split(';').next().unwrap_or_default();
                media.trim().eq_ignore_ascii_case("text/csv")
            })
        });
        if csv {
            let body = table(&by, rows.values());
            return Ok(Reply::text(StatusCode::OK, "text/csv; charset=utf-8", body));
        }
        let mut total = Sums::default();
        rows.values().for_each(|row| total.add(&row.sums));
        let place = |(place, _): &(String, Row)| place.clone();
        let (rows, next) = page.cut(rows.into_iter().collect(), place);
        let data: Vec<Value> = rows.iter().map(|(_, row)| row_object(row)).collect();
        Ok(Reply::ok(&json!({
            "data": data,
            "next": next,
            "since": date(since),
            "until": date(until),
            "currency": self.settings.currency,
            "total": Value::Object(sums_object(&total)),
        })))
    }

    /// The rows by their places: in the order of their names.
    async fn rows(
        &self,
        account: Option<&str>,
        since: i32,
        until: i32,
        by: &[&'static str],
    ) -> Outcome<BTreeMap<String, Row>> {
        let used = self.backends.books.usage(account, since, until).await?;
        let mut key_names: HashMap<String, String> = HashMap::new();
        if by.contains(&"key") {
            let keys = self.all_keys();
            key_names.extend(
                keys.iter()
                    .map(|(key, _)| (key.id.to_string(), key.name.clone())),
            );
        }
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for (account, used) in used {
            let mut names = Vec::with_capacity(by.len() + 1);
            for dimension in by {
                let name = match *dimension {
                    "account" => account.to_string(),
                    "model" => used.model.to_string(),
                    "key" => used.key.to_string(),
                    "project" => used.project.to_string(),
                    _ => date(used.day),
                };
                names.push((*dimension, name));
                if *dimension == "key" {
                    // A key that left the file has its id only.
                    let name = key_names.get(&*used.key).cloned().unwrap_or_default();
                    names.push(("key_name", name));
                }
            }
            // No name holds this character.
            let place: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
            let row = rows.entry(place.join("\u{1}")).or_default();
            row.names = names;
            row.sums.add(&used.sums);
        }
        Ok(rows)
    }

    /// The first and the last day.
    fn period(&self, query: &Query, now: u64) -> Outcome<(i32, i32)> {
        let today = self.settings.calendar.period(now).day;
        let until = match query.get("until") {
            None => today,
            Some(text) => match self.day(text, now) {
                Some(Moment::Day(day)) => day,
                Some(Moment::Back(days)) => today.saturating_sub(days),
                None => return Err(no_moment("until", text)),
            },
        };
        let since = match query.get("since") {
            None => until.saturating_sub(DAYS - 1),
            Some(text) => match self.day(text, now) {
                Some(Moment::Day(day)) => day,
                // `1d` is today, as `30d` is thirty days with today.
                Some(Moment::Back(days)) => today.saturating_sub(days.saturating_sub(1).max(0)),
                None => return Err(no_moment("since", text)),
            },
        };
        if since > until {
            return Err(Failure::value(
                "since",
                format!(
                    "is {}, which is after `until` ({}); swap them",
                    date(since),
                    date(until)
                ),
            ));
        }
        Ok((since, until))
    }

    fn day(&self, text: &str, now: u64) -> Option<Moment> {
        if let Some(day) = day(text).filter(|_| text.len() == 10) {
            return Some(Moment::Day(day));
        }
        if let Ok(time) = super::values::time(text) {
            return Some(Moment::Day(self.settings.calendar.period(time).day));
        }
        let back = u64::try_from(duration(text).ok()?.as_millis()).ok()?;
        if back % DAY == 0 {
            return i32::try_from(back / DAY).ok().map(Moment::Back);
        }
        let at = now.saturating_sub(back);
        Some(Moment::Day(self.settings.calendar.period(at).day))
    }
}

/// How a day was named.
enum Moment {
    Day(i32),
    /// So many whole days ago.
    Back(i32),
}

fn no_moment(field: &str, text: &str) -> Failure {
    Failure::value(
        field,
        format!(
            "is \"{}\"; write a date (`2026-11-20`), a time of RFC 3339, or how long ago (`30d`)",
            quoted(text)
        ),
    )
}

fn dimensions(query: &Query) -> Outcome<Vec<&'static str>> {
    let mut by = Vec::new();
    for word in query.get("by").unwrap_or("model").split(',') {
        one_of(word, "words", BY.into_iter()).map_err(|words| Failure::value("by", words))?;
        by.extend(
            BY.iter()
                .find(|known| **known == word && !by.contains(*known))
                .copied(),
        );
    }
    Ok(by)
}

fn row_object(row: &Row) -> Value {
    let mut object = Map::new();
    for (dimension, name) in &row.names {
        let nameless = *dimension == "key_name" && name.is_empty();
        let name = if nameless { Value::Null } else { json!(name) };
        object.insert((*dimension).to_owned(), name);
    }
    object.extend(sums_object(&row.sums));
    Value::Object(object)
}

fn sums_object(sums: &Sums) -> Map<String, Value> {
    let values = sums_values(sums);
    let object = SUMS.iter().zip(values).map(|(name, value)| {
        let value = match value {
            Sum::Count(count) => json!(count),
            Sum::Money(money) => json!(money.to_string()),
        };
        ((*name).to_owned(), value)
    });
    object.collect()
}

enum Sum {
    Count(u64),
    Money(Money),
}

/// In the order of [`SUMS`].
fn sums_values(sums: &Sums) -> [Sum; SUMS.len()] {
    let Used {
        tokens,
        images,
        characters,
        seconds,
    } = sums.used;
    [
        Sum::Count(sums.requests),
        Sum::Count(tokens.input),
        Sum::Count(tokens.cached_input),
        Sum::Count(tokens.cache_write),
        Sum::Count(tokens.output),
        Sum::Count(images),
        Sum::Count(characters),
        Sum::Count(seconds),
        Sum::Count(sums.package_tokens),
        Sum::Money(sums.cost),
        Sum::Money(sums.estimated_cost),
    ]
}

fn table<'a>(by: &[&str], rows: impl Iterator<Item = &'a Row>) -> String {
    let mut header = Vec::new();
    for dimension in by {
        header.push(*dimension);
        if *dimension == "key" {
            header.push("key_name");
        }
    }
    header.extend(SUMS);
    let mut text = line(header);
    for row in rows {
        let sums: Vec<String> = sums_values(&row.sums)
            .iter()
            .map(|sum| match sum {
                Sum::Count(count) => count.to_string(),
                Sum::Money(money) => money.to_string(),
            })
            .collect();
        let names = row.names.iter().map(|(_, name)| name.as_str());
        text += &line(names.chain(sums.iter().map(String::as_str)));
    }
    text
}
