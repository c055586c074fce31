//! `tollgate accounts`.

use super::Output;
use super::api::{Api, encoded};
use super::table::{Side, Table, money, text, time};
use clap::Subcommand;
use serde_json::{Value, json};

/// What is done with accounts.
#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Make an account, without money.
    Create {
        /// Its id: letters, digits, `.`, `@`, `_`, `-`.
        id: String,
        /// Its plan.
        #[arg(long)]
        plan: String,
        /// Its projects; with commas, or repeated. Default: `default`.
        #[arg(long, value_name = "PROJECT", value_delimiter = ',')]
        projects: Vec<String>,
    },
    /// List accounts.
    List,
    /// Show an account: balance, packages, what its keys have spent.
    Show {
        /// Its id.
        id: String,
    },
    /// Book money that came in.
    TopUp {
        /// The account.
        id: String,
        /// How much.
        amount: String,
        /// Why.
        #[arg(long)]
        note: Option<String>,
    },
    /// Book money that goes back.
    Refund {
        /// The account.
        id: String,
        /// How much: no more than is neither spent nor held.
        amount: String,
        /// Why.
        #[arg(long)]
        note: Option<String>,
    },
}

/// Does it.
///
/// # Errors
/// In one line.
pub fn run(verb: &Accounts, api: &Api, as_json: bool) -> Result<Output, String> {
    let of = |id: &str| format!("/accounts/{}", encoded(id));
    let post = |id: &str, kind: &str, amount: &str, note: &Option<String>| {
        let body = json!({ "amount": amount, "note": note });
        api.write("POST", &format!("{}/{kind}", of(id)), Some(&body))
    };
    let account = match verb {
        Accounts::Create { id, plan, projects } => {
            let mut body = json!({ "id": id, "plan": plan });
            if !projects.is_empty() {
                body["projects"] = json!(projects);
            }
            api.write("POST", "/accounts", Some(&body))?
        }
        Accounts::List => {
            let list = api.list("/accounts", "")?;
            return Ok(if as_json { list.into() } else { table(&list) });
        }
        Accounts::Show { id } => api.get(&of(id))?,
        Accounts::TopUp { id, amount, note } => post(id, "top-ups", amount, note)?,
        Accounts::Refund { id, amount, note } => post(id, "refunds", amount, note)?,
    };
    Ok(if as_json {
        account.into()
    } else {
        details(&account).into()
    })
}

fn table(list: &Value) -> Output {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        ("id", Left),
        ("plan", Left),
        ("projects", Left),
        ("balance", Right),
        ("held", Right),
        ("packages", Right),
        ("keys", Right),
        ("source", Left),
    ]);
    for account in list["data"].as_array().into_iter().flatten() {
        let currency = &account["currency"];
        let packages = account["packages"].as_array();
        let active = packages.map_or(0, |all| {
            all.iter().filter(|one| one["active"] == true).count()
        });
        table.row(vec![
            text(&account["id"]),
            text(&account["plan"]),
            text(&account["projects"]),
            money(&account["balance"], currency),
            money(&account["held"], currency),
            active.to_string(),
            account["keys"].as_array().map_or(0, Vec::len).to_string(),
            text(&account["source"]),
        ]);
    }
    table.text("no accounts").into()
}

/// An account for people.
pub fn details(account: &Value) -> String {
    use Side::{Left, Right};
    let currency = &account["currency"];
    let mut shown = String::new();
    for (name, value) in [
        ("account", text(&account["id"])),
        ("plan", text(&account["plan"])),
        ("projects", text(&account["projects"])),
        ("balance", money(&account["balance"], currency)),
        ("held", money(&account["held"], currency)),
    ] {
        shown += &format!("{name:<12} {value}\n");
    }
    if let Some(entry) = account["entry"].as_object() {
        let what = match entry.get("package") {
            Some(package) => format!("package {}", text(package)),
            None => money(entry.get("amount").unwrap_or(&Value::Null), currency),
        };
        let kind = entry.get("kind").map(text).unwrap_or_default();
        let id = entry.get("id").map(text).unwrap_or_default();
        shown += &format!(
            "{:<12} {}: {what} ({id})\n",
            "entry",
            kind.replace('_', "-")
        );
    }
    let packages = package_table(account["packages"].as_array());
    if !packages.is_empty() {
        shown += &format!("\n{packages}");
    }
    let mut keys = Table::new(&[
        ("key", Left),
        ("name", Left),
        ("project", Left),
        ("today", Right),
        ("this month", Right),
        ("held", Right),
    ]);
    let all = account["keys"].as_array().map_or(&[][..], Vec::as_slice);
    for key in all {
        keys.row(vec![
            text(&key["id"]),
            text(&key["name"]),
            text(&key["project"]),
            money(&key["spent"]["daily"], currency),
            money(&key["spent"]["monthly"], currency),
            money(&key["spent"]["held"], currency),
        ]);
    }
    if !all.is_empty() {
        shown += &format!("\n{}", keys.text(""));
    }
    shown
}

/// Packages for people; empty without any.
pub fn package_table(packages: Option<&Vec<Value>>) -> String {
    use Side::{Left, Right};
    let all = packages.map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("package", Left),
        ("id", Left),
        ("tokens left", Right),
        ("of", Right),
        ("held", Right),
        ("expires", Left),
        ("", Left),
    ]);
    for package in all {
        let active = package["active"] == true;
        table.row(vec![
            text(&package["name"]),
            text(&package["id"]),
            text(&package["tokens_left"]),
            text(&package["tokens"]),
            text(&package["held"]),
            time(&package["expires"]),
            if active { "" } else { "used up or expired" }.to_owned(),
        ]);
    }
    table.text("")
}
