//! Plans, accounts, keys, anonymous requests and billing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Resolver, durations, forms};
use crate::billing::money::Money;
use crate::config::check::brief;
use crate::config::path;
use crate::config::schema::{self, Named};
use crate::config::settings::{Account, Anonymous, Billing, Key, KeyBilling, Package, Plan};
use crate::config::words::{BillingMode, PlanScope};
use crate::nearest::hint;

impl Resolver<'_, '_> {
    pub(super) fn plans(&mut self, given: Option<Named<schema::Plan>>) -> Vec<Plan> {
        let mut plans = Vec::new();
        for (name, typed) in given.map(|given| given.0).unwrap_or_default() {
            let path = path::field("plans", &name);
            self.chosen_name(&path, &name);
            let schema::Plan {
                requests_per_minute,
                burst,
                tokens_per_minute,
                concurrency,
                tokens_per_day,
                models,
                scope,
            } = typed;
            let rate_given = requests_per_minute.is_some()
                || self
                    .report
                    .is_unusable(&format!("{path}.requests_per_minute"));
            if burst.is_some() && !rate_given {
                let message =
                    "`burst` has no meaning without `requests_per_minute`; add that, or remove it";
                self.report.key(&format!("{path}.burst"), message);
            }
            plans.push(Plan {
                models: self.globs_or_all(&format!("{path}.models"), models),
                name,
                requests_per_minute,
                burst,
                tokens_per_minute,
                concurrency,
                tokens_per_day,
                scope: scope.unwrap_or(PlanScope::Key),
            });
        }
        plans
    }

    fn globs_or_all(&mut self, path: &str, given: Option<Vec<schema::GlobText>>) -> Vec<String> {
        match given {
            Some(globs) => self.globs(path, globs),
            None => vec!["*".to_owned()],
        }
    }

    pub(super) fn accounts(
        &mut self,
        given: Option<Named<schema::Account>>,
        plans: &[Plan],
    ) -> Vec<Account> {
        let mut accounts = Vec::new();
        for (id, typed) in given.map(|given| given.0).unwrap_or_default() {
            let path = path::field("accounts", &id);
            self.chosen_name(&path, &id);
            let schema::Account {
                plan,
                balance,
                projects,
            } = typed;
            let balance = self
                .amount(&format!("{path}.balance"), balance)
                .unwrap_or_default();
            let projects = projects.unwrap_or_else(|| vec!["default".to_owned()]);
            for (at, project) in projects.iter().enumerate() {
                let here = format!("{path}.projects[{at}]");
                self.chosen_name(&here, project);
                if projects.iter().take(at).any(|earlier| earlier == project) {
                    self.wrong(&here, "is listed twice; remove one");
                }
            }
            let plan = self.plan(&format!("{path}.plan"), plan.as_deref(), plans);
            accounts.push(Account {
                id,
                plan: plan.unwrap_or_default(),
                balance,
                projects,
            });
        }
        accounts
    }

    fn plan(&mut self, path: &str, name: Option<&str>, plans: &[Plan]) -> Option<usize> {
        self.reference(
            path,
            name,
            "plans",
            plans.iter().map(|plan| plan.name.as_str()),
        )
    }

    pub(super) fn keys(
        &mut self,
        given: Option<Vec<schema::Key>>,
        accounts: &[Account],
        plans: &[Plan],
        packages: &[Package],
    ) -> Vec<Key> {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut hashes: BTreeMap<[u8; 32], String> = BTreeMap::new();
        let mut keys = Vec::new();
        for (at, typed) in given.unwrap_or_default().into_iter().enumerate() {
            let path = path::item("keys", at);
            let schema::Key {
                name,
                account,
                sha256,
                project,
                plan,
                billing,
                spend_cap,
                models,
                networks,
                expires,
                disabled,
            } = typed;
            let name = name.unwrap_or_default();
            self.key_name(&format!("{path}.name"), &name, &mut names);
            let sha256 =
                sha256.and_then(|text| self.hash(&format!("{path}.sha256"), &text.0, &mut hashes));
            let ids = accounts.iter().map(|account| account.id.as_str());
            let account = self.reference(
                &format!("{path}.account"),
                account.as_deref(),
                "accounts",
                ids,
            );
            let owner = account.and_then(|at| accounts.get(at));
            let project = self.project(&path, project, owner);
            let own_plan = self.plan(&format!("{path}.plan"), plan.as_deref(), plans);
            let (daily_cap, monthly_cap) = self.spend_cap(&format!("{path}.spend_cap"), spend_cap);
            keys.push(Key {
                name,
                account: account.unwrap_or_default(),
                sha256: sha256.unwrap_or_default(),
                project,
                plan: own_plan
                    .or(owner.map(|owner| owner.plan))
                    .unwrap_or_default(),
                billing: self.key_billing(&format!("{path}.billing"), billing, packages),
                daily_cap,
                monthly_cap,
                models: models.map(|models| self.globs(&format!("{path}.models"), models)),
                networks: self.networks(&format!("{path}.networks"), networks),
                expires: expires
                    .and_then(|text| self.parsed(&format!("{path}.expires"), &text.0, forms::time)),
                disabled: disabled.unwrap_or(false),
            });
        }
        keys
    }

