//! A gateway before several providers, and what is found in its books when all is over.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::traffic::ACCOUNT;
use crate::Result;
use crate::kills::told_of;
use crate::ledger::admin::{Account, Row, TOKEN};
use crate::ledger::claims::Claims;
use crate::ledger::money::{PRICE, decimal};
use crate::ledger::sight;
use crate::ledger::site::{Key, Node, Places, payers};
use crate::ledger::traffic::key;
use crate::process::Scratch;

/// Who pays for the others.
const OTHERS: &str = "others";
const ACCOUNTS: [&str; 2] = [ACCOUNT, OTHERS];

/// What each account begins with.
const SEED: i64 = 1_000_000_000_000;

/// A configuration has no more than 100,000 values, and a key is five of them.
const MOST_KEYS: u64 = 19_900;

/// How long it may take until all is settled.
const PATIENCE: Duration = Duration::from_secs(60);

/// A provider, as the configuration has it.
pub struct Upstream {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// The model that it serves; several may serve one.
    pub model: &'static str,
    /// Further settings, each with a comma before it.
    pub settings: &'static str,
}

/// A gateway's configuration, as far as runs differ.
pub struct Terms<'a> {
    /// Providers.
    pub upstreams: &'a [Upstream],
    /// Requests for which there are keys.
    pub keys: u64,
    /// Further ones, numbered after them, which another account pays for.
    pub others: u64,
    /// Lines at the top level.
    pub settings: &'a str,
}

/// Whether one configuration has room for so many keys.
pub fn suffice(keys: u64) -> Result<()> {
    match keys > MOST_KEYS {
        true => Err(format!(
            "{keys} requests, each with a key of its own, are more than one configuration holds ({MOST_KEYS}): \
             make it shorter, or with fewer requests a second"
        )
        .into()),
        false => Ok(()),
    }
}

impl Terms<'_> {
    /// A gateway that takes requests.
    pub async fn node(&self, program: &Path, scratch: &Scratch) -> Result<Node> {
        let count = self.keys + self.others;
        suffice(count)?;
        let account = |number| match number < self.keys {
            true => ACCOUNT,
            false => OTHERS,
        };
        let keys: Vec<Key> = (0..count)
            .map(|number| key(number, account(number)))
            .collect();
        let yaml = |places: &Places| self.yaml(places, &keys);
        let mut node = Node::configured("the gateway", program, scratch, yaml)?;
        node.start(scratch)?;
        node.open().await?;
        Ok(node)
    }

    fn yaml(&self, places: &Places, keys: &[Key]) -> String {
        let Terms {
            upstreams,
            keys: _,
            others: _,
            settings,
        } = self;
        let Places {
            front,
            admin,
            metrics,
            store,
        } = places;
        let store = store.display();
        let mut text = format!(
            r#"version: 1
threads: 2
listeners: [{{ bind: "{front}" }}]
admin: {{ bind: "{admin}", token: "{TOKEN}" }}
metrics: {{ bind: "{metrics}" }}
surfaces: [{{ mount: /v1, api: openai }}]
store: {{ path: "{store}" }}
currency: CNY
{settings}
providers:
"#
        );
        let mut models: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Upstream {
            name,
            address,
            model,
            settings,
        } in *upstreams
        {
            let _ = writeln!(
                text,
                r#"  {name}: {{ api: openai, base_url: "http://{address}/v1", keys: ["secret-of-{name}"]{settings} }}"#
            );
            let upstream = format!("{{ provider: {name}, model: fake }}");
            models.entry(model).or_default().push(upstream);
        }
        let [input, output, cached] = [PRICE.input, PRICE.output, PRICE.cached]
            .map(|price| decimal(i64::try_from(price).unwrap_or_default()));
        text.push_str("models:\n");
        for (model, upstreams) in models {
            let upstreams = upstreams.join(", ");
            let _ = writeln!(
                text,
                "  - id: {model}\n    upstreams: [{upstreams}]\n    \
                 price: {{ input: {input}, output: {output}, cached_input: {cached} }}"
            );
        }
        text.push_str(&payers(&ACCOUNTS.map(|account| (account, SEED)), keys));
        text
    }
}

/// What a gateway's books say when all is over.
pub struct Books {
    /// What each key used.
    pub rows: BTreeMap<String, Row>,
    /// What each account was charged, by its keys and by its days, and how it stands.
    accounts: Vec<(i64, i64, Account)>,
    drift: Vec<String>,
    panics: Vec<String>,
}

impl Books {
    /// Waits until all is settled, and asks.
    pub async fn ask(node: &mut Node) -> Result<Self> {
        sight::settled(&[node.metrics], PATIENCE).await?;
        let (mut rows, mut accounts) = (BTreeMap::new(), Vec::new());
        for name in ACCOUNTS {
            let (keys, days) = node.admin.used(name).await?;
            let cost = keys.values().map(|row| row.cost).sum();
            accounts.push((cost, days.cost, node.admin.account(name).await?));
            rows.extend(keys);
        }
        let books = Books {
            rows,
            accounts,
            drift: node.admin.drift().await?,
            panics: node.panics()?,
        };
        node.check()?;
        Ok(books)
    }

    /// What must hold of them.
    pub fn claim(&self, claims: &mut Claims) {
        let holds = self.accounts.iter().all(|(keys, days, account)| {
            let Account { balance, held } = *account;
            balance == SEED - keys && held == 0 && days == keys
        });
        let told = self.accounts.iter().filter(|(cost, ..)| *cost != 0);
        let told: Vec<String> = told
            .map(|(cost, _, account)| {
                format!("{} charged, held {}", decimal(*cost), decimal(account.held))
            })
            .collect();
        claims.check(
            holds,
            "the balance is what it was less what was charged, and nothing is held",
            &told.join(", "),
        );
        let found = self.drift.len() + self.panics.len();
        let words = format!(
            "drift: {}, panics: {}",
            told_of(&self.drift),
            told_of(&self.panics)
        );
        claims.check(
            found == 0,
            "the gateway is alive, finds no drift, and nothing panicked",
            &words,
        );
    }
}
