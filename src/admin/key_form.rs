//! What is said about a key when it is made or edited.

use super::Admin;
use super::body::{Form, Json};
use super::failure::{Failure, Outcome};
use super::values::{flag, future, globs, money, name, networks, one_of, text};
use crate::auth::record::{KeyBilling, KeyRecord, SpendCap};
use crate::billing::money::Money;
use std::sync::Arc;

/// The fields of a new key.
pub const CREATE: [&str; 9] = [
    "name",
    "account",
    "project",
    "plan",
    "models",
    "networks",
    "billing",
    "spend_cap",
    "expires",
];

/// The fields of an edit.
pub const EDIT: [&str; 10] = [
    "name",
    "account",
    "project",
    "plan",
    "models",
    "networks",
    "billing",
    "spend_cap",
    "expires",
    "disabled",
];

/// The fields that were given; `Some(None)` is a null.
#[derive(Debug)]
pub struct Changes {
    name: Option<String>,
    account: Option<String>,
    project: Option<String>,
    plan: Option<Option<String>>,
    models: Option<Option<Vec<String>>>,
    networks: Option<Option<Vec<String>>>,
    billing: Option<KeyBilling>,
    spend_cap: Option<SpendCap>,
    expires: Option<Option<u64>>,
    disabled: Option<bool>,
}

impl Changes {
    /// Those of a new key: with a name and an account.
    ///
    /// # Errors
    /// What is missing, unknown or wrong.
    pub fn new_key(body: &[u8], now: u64) -> Outcome<Changes> {
        let mut form = Form::read(body, &CREATE)?;
        let name = form.need("name", name)?;
        let account = form.need("account", text)?;
        Ok(Changes {
            name: Some(name),
            account: Some(account),
            ..Changes::read(form, now)?
        })
    }

    /// Those of an edit.
    ///
    /// # Errors
    /// What is unknown or wrong.
    pub fn edit(body: &[u8], now: u64) -> Outcome<Changes> {
        Changes::read(Form::read(body, &EDIT)?, now)
    }

    fn read(mut form: Form, now: u64) -> Outcome<Changes> {
        let form = &mut form;
        Ok(Changes {
            name: never_null(form, "name", name)?,
            account: never_null(form, "account", text)?,
            project: never_null(form, "project", text)?,
            plan: form.read_as("plan", text)?,
            models: form.read_as("models", globs)?,
            networks: form.read_as("networks", networks)?,
            billing: match form.take("billing") {
                None => None,
                Some(given) => Some(billing(given)?),
            },
            spend_cap: match form.take("spend_cap") {
                None => None,
                Some(given) => Some(spend_cap(given)?),
            },
            expires: form.read_as("expires", |json| future(json, now))?,
            disabled: never_null(form, "disabled", flag)?,
        })
    }

    /// The key with the changes made. What is not changed is not looked at again: the configuration may have
    /// moved on.
    ///
    /// # Errors
    /// A name that the configuration does not have.
    pub fn apply(self, admin: &Admin, mut key: KeyRecord) -> Outcome<KeyRecord> {
        let Changes {
            name,
            account,
            project,
            plan,
            models,
            networks,
            billing,
            spend_cap,
            expires,
            disabled,
        } = self;
        if let Some(name) = name {
            key.name = name;
        }
        if account.is_some() || project.is_some() {
            let moved = account.is_some();
            if let Some(account) = account {
                key.account = account.into();
            }
            let projects = admin.projects(&key.account, "account")?;
            key.project = chosen_project(project, &key, &projects, moved)?;
        }
        if let Some(plan) = plan {
            if let Some(plan) = &plan {
                let plans = admin.settings.plans.iter().map(String::as_str);
                one_of(plan, "plans", plans).map_err(|words| Failure::value("plan", words))?;
            }
            key.plan = plan;
        }
        if let Some(models) = models {
            key.models = models;
        }
        if let Some(networks) = networks {
            key.networks = networks.unwrap_or_default();
        }
        if let Some(billing) = billing {
            if let KeyBilling::Package(package) = &billing {
                let known = admin.settings.packages.iter().map(|one| one.name.as_str());
                one_of(package, "packages", known)
                    .map_err(|words| Failure::value("billing.package", words))?;
            }
            key.billing = billing;
        }
        if let Some(spend_cap) = spend_cap {
            key.spend_cap = spend_cap;
        }
        if let Some(expires) = expires {
            key.expires = expires;
        }
        if let Some(disabled) = disabled {
            key.disabled = disabled;
        }
        Ok(key)
    }
}

/// The project that was named; without one the key's own stays, or becomes `default`.
fn chosen_project(
    given: Option<String>,
    key: &KeyRecord,
    projects: &[String],
    moved: bool,
) -> Outcome<Arc<str>> {
    let project: Arc<str> = match given {
        Some(project) => project.into(),
        None if moved && key.project.is_empty() => "default".into(),
        None => key.project.clone(),
    };
    let known = projects.iter().map(String::as_str);
    let what = format!("projects of account {}", key.account);
    one_of(&project, &what, known).map_err(|words| Failure::value("project", words))?;
    Ok(project)
}

fn never_null<T>(
    form: &mut Form,
    name: &str,
    read: impl FnOnce(Json) -> Result<T, String>,
) -> Outcome<Option<T>> {
    match form.read_as(name, read)? {
        None => Ok(None),
        Some(Some(value)) => Ok(Some(value)),
        Some(None) => Err(Failure::value(
            &form.path(name),
            "is null; write a value, or leave the field out",
        )),
    }
}

/// `"pay_as_you_go"`, `{"package": NAME}`; null is the first.
fn billing(given: Option<Json>) -> Outcome<KeyBilling> {
    match given {
        None => Ok(KeyBilling::PayAsYouGo),
        Some(Json::Text(word)) if word == "pay_as_you_go" => Ok(KeyBilling::PayAsYouGo),
        Some(object @ Json::Object(_)) => {
            let mut form = Form::of(object, "billing.", &["package"])?;
            Ok(KeyBilling::Package(form.need("package", text)?))
        }
        Some(other) => Err(Failure::value(
            "billing",
            format!(
                "is {}; write \"pay_as_you_go\" or {{\"package\": NAME}}",
                other.shown()
            ),
        )),
    }
}

/// `{"daily": AMOUNT, "monthly": AMOUNT}`; what is missing, null or 0 is no cap.
fn spend_cap(given: Option<Json>) -> Outcome<SpendCap> {
    let Some(given) = given else {
        return Ok(SpendCap::default());
    };
    let mut form = Form::of(given, "spend_cap.", &["daily", "monthly"])?;
    let mut cap = |name| -> Outcome<Money> { Ok(form.maybe(name, money)?.unwrap_or_default()) };
    Ok(SpendCap {
        daily: cap("daily")?,
        monthly: cap("monthly")?,
    })
}
