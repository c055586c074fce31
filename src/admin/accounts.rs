//! Accounts: made, listed, edited; how they stand.

use super::body::Form;
use super::failure::{Code, Failure, Outcome};
use super::keys::Source;
use super::page::{PARAMETERS, Page, list};
use super::reply::Reply;
use super::values::{id, ids, one_of, rfc3339, text};
use super::{Admin, Call};
use crate::auth::record::{AccountRecord, KeyRecord, Record, WriteError, Written};
use crate::billing::money::Money;
use crate::billing::{PackageState, Spent, Statement};
use crate::nearest::hint;
use crate::rejection::quoted;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The fields of a new account.
pub const CREATE: [&str; 3] = ["id", "plan", "projects"];

/// The fields of an edit.
pub const EDIT: [&str; 2] = ["plan", "projects"];

const TRIES: u32 = 5;

/// An account, and where it comes from.
pub(super) struct Found {
    pub(super) record: Arc<AccountRecord>,
    /// Its first balance.
    pub(super) seed: Money,
    pub(super) source: Source,
}

impl Admin {
    pub(super) async fn create_account(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &CREATE)?;
        let account = form.need("id", |json| id(text(json)?))?;
        let plan = form.need("plan", |json| self.plan(text(json)?))?;
        let projects = form.maybe("projects", ids)?;
        let file = self.settings.accounts.iter();
        if file.clone().any(|(known, _)| *known.id == *account) {
            return Err(exists(&account));
        }
        let record = AccountRecord {
            id: account.as_str().into(),
            version: 1,
            plan,
            projects: projects.unwrap_or_else(|| vec!["default".to_owned()]),
            created: call.now,
        };
        let keys = &self.backends.keys;
        let written = keys
            .write(Record::Account(record.clone()), call.once.as_ref())
            .await;
        let (record, replayed) = match written {
            Ok(Written::Now) => (Arc::new(record), false),
            Ok(Written::Before(_)) => (keys.account(&account).ok_or_else(Failure::away)?, true),
            Err(WriteError::Changed) => return Err(exists(&account)),
            Err(error) => return Err(error.into()),
        };
        // A repeated request makes up for what the first may not have come to.
        self.backends.books.open(&account, Money::ZERO).await?;
        let found = Found {
            record,
            seed: Money::ZERO,
            source: Source::Runtime,
        };
        let object = self.account_object(&found, call.now).await?;
        Ok(Reply::created(&object).about(account).replayed(replayed))
    }

    pub(super) async fn list_accounts(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let mut accounts = self.all_accounts();
        let place = |found: &Found| found.record.id.to_string();
        accounts.sort_by_cached_key(place);
        let (accounts, next) = page.cut(accounts, place);
        let mut data = Vec::with_capacity(accounts.len());
        for found in &accounts {
            data.push(self.account_object(found, call.now).await?);
        }
        Ok(Reply::ok(&list(data, next)))
    }

    pub(super) async fn get_account(&self, call: &Call<'_>) -> Outcome<Reply> {
        call.query(&[])?;
        let found = self.known_account(call.id)?;
        Ok(Reply::ok(&self.account_object(&found, call.now).await?))
    }

    pub(super) async fn edit_account(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &EDIT)?;
        let plan = form.read_as("plan", |json| self.plan(text(json)?))?;
        let projects = form.read_as("projects", ids)?;
        if matches!(plan, Some(None)) || matches!(projects, Some(None)) {
            let field = if plan == Some(None) {
                "plan"
            } else {
                "projects"
            };
            let words = "is null; write a value, or leave the field out";
            return Err(Failure::value(field, words));
        }
        for turn in 0..TRIES {
            let found = self.known_account(call.id)?;
            if found.source != Source::Runtime {
                return Err(Failure::new(
                    Code::Conflict,
                    format!(
                        "The account {} comes from the configuration file; change it there, under `accounts`.",
                        found.record.id
                    ),
                ));
            }
            let old = AccountRecord::clone(&found.record);
            let record = AccountRecord {
                version: old.version.saturating_add(1),
                plan: plan.clone().flatten().unwrap_or(old.plan),
                projects: projects.clone().flatten().unwrap_or(old.projects),
                ..old
            };
            self.projects_in_use(&record)?;
            let keys = &self.backends.keys;
            let written = keys
                .write(Record::Account(record.clone()), call.once.as_ref())
                .await;
            let (record, replayed) = match written {
                Ok(Written::Now) => (Arc::new(record), false),
                // Perhaps on another node: what was read above may be older.
                Ok(Written::Before(_)) => (keys.account(call.id).unwrap_or(found.record), true),
                // What the other wrote has to reach this node.
                Err(WriteError::Changed) => {
                    sleep(Duration::from_millis(50 << turn)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let found = Found { record, ..found };
            let object = self.account_object(&found, call.now).await?;
            return Ok(Reply::ok(&object).about(call.id).replayed(replayed));
        }
        Err(WriteError::Changed.into())
    }

    /// A project that keys are of cannot go.
    fn projects_in_use(&self, record: &AccountRecord) -> Outcome<()> {
        let keys = self.all_keys();
        let orphan = keys.iter().find(|(key, _)| {
            key.account == record.id
                && key.revoked.is_none()
                && !record
                    .projects
                    .iter()
                    .any(|project| **project == *key.project)
        });
        match orphan {
            None => Ok(()),
            Some((key, _)) => Err(Failure::new(
                Code::Conflict,
                format!(
                    "`projects` lacks `{}`, which the key {} is of; keep the project, or move the key first.",
                    key.project, key.id
                ),
            )
            .param("projects")),
        }
    }

    fn plan(&self, plan: String) -> Result<String, String> {
        let plans = self.settings.plans.iter().map(String::as_str);
        one_of(&plan, "plans", plans)?;
        Ok(plan)
    }

    /// An account by its id. The configuration's stand before those of the same id that were made at run time.
    pub(super) fn known_account(&self, id: &str) -> Outcome<Found> {
        let mut file = self.settings.accounts.iter();
        if let Some((record, seed)) = file.find(|(known, _)| *known.id == *id) {
            return Ok(Found {
                record: Arc::new(record.clone()),
                seed: *seed,
                source: Source::File,
            });
        }
        match self.backends.keys.account(id) {
            Some(record) => Ok(Found {
                record,
                seed: Money::ZERO,
                source: Source::Runtime,
            }),
            None => Err(self.unknown_account(id)),
        }
    }

    fn unknown_account(&self, id: &str) -> Failure {
        let all = self.all_accounts();
        let hint = hint(id, "accounts", all.iter().map(|found| &*found.record.id));
        let end = if hint.ends_with('?') {
            ""
        } else {
            "; create it with POST /admin/v1/accounts."
        };
        Failure::new(
            Code::NotFound,
            format!("There is no account `{}`{hint}{end}", quoted(id)),
        )
    }

    /// The projects of an account that a field names.
    pub(super) fn projects(&self, account: &str, field: &str) -> Outcome<Vec<String>> {
        match self.known_account(account) {
            Ok(found) => Ok(found.record.projects.clone()),
            Err(failure) => Err(Failure {
                code: Code::InvalidValue,
                ..failure.param(field)
            }),
        }
    }

    pub(super) fn all_accounts(&self) -> Vec<Found> {
        let file = self.settings.accounts.iter().map(|(record, seed)| Found {
            record: Arc::new(record.clone()),
            seed: *seed,
            source: Source::File,
        });
        let in_file = |id: &str| self.settings.accounts.iter().any(|(one, _)| *one.id == *id);
        let runtime = self.backends.keys.accounts().into_iter();
        let runtime = runtime
            .filter(|record| !in_file(&record.id))
            .map(|record| Found {
                record,
                seed: Money::ZERO,
                source: Source::Runtime,
            });
        file.chain(runtime).collect()
    }

    /// An account as it is answered.
    pub(super) async fn account_object(&self, found: &Found, now: u64) -> Outcome<Value> {
        let AccountRecord {
            id,
            version: _,
            plan,
            projects,
            created,
        } = &*found.record;
        let statement = self.backends.books.statement(id).await?;
        // One that was never opened will begin with this.
        let statement = statement.unwrap_or_else(|| Statement {
            balance: found.seed,
            ..Statement::default()
        });
        let mut keys: Vec<_> = self.all_keys();
        keys.retain(|(key, _)| key.account == *id);
        keys.sort_by_key(|(key, _)| (key.created, key.id.clone()));
        let keys: Vec<Value> = keys
            .iter()
            .map(|(key, source)| self.key_line(key, *source, &statement, now))
            .collect();
        Ok(json!({
            "id": id,
            "plan": plan,
            "projects": projects,
            "source": found.source.as_str(),
            "currency": self.settings.currency,
            "balance": statement.balance.to_string(),
            "held": statement.held.to_string(),
            "packages": packages(&statement.packages, now),
            "keys": keys,
            "created": (*created > 0).then(|| rfc3339(*created)),
        }))
    }

    fn key_line(&self, key: &KeyRecord, source: Source, statement: &Statement, now: u64) -> Value {
        let period = self.settings.calendar.period(now);
        let spent = statement.keys.iter().find(|(id, _)| *id == key.id);
        let spent = spent.map_or_else(Spent::default, |(_, spent)| *spent);
        json!({
            "id": key.id,
            "name": key.name,
            "prefix": (!key.hint.is_empty()).then_some(&key.hint),
            "project": key.project,
            "source": source.as_str(),
            "spend_cap": {
                "daily": key.spend_cap.daily.to_string(),
                "monthly": key.spend_cap.monthly.to_string(),
            },
            "spent": {
                "daily": spent.of_day(period).to_string(),
                "monthly": spent.of_month(period).to_string(),
                "held": spent.held.to_string(),
            },
        })
    }
}

/// An account's packages as they are answered.
pub(super) fn packages(packages: &[PackageState], now: u64) -> Vec<Value> {
    let object = |package: &PackageState| {
        let PackageState {
            id,
            name,
            tokens,
            left,
            held,
            granted,
            expires,
        } = package;
        json!({
            "id": id,
            "name": name,
            "tokens": tokens,
            "tokens_left": left,
            "held": held,
            "granted": rfc3339(*granted),
            "expires": rfc3339(*expires),
            "active": *expires > now && *left > 0,
        })
    };
    packages.iter().map(object).collect()
}

fn exists(id: &str) -> Failure {
    Failure::new(
        Code::Conflict,
        format!("The account `{id}` exists already; change it with PATCH /admin/v1/accounts/{id}."),
    )
    .param("id")
}
