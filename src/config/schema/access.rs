//! Plans, accounts, keys and billing as typed.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::{
    Amount, DurationText, GlobText, HashText, Named, NetworkText, OffsetText, TimeText,
};
use crate::config::words::{BillingMode, PlanScope};

/// Limits and allowed models.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Requests a minute. Default: no limit.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub(crate) requests_per_minute: Option<u64>,
    /// Requests that may come at once. Default: `requests_per_minute`.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub(crate) burst: Option<u64>,
    /// Tokens a minute, input and output: charged by estimate when a request comes, corrected when it
    /// has ended. Default: no limit.
    #[schemars(range(min = 1, max = 100_000_000_000_u64))]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Requests in flight at once. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) concurrency: Option<u64>,
    /// Tokens a day, input and output; `billing.day_starts` says where days begin. Default: no limit.
    #[schemars(range(min = 1, max = 10_000_000_000_000_u64))]
    pub(crate) tokens_per_day: Option<u64>,
    /// Models that may be used.
    #[schemars(extend("default" = ["*"]))]
    pub(crate) models: Option<Vec<GlobText>>,
    /// Who shares the limits: every key has them for itself, or all keys of an account that have this
    /// plan have them together.
    #[schemars(extend("default" = "key"))]
    pub(crate) scope: Option<PlanScope>,
}

/// An account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// Name of its plan.
    #[schemars(required)]
    pub(crate) plan: Option<String>,
    /// What a new account starts with; from then on the store owns the balance.
    #[schemars(extend("default" = 0))]
    pub(crate) balance: Option<Amount>,
    /// Its projects.
    #[schemars(length(min = 1), extend("default" = ["default"]))]
    pub(crate) projects: Option<Vec<String>>,
}

/// A key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// Its name for people; no two keys in the file share one.
    #[schemars(required)]
    pub(crate) name: Option<String>,
    /// Id of its account.
    #[schemars(required)]
    pub(crate) account: Option<String>,
    /// SHA-256 of the key: `printf %s "$KEY" | sha256sum`.
    #[schemars(required)]
    pub(crate) sha256: Option<HashText>,
    /// One of its account's projects.
    #[schemars(extend("default" = "default"))]
    pub(crate) project: Option<String>,
    /// Name of a plan, instead of the account's.
    pub(crate) plan: Option<String>,
    /// What pays for it: `pay_as_you_go` (the account's balance), or `{ package: NAME }`.
    #[schemars(extend("default" = "pay_as_you_go"))]
    pub(crate) billing: Option<KeyBilling>,
    /// The most that it may spend. Default: no cap.
    pub(crate) spend_cap: Option<SpendCap>,
    /// Models that it may use of those that its plan allows. Default: all of them.
    pub(crate) models: Option<Vec<GlobText>>,
    /// Networks that it may be used from. Default: everywhere.
    pub(crate) networks: Option<Vec<NetworkText>>,
    /// When it ends. Default: never.
    pub(crate) expires: Option<TimeText>,
    /// Refused while true.
    #[schemars(extend("default" = false))]
    pub(crate) disabled: Option<bool>,
}

/// What pays for a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum KeyBilling {
    /// The account's balance.
    Word(BillingWord),
    /// A package.
    Package(PackageBilling),
}

/// What pays for a key, in a word.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BillingWord {
    /// The account's balance.
    PayAsYouGo,
}

/// A package pays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageBilling {
    /// Name of the package.
    #[schemars(required)]
    pub(crate) package: Option<String>,
}

/// The most that a key may spend; 0 is no cap.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpendCap {
    /// In a day.
    #[schemars(extend("default" = 0))]
    pub(crate) daily: Option<Amount>,
    /// In a calendar month.
    #[schemars(extend("default" = 0))]
    pub(crate) monthly: Option<Amount>,
}

/// Requests without a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anonymous {
    /// Name of the plan; its limits hold for each client network.
    #[schemars(required)]
    pub(crate) plan: Option<String>,
    /// Models that may be used.
    #[schemars(required, length(min = 1))]
    pub(crate) models: Option<Vec<GlobText>>,
}

/// Charging.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Billing {
    /// How far it goes.
    #[schemars(extend("default" = "off"))]
    pub(crate) mode: Option<BillingMode>,
    /// UTC offset of the midnight at which days and months begin.
    #[schemars(extend("default" = "+00:00"))]
    pub(crate) day_starts: Option<OffsetText>,
    /// Token packages on sale, by name.
    pub(crate) packages: Option<Named<Package>>,
}

/// A token package.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// Tokens in it, input and output.
    #[schemars(required, range(min = 1))]
    pub(crate) tokens: Option<u64>,
    /// How long it lasts from its purchase.
    #[schemars(required)]
    pub(crate) valid: Option<DurationText>,
    /// Models that it pays for.
    #[schemars(extend("default" = ["*"]))]
    pub(crate) models: Option<Vec<GlobText>>,
    /// What it costs.
    #[schemars(extend("default" = 0))]
    pub(crate) price: Option<Amount>,
}
