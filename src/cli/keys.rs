//! `tollgate keys`.

use super::Output;
use super::api::{Api, encoded};
use super::table::{Side, Table, cap, text, time};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key. Its text is shown once.
    Create {
        #[command(flatten)]
        name: Name,
        /// The account that pays.
        #[arg(long)]
        account: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// List keys.
    List {
        /// Of this account only.
        #[arg(long)]
        account: Option<String>,
    },
    /// Show a key.
    Show {
        /// Its id.
        id: String,
    },
    /// Change a key.
    Edit {
        /// Its id.
        id: String,
        /// A new name.
        #[arg(long)]
        name: Option<String>,
        /// Another account.
        #[arg(long)]
        account: Option<String>,
        #[command(flatten)]
        fields: Fields,
        /// Take a setting away; may be repeated.
        #[arg(long, value_enum, value_name = "SETTING")]
        clear: Vec<Clear>,
    },
    /// Let a disabled key in again.
    Enable {
        /// Its id.
        id: String,
    },
    /// Refuse a key until it is enabled again.
    Disable {
        /// Its id.
        id: String,
    },
    /// Refuse a key for good.
    Revoke {
        /// Its id.
        id: String,
    },
    /// Give a key a new text, which is shown once.
    Rotate {
        /// Its id.
        id: String,
        /// How long the old text is taken: `30m`, `24h`, `7d`; `0s` not at all.
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        grace: String,
    },
}

/// A new key's name, written either way.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Name {
    /// Its name.
    name: Option<String>,
    /// Its name, for those who put options first.
    #[arg(long = "name", id = "named", value_name = "NAME")]
    named: Option<String>,
}

/// Settings of a key.
#[derive(Debug, Default, Args)]
pub struct Fields {
    /// One of the account's projects.
    #[arg(long)]
    project: Option<String>,
    /// A plan instead of the account's.
    #[arg(long)]
    plan: Option<String>,
    /// Models that it may use, such as `gpt-*`; with commas, or repeated.
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    models: Vec<String>,
    /// Networks that it may be used from, such as `10.0.0.0/8`; with commas, or repeated.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
    /// Pay with packages of this name.
    #[arg(long, value_name = "NAME")]
    package: Option<String>,
    /// The most that it may spend in a day; 0 is no cap.
    #[arg(long, value_name = "AMOUNT")]
    daily_cap: Option<String>,
    /// The most that it may spend in a month; 0 is no cap.
    #[arg(long, value_name = "AMOUNT")]
    monthly_cap: Option<String>,
    /// When it ends: `2027-01-01T00:00:00Z`.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// Settings that can be taken away.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Clear {
    /// The account's plan holds.
    Plan,
    /// All models of the plan.
    Models,
    /// From everywhere.
    Networks,
    /// The account's balance pays.
    Package,
    /// No caps.
    SpendCap,
    /// It does not end.
    Expires,
}

/// Does it.
///
/// # Errors
/// In one line.
pub fn run(verb: &Keys, api: &Api, as_json: bool) -> Result<Output, String> {
    let of = |id: &str| format!("/keys/{}", encoded(id));
    let patch = |id: &str, body: Value| api.write("PATCH", &of(id), Some(&body));
    let key = match verb {
        Keys::Create {
            name: Name { name, named },
            account,
            fields,
        } => {
            let mut body = body(fields);
            // Exactly one is there.
            body.insert("name".into(), json!(name.as_ref().or(named.as_ref())));
            body.insert("account".into(), json!(account));
            let made = api.write("POST", "/keys", Some(&Value::Object(body)))?;
            return Ok(if as_json {
                made.into()
            } else {
                shown_once(&made)
            });
        }
        Keys::Rotate { id, grace } => {
            let body = json!({ "grace": grace });
            let made = api.write("POST", &format!("{}/rotate", of(id)), Some(&body))?;
            return Ok(if as_json {
                made.into()
            } else {
                shown_once(&made)
            });
        }
        Keys::List { account } => {
            let account = account.as_deref().map(encoded);
            let query = account.map_or_else(String::new, |account| format!("account={account}"));
            let list = api.list("/keys", &query)?;
            return Ok(if as_json { list.into() } else { table(&list) });
        }
        Keys::Show { id } => api.get(&of(id))?,
        Keys::Edit {
            id,
            name,
            account,
            fields,
            clear,
        } => {
            let mut body = body(fields);
            for (field, value) in [("name", name), ("account", account)] {
                if let Some(value) = value {
                    body.insert(field.into(), json!(value));
                }
            }
            for setting in clear {
                let field = match setting {
                    Clear::Plan => "plan",
                    Clear::Models => "models",
                    Clear::Networks => "networks",
                    Clear::Package => "billing",
                    Clear::SpendCap => "spend_cap",
                    Clear::Expires => "expires",
                };
                body.insert(field.into(), Value::Null);
            }
            if body.is_empty() {
                return Err(
                    "nothing to change: see `tollgate keys edit --help` for what can be".to_owned(),
                );
            }
            // The API takes both caps together: the one that is not named stays.
            if let Some(Value::Object(caps)) = body.get_mut("spend_cap") {
                let old = api.get(&of(id))?;
                for cap in ["daily", "monthly"] {
                    caps.entry(cap)
                        .or_insert_with(|| old["spend_cap"][cap].clone());
                }
            }
            patch(id, Value::Object(body))?
        }
        Keys::Enable { id } => patch(id, json!({ "disabled": false }))?,
        Keys::Disable { id } => patch(id, json!({ "disabled": true }))?,
        Keys::Revoke { id } => api.write("DELETE", &of(id), None)?,
    };
    Ok(if as_json {
        key.into()
    } else {
        details(&key).into()
    })
}

