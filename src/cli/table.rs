//! Tables for people: aligned columns, numbers to the right.

use serde_json::Value;

/// On which side of its column a text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under way.
pub struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Side)]) -> Table {
        Table {
            sides: columns.iter().map(|(_, side)| *side).collect(),
            rows: vec![
                columns
                    .iter()
                    .map(|(name, _)| (*name).to_uppercase())
                    .collect(),
            ],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        // What a name holds must not move the cursor.
        let plain = |cell: String| -> String {
            let shown = |c: char| if c.is_control() { '?' } else { c };
            cell.chars().map(shown).collect()
        };
        self.rows.push(cells.into_iter().map(plain).collect());
    }

    /// The table as a text; `none` says that it has no rows.
    pub fn text(&self, none: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{none}\n");
        }
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), side) in row.iter().zip(&widths).zip(&self.sides) {
                match side {
                    Side::Left => line += &format!("{cell:<width$}  "),
                    Side::Right => line += &format!("{cell:>width$}  "),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A field as a text: empty for null.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// `99.937500` → `99.9375`: all decimals that say something, at least 2.
pub fn amount(value: &Value) -> String {
    let text = text(value);
    let Some((whole, decimals)) = text.split_once('.') else {
        return text;
    };
    let said = decimals.trim_end_matches('0').len().max(2);
    let decimals: String = decimals.chars().take(said).collect();
    format!("{whole}.{decimals}")
}

/// An amount with its currency.
pub fn money(value: &Value, currency: &Value) -> String {
    format!("{} {}", amount(value), text(currency))
        .trim_end()
        .to_owned()
}

/// A cap: `-` for none.
pub fn cap(value: &Value) -> String {
    match text(value).chars().all(|c| matches!(c, '0' | '.')) {
        true => "-".to_owned(),
        false => amount(value),
    }
}

/// `2026-11-20T12:00:00Z` → `2026-11-20 12:00`; `-` for none.
pub fn time(value: &Value) -> String {
    match value.as_str() {
        Some(time) => time.chars().take(16).collect::<String>().replace('T', " "),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("name", Side::Left), ("cost", Side::Right)]);
        assert_eq!(table.text("no rows"), "no rows\n");
        table.row(vec!["añb".into(), "1.00".into()]);
        table.row(vec!["a\u{1b}[2J".into(), "10.00".into()]);
        assert_eq!(table.text(""), "NAME    COST\nañb     1.00\na?[2J  10.00\n");
    }

    #[test]
    fn amounts_and_times_are_short() {
        assert_eq!(money(&json!("99.937500"), &json!("CNY")), "99.9375 CNY");
        assert_eq!(money(&json!("-3.000000"), &json!("CNY")), "-3.00 CNY");
        assert_eq!(amount(&json!("0.000001")), "0.000001");
        assert_eq!(amount(&json!(7)), "7");
        assert_eq!(
            (cap(&json!("0.000000")), cap(&json!("1.500000"))),
            ("-".into(), "1.50".into())
        );
        assert_eq!(time(&json!("2026-11-20T12:00:00Z")), "2026-11-20 12:00");
        assert_eq!(time(&Value::Null), "-");
    }
}
