//! Keys: made, listed, edited, rotated, revoked.

use super::body::Form;
use super::failure::{Code, Failure, Outcome};
use super::key_form::Changes;
use super::page::{PARAMETERS, Page, list};
use super::reply::Reply;
use super::values::{duration, rfc3339, text};
use super::{Admin, Call, hex};
use crate::auth::record::{KeyBilling, KeyRecord, Record, Retiring, WriteError, Written};
use crate::auth::secret::{KeyHash, KeyHint, generate};
use crate::billing::Once;
use crate::rejection::quoted;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The fields of a rotation.
pub const ROTATE: [&str; 1] = ["grace"];

/// How long the old key is taken if nobody says.
const GRACE: Duration = Duration::from_secs(24 * 3_600);

/// A change is tried so often, while others change the same record.
const TRIES: u32 = 5;

/// Where a key comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Made by a call.
    Runtime,
    /// Written in the configuration.
    File,
    /// Made at the start, for this process only.
    Session,
}

impl Source {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Source::Runtime => "runtime",
            Source::File => "file",
            Source::Session => "session",
        }
    }
}

impl Admin {
    pub(super) async fn create_key(&self, call: Call<'_>) -> Outcome<Reply> {
        for _ in 0..TRIES {
            let changes = Changes::new_key(call.body, call.now)?;
            let (secret, hash, hint) = self.new_secret()?;
            let record = KeyRecord {
                id: random_id()?.into(),
                version: 1,
                name: String::new(),
                account: Arc::from(""),
                project: Arc::from(""),
                plan: None,
                models: None,
                networks: Vec::new(),
                billing: KeyBilling::default(),
                spend_cap: Default::default(),
                expires: None,
                disabled: false,
                created: call.now,
                hint,
                hash,
                retiring: None,
                revoked: None,
            };
            let record = changes.apply(self, record)?;
            match self.write_key(&record, call.once.as_ref()).await {
                Ok(None) => return Ok(shown_once(&record, Some(&secret), call.now, true)),
                Ok(Some(before)) => {
                    return Ok(shown_once(&before, None, call.now, true).replayed(true));
                }
                // Another key has this id.
                Err(WriteError::Changed) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new(
            Code::Internal,
            "No id could be found for the key; try again.",
        ))
    }

    pub(super) fn list_keys(&self, call: &Call<'_>) -> Outcome<Reply> {
        let query = call.query(&[PARAMETERS[0], PARAMETERS[1], "account"])?;
        let page = Page::of(&query)?;
        let account = query.get("account");
        if let Some(account) = account {
            self.known_account(account)?;
        }
        let mut keys: Vec<_> = self
            .all_keys()
            .into_iter()
            .filter(|(key, _)| account.is_none_or(|account| *key.account == *account))
            .collect();
        let place = |(key, _): &(Arc<KeyRecord>, Source)| format!("{:020}{}", key.created, key.id);
        keys.sort_by_cached_key(place);
        let (keys, next) = page.cut(keys, place);
        let data = keys
            .iter()
            .map(|(key, source)| key_object(key, *source, call.now))
            .collect();
        Ok(Reply::ok(&list(data, next)))
    }

    pub(super) fn get_key(&self, call: &Call<'_>) -> Outcome<Reply> {
        call.query(&[])?;
        let (key, source) = self.find_key(call.id)?;
        Ok(Reply::ok(&key_object(&key, source, call.now)))
    }

    pub(super) async fn edit_key(&self, call: Call<'_>) -> Outcome<Reply> {
        let change = |key: KeyRecord| {
            refuse_revoked(&key)?;
            Changes::edit(call.body, call.now)?.apply(self, key)
        };
        let (key, replayed) = self.change_key(&call, change).await?;
        Ok(Reply::ok(&key_object(&key, Source::Runtime, call.now))
            .about(&*key.id)
            .replayed(replayed))
    }

    pub(super) async fn revoke_key(&self, call: Call<'_>) -> Outcome<Reply> {
        let (key, source) = self.find_key(call.id)?;
        // Revoked is what was asked for.
        if key.revoked.is_some() {
            return Ok(Reply::ok(&key_object(&key, source, call.now)).about(&*key.id));
        }
        let change = |key: KeyRecord| {
            Ok(KeyRecord {
                revoked: Some(key.revoked.unwrap_or(call.now)),
                retiring: None,
                ..key
            })
        };
        let (key, replayed) = self.change_key(&call, change).await?;
        Ok(Reply::ok(&key_object(&key, Source::Runtime, call.now))
            .about(&*key.id)
            .replayed(replayed))
    }

    pub(super) async fn rotate_key(&self, call: Call<'_>) -> Outcome<Reply> {
        let mut form = Form::read(call.body, &ROTATE)?;
        let grace = form.maybe("grace", |json| duration(&text(json)?))?;
        let grace = grace.unwrap_or(GRACE);
        let (secret, hash, hint) = self.new_secret()?;
        let change = |key: KeyRecord| {
            refuse_revoked(&key)?;
            let until = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            let retiring = (!grace.is_zero()).then(|| Retiring {
                hash: key.hash.clone(),
                hint: key.hint.clone(),
                until: call.now.saturating_add(until),
            });
            Ok(KeyRecord {
                hash: hash.clone(),
                hint: hint.clone(),
                retiring,
                ..key
            })
        };
        let (key, replayed) = self.change_key(&call, change).await?;
        let secret = (!replayed).then_some(secret.as_str());
        Ok(shown_once(&key, secret, call.now, false).replayed(replayed))
    }

    /// Reads, changes and writes a key that was made at run time; again, while others do so too. Tells also
    /// whether the request was made before.
    async fn change_key(
        &self,
        call: &Call<'_>,
        change: impl Fn(KeyRecord) -> Outcome<KeyRecord>,
    ) -> Outcome<(Arc<KeyRecord>, bool)> {
        for turn in 0..TRIES {
            let (key, source) = self.find_key(call.id)?;
            refuse_unwritable(&key, source)?;
            let version = key.version.saturating_add(1);
            let changed = change(KeyRecord {
                version,
                ..KeyRecord::clone(&key)
            })?;
            match self.write_key(&changed, call.once.as_ref()).await {
                Ok(None) => return Ok((Arc::new(changed), false)),
                Ok(Some(before)) => return Ok((before, true)),
                // What the other wrote has to reach this node.
                Err(WriteError::Changed) => sleep(Duration::from_millis(50 << turn)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Changed.into())
    }

    /// Writes a key. Gives the key that the same request wrote before.
    async fn write_key(
        &self,
        key: &KeyRecord,
        once: Option<&Once>,
    ) -> Result<Option<Arc<KeyRecord>>, WriteError> {
        let keys = &self.backends.keys;
        match keys.write(Record::Key(key.clone()), once).await? {
            Written::Now => Ok(None),
            Written::Before(name) => {
                let id = name.strip_prefix("key:").unwrap_or_default();
                // Written by a node whose word has not reached this one yet: soon it will have.
                keys.key(id).map(Some).ok_or(WriteError::Away)
            }
        }
    }

    fn new_secret(&self) -> Outcome<(String, String, String)> {
        let secret = generate(&self.settings.key_prefix).map_err(no_randomness)?;
        let hash = hex(KeyHash::of(&secret).as_bytes());
        let hint = KeyHint::of(&secret).as_str().to_owned();
        Ok((secret, hash, hint))
    }

    fn find_key(&self, id: &str) -> Outcome<(Arc<KeyRecord>, Source)> {
        let session = self.settings.session_key.iter();
        let own = self.settings.keys.iter().map(|key| (key, Source::File));
        let mut own = own.chain(session.map(|key| (key, Source::Session)));
        if let Some((key, source)) = own.find(|(key, _)| *key.id == *id) {
            return Ok((Arc::new(key.clone()), source));
        }
        match self.backends.keys.key(id) {
            Some(key) => Ok((key, Source::Runtime)),
            None => Err(Failure::new(
                Code::NotFound,
                format!(
                    "There is no key `{}`; GET /admin/v1/keys lists them.",
                    quoted(id)
                ),
            )),
        }
    }

    /// All keys: of the file, of the session, made at run time.
    pub(super) fn all_keys(&self) -> Vec<(Arc<KeyRecord>, Source)> {
        let own = |key: &KeyRecord, source| (Arc::new(key.clone()), source);
        let file = self.settings.keys.iter();
        let session = self.settings.session_key.iter();
        let runtime = self.backends.keys.keys();
        file.map(|key| own(key, Source::File))
            .chain(session.map(|key| own(key, Source::Session)))
            .chain(runtime.into_iter().map(|key| (key, Source::Runtime)))
            .collect()
    }
}

fn random_id() -> Outcome<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(format!("key_{}", hex(&bytes)))
}

fn no_randomness(error: getrandom::Error) -> Failure {
    Failure::new(
        Code::Internal,
        format!("The system gives no randomness: {error}; see to that, then try again."),
    )
}

fn refuse_revoked(key: &KeyRecord) -> Outcome<()> {
    match key.revoked {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            Code::Conflict,
            format!("The key {} is revoked for good; create another.", key.id),
        )),
    }
}