    fn key_name(&mut self, path: &str, name: &str, names: &mut BTreeMap<String, String>) {
        if self.report.is_unusable(path) {
            return;
        }
        if name.trim().is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            self.wrong(path, "is no name; write 1 to 128 characters on one line");
        } else if let Some(other) = names.get(name) {
            self.wrong(
                path,
                &format!("is the name of `{other}` too; give every key its own"),
            );
        } else {
            names.insert(
                name.to_owned(),
                path::parent(path).unwrap_or(path).to_owned(),
            );
        }
    }

    fn hash(
        &mut self,
        path: &str,
        text: &str,
        hashes: &mut BTreeMap<[u8; 32], String>,
    ) -> Option<[u8; 32]> {
        let hash = self.parsed(path, text, forms::sha256)?;
        if let Some(other) = hashes.get(&hash) {
            self.report.value(
                path,
                format!("`{other}` has the same hash; a key belongs to one account: remove one"),
            );
        } else {
            hashes.insert(hash, path::parent(path).unwrap_or(path).to_owned());
        }
        Some(hash)
    }

    fn project(&mut self, path: &str, given: Option<String>, owner: Option<&Account>) -> String {
        let project = given.unwrap_or_else(|| "default".to_owned());
        if let Some(owner) = owner.filter(|owner| !owner.projects.contains(&project)) {
            let projects = path::field(&path::field("accounts", &owner.id), "projects");
            let path = format!("{path}.project");
            let document = self.report.document;
            // What came out of an expansion is not shown.
            let names = owner.projects.iter().enumerate();
            let names = names.filter(|(at, _)| !document.is_expanded(&path::item(&projects, *at)));
            let hint = hint(
                &project,
                "its projects",
                names.map(|(_, name)| name.as_str()),
            );
            let shown = brief(document.shown(&path).unwrap_or(&project));
            let message = format!(
                "account `{}` has no project `{shown}`{hint}; add it to `{projects}`, or name another",
                owner.id
            );
            if !self.report.is_unusable(&projects) {
                self.report.value(&path, message);
            }
        }
        project
    }

    fn key_billing(
        &mut self,
        path: &str,
        given: Option<schema::KeyBilling>,
        packages: &[Package],
    ) -> KeyBilling {
        match given {
            None | Some(schema::KeyBilling::Word(schema::BillingWord::PayAsYouGo)) => {
                KeyBilling::PayAsYouGo
            }
            Some(schema::KeyBilling::Package(schema::PackageBilling { package })) => {
                let names = packages.iter().map(|package| package.name.as_str());
                let package = self.reference(
                    &format!("{path}.package"),
                    package.as_deref(),
                    "billing.packages",
                    names,
                );
                KeyBilling::Package(package.unwrap_or_default())
            }
        }
    }

    /// The caps; 0 is none.
    fn spend_cap(
        &mut self,
        path: &str,
        given: Option<schema::SpendCap>,
    ) -> (Option<Money>, Option<Money>) {
        let Some(schema::SpendCap { daily, monthly }) = given else {
            return (None, None);
        };
        let some = |cap: &Money| *cap > Money::ZERO;
        let daily = self.amount(&format!("{path}.daily"), daily).filter(some);
        let monthly = self
            .amount(&format!("{path}.monthly"), monthly)
            .filter(some);
        (daily, monthly)
    }

    pub(super) fn anonymous(
        &mut self,
        given: Option<schema::Anonymous>,
        plans: &[Plan],
    ) -> Option<Anonymous> {
        let schema::Anonymous { plan, models } = given?;
        Some(Anonymous {
            plan: self
                .plan("anonymous.plan", plan.as_deref(), plans)
                .unwrap_or_default(),
            models: self.globs("anonymous.models", models.unwrap_or_default()),
        })
    }

    pub(super) fn billing(&mut self, given: Option<schema::Billing>) -> Billing {
        let (mode, day_starts, packages) = match given {
            Some(schema::Billing {
                mode,
                day_starts,
                packages,
            }) => (mode, day_starts, packages),
            None => (None, None, None),
        };
        let day_starts =
            day_starts.and_then(|text| self.parsed("billing.day_starts", &text.0, forms::offset));
        Billing {
            mode: mode.unwrap_or(BillingMode::Off),
            day_starts_seconds: day_starts.unwrap_or(0),
            packages: self.packages(packages),
        }
    }

    fn packages(&mut self, given: Option<Named<schema::Package>>) -> Vec<Package> {
        let given = given.map(|given| given.0).unwrap_or_default();
        let mut packages = Vec::new();
        for (name, typed) in given {
            let path = path::field("billing.packages", &name);
            self.chosen_name(&path, &name);
            let schema::Package {
                tokens,
                valid,
                models,
                price,
            } = typed;
            let valid = valid.and_then(|text| {
                self.parsed(&format!("{path}.valid"), &text.0, durations::duration)
            });
            // A hundred years: later sums of times stay far from their ends.
            if valid.is_some_and(|valid| valid > Duration::from_secs(36_500 * 86_400)) {
                self.wrong(
                    &format!("{path}.valid"),
                    "is too long; the most is `36500d`",
                );
            }
            packages.push(Package {
                tokens: tokens.unwrap_or(1),
                valid: valid.unwrap_or(Duration::from_secs(1)),
                models: self.globs_or_all(&format!("{path}.models"), models),
                price: self
                    .amount(&format!("{path}.price"), price)
                    .unwrap_or_default(),
                name,
            });
        }
        packages
    }
}
