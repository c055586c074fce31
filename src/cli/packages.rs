//! `tollgate packages`.

use super::Output;
use super::accounts::{details, package_table};
use super::api::{Api, encoded};
use super::table::{Side, Table, money, text};
use clap::Subcommand;
use serde_json::{Value, json};

/// What is done with packages.
#[derive(Debug, Subcommand)]
pub enum Packages {
    /// Sell or give an account a package. Money for it is not booked.
    Grant {
        /// The account.
        account: String,
        /// The package's name in the configuration.
        package: String,
        /// Why.
        #[arg(long)]
        note: Option<String>,
    },
    /// List what is on sale, or an account's packages.
    List {
        /// Of this account.
        #[arg(long)]
        account: Option<String>,
    },
}

/// Does it.
///
/// # Errors
/// In one line.
pub fn run(verb: &Packages, api: &Api, as_json: bool) -> Result<Output, String> {
    let of = |account: &str| format!("/accounts/{}/packages", encoded(account));
    let (answer, shown) = match verb {
        Packages::Grant {
            account,
            package,
            note,
        } => {
            let body = json!({ "package": package, "note": note });
            let state = api.write("POST", &of(account), Some(&body))?;
            let shown = details(&state);
            (state, shown)
        }
        Packages::List {
            account: Some(account),
        } => {
            let list = api.list(&of(account), "")?;
            let mut shown = package_table(list["data"].as_array());
            if shown.is_empty() {
                "no packages\n".clone_into(&mut shown);
            }
            (list, shown)
        }
        Packages::List { account: None } => {
            let list = api.list("/packages", "")?;
            let shown = on_sale(&list);
            (list, shown)
        }
    };
    Ok(if as_json { answer.into() } else { shown.into() })
}

fn on_sale(list: &Value) -> String {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        ("package", Left),
        ("tokens", Right),
        ("days", Right),
        ("price", Right),
        ("models", Left),
    ]);
    for package in list["data"].as_array().into_iter().flatten() {
        let days = package["valid_seconds"].as_f64().unwrap_or(0.0) / 86_400.0;
        table.row(vec![
            text(&package["name"]),
            text(&package["tokens"]),
            format!("{:.1}", days).trim_end_matches(".0").to_owned(),
            money(&package["price"], &package["currency"]),
            text(&package["models"]),
        ]);
    }
    table.text("no packages: add some under `billing.packages` of the configuration")
}