fn body(fields: &Fields) -> Map<String, Value> {
    let Fields {
        project,
        plan,
        models,
        networks,
        package,
        daily_cap,
        monthly_cap,
        expires,
    } = fields;
    let mut body = Map::new();
    for (field, value) in [("project", project), ("plan", plan), ("expires", expires)] {
        if let Some(value) = value {
            body.insert(field.into(), json!(value));
        }
    }
    for (field, values) in [("models", models), ("networks", networks)] {
        if !values.is_empty() {
            body.insert(field.into(), json!(values));
        }
    }
    if let Some(package) = package {
        body.insert("billing".into(), json!({ "package": package }));
    }
    let mut caps = Map::new();
    for (field, value) in [("daily", daily_cap), ("monthly", monthly_cap)] {
        if let Some(value) = value {
            caps.insert(field.into(), json!(value));
        }
    }
    if !caps.is_empty() {
        body.insert("spend_cap".into(), Value::Object(caps));
    }
    body
}

fn shown_once(made: &Value) -> Output {
    let mut output = Output::from(details(made));
    output.text += &match made["key"].as_str() {
        Some(key) => format!("\n{key}\n"),
        None => String::new(),
    };
    output.warning = Some(match made["key"].as_str() {
        Some(_) => "This is the only time that the key is shown: keep it now.".to_owned(),
        None => format!(
            "The key was made, but its text got lost on the way and is not shown again: give it a new one with `tollgate keys rotate {} --grace 0s`.",
            text(&made["id"])
        ),
    });
    output
}

fn pays(key: &Value) -> String {
    match key["billing"]["package"].as_str() {
        Some(package) => format!("package {package}"),
        None => "balance".to_owned(),
    }
}

fn details(key: &Value) -> String {
    let or = |value: String, none: &str| {
        if value.is_empty() {
            none.to_owned()
        } else {
            value
        }
    };
    let mut lines = vec![
        ("id", text(&key["id"])),
        ("name", text(&key["name"])),
        ("state", text(&key["state"])),
        (
            "account",
            format!(
                "{}, project {}",
                text(&key["account"]),
                text(&key["project"])
            ),
        ),
        ("plan", or(text(&key["plan"]), "the account's")),
        ("pays with", pays(key)),
        (
            "caps",
            format!(
                "{} a day, {} a month",
                cap(&key["spend_cap"]["daily"]),
                cap(&key["spend_cap"]["monthly"])
            ),
        ),
        ("models", or(text(&key["models"]), "all of the plan")),
        ("networks", or(text(&key["networks"]), "any")),
        ("expires", time(&key["expires"])),
        ("made", time(&key["created"])),
        ("begins with", or(text(&key["prefix"]), "-")),
        ("source", text(&key["source"])),
    ];
    if let Some(until) = key["retiring"]["until"].as_str() {
        let until = time(&json!(until));
        let old = format!(
            "{} is taken until {until}",
            text(&key["retiring"]["prefix"])
        );
        lines.push(("old key", old));
    }
    let mut shown = String::new();
    for (name, value) in lines {
        shown += &format!("{name:<12} {value}\n");
    }
    shown
}

fn table(list: &Value) -> Output {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        ("id", Left),
        ("name", Left),
        ("account", Left),
        ("project", Left),
        ("begins", Left),
        ("state", Left),
        ("pays with", Left),
        ("day cap", Right),
        ("month cap", Right),
        ("expires", Left),
        ("source", Left),
    ]);
    for key in list["data"].as_array().into_iter().flatten() {
        let caps = &key["spend_cap"];
        table.row(vec![
            text(&key["id"]),
            text(&key["name"]),
            text(&key["account"]),
            text(&key["project"]),
            text(&key["prefix"]),
            text(&key["state"]),
            pays(key),
            cap(&caps["daily"]),
            cap(&caps["monthly"]),
            time(&key["expires"]),
            text(&key["source"]),
        ]);
    }
    table.text("no keys").into()
}