fn refuse_unwritable(key: &KeyRecord, source: Source) -> Outcome<()> {
    let remedy = match source {
        Source::Runtime => return Ok(()),
        Source::File => "comes from the configuration file; change it there, under `keys`",
        Source::Session => "lasts until this process ends; add keys to have others",
    };
    Err(Failure::new(
        Code::Conflict,
        format!("The key {} ({}) {remedy}.", key.id, quoted(&key.name)),
    ))
}

/// The answer that has the key's text: nobody can read it later.
fn shown_once(key: &KeyRecord, secret: Option<&str>, now: u64, created: bool) -> Reply {
    let mut object = json!({ "id": key.id, "key": secret });
    if let (Some(to), Value::Object(from)) = (
        object.as_object_mut(),
        key_object(key, Source::Runtime, now),
    ) {
        to.extend(from);
    }
    let reply = match created {
        true => Reply::created(&object),
        false => Reply::ok(&object),
    };
    reply.about(&*key.id)
}

/// A key as it is answered.
pub(super) fn key_object(key: &KeyRecord, source: Source, now: u64) -> Value {
    let KeyRecord {
        id,
        version: _,
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
        created,
        hint,
        hash: _,
        retiring,
        revoked,
    } = key;
    let state = match () {
        () if revoked.is_some() => "revoked",
        () if *disabled => "disabled",
        () if expires.is_some_and(|expires| expires <= now) => "expired",
        () => "active",
    };
    let retiring = retiring.as_ref().filter(|old| old.until > now);
    json!({
        "id": id,
        "name": name,
        "account": account,
        "project": project,
        "plan": plan,
        "models": models,
        "networks": networks,
        "billing": match billing {
            KeyBilling::PayAsYouGo => json!("pay_as_you_go"),
            KeyBilling::Package(package) => json!({ "package": package }),
        },
        "spend_cap": {
            "daily": spend_cap.daily.to_string(),
            "monthly": spend_cap.monthly.to_string(),
        },
        "expires": expires.and_then(rfc3339),
        "disabled": disabled,
        "state": state,
        "prefix": (!hint.is_empty()).then_some(hint),
        "retiring": retiring.map(|old| json!({
            "prefix": old.hint,
            "until": rfc3339(old.until),
        })),
        "revoked": revoked.and_then(rfc3339),
        "created": (*created > 0).then(|| rfc3339(*created)),
        "source": source.as_str(),
    })
}
