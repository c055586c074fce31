//! `tollgate usage`.

use super::Output;
use super::api::{Api, encoded};
use super::table::{Side, Table, money, text};
use clap::Subcommand;
use serde_json::Value;

/// What is asked of usage.
#[derive(Debug, Subcommand)]
pub enum Usage {
    /// Sums of what was used.
    Report {
        /// What rows are of, with commas: account, model, key, project, day.
        #[arg(long, default_value = "model")]
        by: String,
        /// Of this account only.
        #[arg(long)]
        account: Option<String>,
        /// The first day: a date, a time, or how many days with today (`30d`). Default: 30d.
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// The last day, which is included. Default: today.
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Print CSV.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
}

/// Columns: field, title, whether it is shown where it is 0 everywhere.
const SUMS: [(&str, &str, bool); 10] = [
    ("requests", "requests", true),
    ("input_tokens", "input", true),
    ("cached_tokens", "cached", false),
    ("cache_write_tokens", "written", false),
    ("output_tokens", "output", true),
    ("images", "images", false),
    ("characters", "characters", false),
    ("seconds", "seconds", false),
    ("package_tokens", "of packages", false),
    ("cost", "cost", true),
];

/// Does it.
///
/// # Errors
/// In one line.
pub fn run(verb: &Usage, api: &Api, as_json: bool) -> Result<Output, String> {
    let Usage::Report {
        by,
        account,
        since,
        until,
        csv,
    } = verb;
    let mut query = format!("by={}", encoded(by));
    for (name, value) in [("account", account), ("since", since), ("until", until)] {
        if let Some(value) = value {
            query += &format!("&{name}={}", encoded(value));
        }
    }
    if *csv {
        return Ok(api.get_text(&format!("/usage?{query}"), "text/csv")?.into());
    }
    let report = api.list("/usage", &query)?;
    Ok(if as_json {
        report.into()
    } else {
        table(by, &report).into()
    })
}

fn table(by: &str, report: &Value) -> String {
    let total = &report["total"];
    let currency = &report["currency"];
    let nothing = |field: &str| total[field].as_u64() == Some(0);
    let sums: Vec<_> = SUMS
        .into_iter()
        .filter(|(field, _, always)| *always || !nothing(field))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for name in by.split(',').filter(|name| !name.is_empty()) {
        if !names.contains(&name) {
            names.push(name);
        }
        if name == "key" && !names.contains(&"key_name") {
            names.push("key_name");
        }
    }
    let mut columns: Vec<(&str, Side)> = Vec::new();
    for name in &names {
        let title = if *name == "key_name" { "name" } else { name };
        columns.push((title, Side::Left));
    }
    columns.extend(sums.iter().map(|(_, title, _)| (*title, Side::Right)));
    let mut table = Table::new(&columns);
    let cells = |row: &Value| -> Vec<String> {
        let cell = |(field, _, _): &(&str, &str, bool)| match *field {
            "cost" => money(&row[*field], currency),
            field => text(&row[field]),
        };
        sums.iter().map(cell).collect()
    };
    let rows = report["data"].as_array().map_or(&[][..], Vec::as_slice);
    for row in rows {
        let named = names.iter().map(|name| text(&row[*name]));
        table.row(named.chain(cells(row)).collect());
    }
    if rows.len() > 1 {
        let mut last: Vec<String> = vec![String::new(); names.len()];
        if let Some(first) = last.first_mut() {
            "total".clone_into(first);
        }
        last.extend(cells(total));
        table.row(last);
    }
    let period = format!("{} to {}", text(&report["since"]), text(&report["until"]));
    let mut shown = table.text("nothing was used");
    shown += &format!("\n{period}");
    let estimated = money(&total["estimated_cost"], currency);
    if estimated.chars().any(|c| matches!(c, '1'..='9')) {
        shown += &format!("; {estimated} of the cost by estimate");
    }
    shown.push('\n');
    shown
}
