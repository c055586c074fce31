//! What operators post: top-ups, refunds, packages.

use super::accounts::{Found, packages};
use super::body::Form;
use super::failure::{Failure, Outcome};
use super::page::{PARAMETERS, Page, list};
use super::reply::Reply;
use super::settings::Package;
use super::values::{note, one_of, rfc3339, sum, text};
use super::{Admin, Call};
use crate::billing::{Entry, PostError, Posted};
use serde_json::{Map, Value, json};

/// The fields of a top-up and of a refund.
pub const SUM: [&str; 2] = ["amount", "note"];

/// The fields of a grant.
pub const GRANT: [&str; 2] = ["package", "note"];

impl Admin {
    pub(super) async fn top_up(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &SUM)?;
        let amount = form.need("amount", sum)?;
        self.post(call, Entry::TopUp { amount }, form).await
    }

    pub(super) async fn refund(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &SUM)?;
        let amount = form.need("amount", sum)?;
        self.post(call, Entry::Refund { amount }, form).await
    }

    pub(super) async fn grant_package(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &GRANT)?;
        let name = form.need("package", text)?;
        let sold = &self.settings.packages;
        let Some(package) = sold.iter().find(|package| package.name == name) else {
            let known = sold.iter().map(|package| package.name.as_str());
            let words = one_of(&name, "packages", known).err();
            return Err(Failure::value("package", words.unwrap_or_default()));
        };
        let grant = Entry::Grant {
            package: name.into(),
            tokens: package.tokens,
            valid: package.valid,
        };
        self.post(call, grant, form).await
    }

    async fn post(&self, call: Call<'_>, entry: Entry, mut form: Form) -> Outcome<Reply> {
        let note = form.maybe("note", note)?;
        let found = self.known_account(call.id)?;
        let books = &self.backends.books;
        let (id, once) = (&found.record.id, call.once.as_ref());
        let posted = match books.post(id, entry.clone(), note.clone(), once).await {
            // Made, but not opened: its maker went away in between.
            Err(PostError::Unknown) => {
                books.open(id, found.seed).await?;
                books.post(id, entry, note, once).await
            }
            posted => posted,
        };
        let (posted, replayed) = posted?;
        let mut object = self.account_object(&found, call.now).await?;
        object["entry"] = entry_object(&posted);
        Ok(Reply::created(&object)
            .about(format!("{id} {}", posted.id))
            .replayed(replayed))
    }

    pub(super) async fn list_entries(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let found = self.known_account(call.id)?;
        let entries = self.entries(&found).await?;
        // They are appended only: the order in which they were made is the order of the list, whatever the clock said.
        let numbered = entries.into_iter().enumerate().collect();
        let place = |(number, _): &(usize, Posted)| format!("{number:020}");
        let (entries, next) = page.cut(numbered, place);
        let data = entries.iter().map(|(_, one)| entry_object(one)).collect();
        Ok(Reply::ok(&list(data, next)))
    }

    async fn entries(&self, found: &Found) -> Outcome<Vec<Posted>> {
        match self.backends.books.entries(&found.record.id).await {
            Err(PostError::Unknown) => Ok(Vec::new()),
            entries => Ok(entries?),
        }
    }

    pub(super) async fn list_granted(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let found = self.known_account(call.id)?;
        let statement = self.backends.books.statement(&found.record.id).await?;
        let mut granted = statement.unwrap_or_default().packages;
        let place = |package: &crate::billing::PackageState| {
            format!("{:020}{}", package.expires, package.id)
        };
        granted.sort_by_cached_key(place);
        let (granted, next) = page.cut(granted, place);
        Ok(Reply::ok(&list(packages(&granted, call.now), next)))
    }

    pub(super) fn list_packages(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let mut sold: Vec<&Package> = self.settings.packages.iter().collect();
        let place = |package: &&Package| package.name.clone();
        sold.sort_by_cached_key(place);
        let (sold, next) = page.cut(sold, place);
        let object = |package: &&Package| {
            let Package {
                name,
                tokens,
                valid,
                models,
                price,
            } = *package;
            json!({
                "name": name,
                "tokens": tokens,
                "valid_seconds": valid.as_secs(),
                "models": models,
                "price": price.to_string(),
                "currency": self.settings.currency,
            })
        };
        Ok(Reply::ok(&list(sold.iter().map(object).collect(), next)))
    }
}

/// An entry as it is answered.
fn entry_object(posted: &Posted) -> Value {
    let Posted {
        id,
        entry,
        note,
        at,
    } = posted;
    let (kind, what) = match entry {
        Entry::Open { amount } => ("open", json!({ "amount": amount.to_string() })),
        Entry::TopUp { amount } => ("top_up", json!({ "amount": amount.to_string() })),
        Entry::Refund { amount } => ("refund", json!({ "amount": amount.to_string() })),
        Entry::Grant {
            package,
            tokens,
            valid,
        } => (
            "grant",
            json!({ "package": package, "tokens": tokens, "valid_seconds": valid.as_secs() }),
        ),
    };
    let mut object = Map::new();
    object.insert("id".into(), json!(id));
    object.insert("kind".into(), json!(kind));
    if let Value::Object(what) = what {
        object.extend(what);
    }
    object.insert("note".into(), json!(note));
    object.insert("at".into(), json!(rfc3339(*at)));
    Value::Object(object)
}
