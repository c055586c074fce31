//! The configuration as used: checked, with defaults filled in and references resolved to indexes.
//!
//! Above 400 lines: it is one list, read top to bottom beside the file.
//!
//! Made by `resolve` only. The words of enumerations are in `words`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::words::{
    Api, BillingFailure, BillingMode, DisconnectBilling, ErrorDialect, LimitsFailure, LogFormat,
    LogLevel, Modality, ModelStatus, PlanScope, ProviderApi, Resend, ResetFormat,
};
use crate::billing::money::Money;
use crate::catalog::Price;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where clients reach the gateway from outside; without a slash at the end.
    pub public_url: Option<String>,
    /// Worker threads; `None` for the CPUs that the process may run on.
    pub threads: Option<usize>,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// The admin API.
    pub admin: Option<Admin>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The APIs offered, in the order of the file; at least one.
    pub surfaces: Vec<Surface>,
    /// What new keys begin with.
    pub key_prefix: String,
    /// Where keys, balances and counters live.
    pub store: Store,
    /// The providers; [`UpstreamRef::provider`] is an index into them.
    pub providers: Vec<Provider>,
    /// Currency of all amounts, three capital letters.
    pub currency: String,
    /// The models; at most one has the id `*`.
    pub models: Vec<Model>,
    /// The plans; accounts, keys and anonymous requests name them by index.
    pub plans: Vec<Plan>,
    /// The accounts; [`Key::account`] is an index into them.
    pub accounts: Vec<Account>,
    /// Keys from the file.
    pub keys: Vec<Key>,
    /// Requests without a key; refused when `None`.
    pub anonymous: Option<Anonymous>,
    /// Charging.
    pub billing: Billing,
    /// Limits on every request.
    pub limits: Limits,
    /// When a failed attempt is followed by another.
    pub retries: Retries,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The log.
    pub log: Log,
    /// Settings of the file whose feature does not exist yet, each by a short name, once.
    pub dormant: Vec<String>,
}

/// One address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Address and port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// TLS; plain HTTP when `None`.
    pub tls: Option<TlsFiles>,
}

/// Certificate chain and private key as PEM files; both were readable when the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address and port.
    pub bind: SocketAddr,
    /// The bearer token; `None` only on a loopback address.
    pub token: Option<Secret>,
}

/// An API below a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surface {
    /// `/v1`: no slash at the end; empty for the root.
    pub mount: String,
    /// The API offered.
    pub api: Api,
    /// The form of errors; fits the API.
    pub errors: ErrorDialect,
    /// Seconds that every `Retry-After` says; the true wait when `None`.
    pub retry_after: Option<u32>,
    /// The form of `X-RateLimit-Reset`.
    pub rate_limit_reset: ResetFormat,
    /// Also send the IETF's headers.
    pub ietf_rate_limit: bool,
    /// Error code → HTTP status (400 to 599) in place of the usual one.
    pub statuses: BTreeMap<String, u16>,
}

/// A provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name in the file.
    pub name: String,
    /// The wire protocol that it speaks.
    pub api: ProviderApi,
    /// Where its API lies; `None` only for [`ProviderApi::Demo`].
    pub base_url: Option<BaseUrl>,
    /// Its keys; empty only for the demo provider and for hosts that are this machine.
    pub keys: Vec<Secret>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// When its upstreams are left out because they fail.
    pub health: Health,
    /// PEM file of a private certificate authority.
    pub ca: Option<PathBuf>,
}

/// An `http` or `https` address in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// Name or address, IPv6 without brackets, lower case.
    pub host: String,
    /// As given, else 443 or 80.
    pub port: u16,
    /// `/v1`: no slash at the end; empty if none.
    pub path: String,
}

/// How long to wait for a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    /// From the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// From the request to the end of the answer, further attempts included.
    pub total: Duration,
}

/// When an upstream is left out because it fails, and when it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Failures in a row after which it is left out; at least 1.
    pub failures: u32,
    /// How long, the first time.
    pub cooldown: Duration,
    /// How long at most; at least `cooldown`.
    pub max_cooldown: Duration,
    /// How long one that came back takes to its full share; may be nothing.
    pub slow_start: Duration,
    /// Asks whether it is there, besides.
    pub check: Option<ActiveCheck>,
}

/// A request that asks a provider whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveCheck {
    /// Path and query below the base URL, with a slash in front.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// An answer must come within this time.
    pub timeout: Duration,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its id; `*` catches every id that is not listed.
    pub id: String,
    /// Other ids that lead to it; unlike all ids and all other aliases.
    pub aliases: Vec<String>,
    /// Its name for people.
    pub label: Option<String>,
    /// Who made it.
    pub org: Option<String>,
    /// Tokens that prompt and answer may have together.
    pub context_length: Option<u64>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// What it takes or makes besides text.
    pub modality: Modality,
    /// Where it stands in its life.
    pub status: ModelStatus,
    /// Where its requests go; empty only for `soon` and `preview`; not all of weight 0.
    pub upstreams: Vec<UpstreamRef>,
    /// What it costs.
    pub price: Price,
    /// What is billed when the client leaves before the end.
    pub on_disconnect: DisconnectBilling,
}

/// A provider that serves a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRef {
    /// Index into [`Config::providers`].
    pub provider: usize,
    /// The provider's own name of the model; `None` for the id.
    pub model: Option<String>,
    /// Its share of the requests of its tier; 0 takes none.
    pub weight: u32,
    /// Higher tiers serve only when the lower ones cannot.
    pub tier: u32,
    /// Requests in flight at most, on one node; at least 1.
    pub concurrency: Option<u32>,
}

/// Limits and allowed models. Every limit is at least 1; `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name in the file.
    pub name: String,
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Requests that may come at once; `requests_per_minute` when `None`.
    pub burst: Option<u64>,
    /// Tokens a minute, input and output.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight at once.
    pub concurrency: Option<u64>,
    /// Tokens a day, input and output.
    pub tokens_per_day: Option<u64>,
    /// Globs (`*` only) of the models that may be used.
    pub models: Vec<String>,
    /// Who shares the limits.
    pub scope: PlanScope,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Index into [`Config::plans`].
    pub plan: usize,
    /// What a new account starts with; never negative.
    pub balance: Money,
    /// Its projects; at least one.
    pub projects: Vec<String>,
}

/// A key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name for people.
    pub name: String,
    /// Index into [`Config::accounts`].
    pub account: usize,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// One of its account's projects.
    pub project: String,
    /// Index into [`Config::plans`]: its own or else its account's.
    pub plan: usize,
    /// What pays for it.
    pub billing: KeyBilling,
    /// The most that it may spend in a day; more than 0.
    pub daily_cap: Option<Money>,
    /// The most that it may spend in a month; more than 0.
    pub monthly_cap: Option<Money>,
    /// Globs that narrow its plan's.
    pub models: Option<Vec<String>>,
    /// Where it may be used from; everywhere when empty.
    pub networks: Vec<IpNet>,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// Refused while true.
    pub disabled: bool,
}

/// What pays for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBilling {
    /// The account's balance.
    PayAsYouGo,
    /// A package: index into [`Billing::packages`].
    Package(usize),
}

/// Requests without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymous {
    /// Index into [`Config::plans`]; its limits hold for each client network.
    pub plan: usize,
    /// Globs of the models that may be used; at least one.
    pub models: Vec<String>,
}

/// Where keys, balances and counters live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Directory of the embedded store and the journal; may not exist yet.
    pub path: PathBuf,
    /// Redis, shared by all nodes.
    pub redis: Option<Redis>,
    /// What happens to rate limits while Redis is away.
    pub on_failure_limits: LimitsFailure,
    /// What happens to balances, packages and caps while Redis is away.
    pub on_failure_billing: BillingFailure,
}

/// A Redis server or cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Its URL, with the password.
    pub url: Secret,
    /// What all names in Redis begin with.
    pub prefix: String,
}

/// Charging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Billing {
    /// How far it goes.
    pub mode: BillingMode,
    /// Seconds east of UTC of the midnight at which days and months begin.
    pub day_starts_seconds: i32,
    /// Token packages on sale.
    pub packages: Vec<Package>,
}

/// A token package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name in the file.
    pub name: String,
    /// Tokens in it, input and output; at least 1.
    pub tokens: u64,
    /// How long it lasts from its purchase.
    pub valid: Duration,
    /// Globs of the models that it pays for.
    pub models: Vec<String>,
    /// What it costs.
    pub price: Money,
}

/// Limits on every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request body in bytes.
    pub body: u64,
    /// The largest request header in bytes.
    pub header: u64,
    /// Requests without a valid key, for each client network; no limit when `None`.
    pub unauthenticated_per_ip: Option<Rate>,
    /// Client connections at once; at least 1. As many as there are file descriptors for when `None`.
    pub connections: Option<u32>,
    /// Requests in flight at once; at least 1. As many as connections when `None`.
    pub in_flight: Option<u32>,
    /// Bytes of request bodies held at once; at least `body`.
    pub buffered: u64,
    /// The largest answer that is no stream, in bytes.
    pub answer: u64,
}

/// When a failed attempt is followed by another, before the first byte of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Further attempts for one request.
    pub max: u32,
    /// Further attempts over all requests, in percent of these.
    pub budget: u32,
    /// What is tried again though the provider may bill it.
    pub resend: Vec<Resend>,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long readiness fails before the listeners close.
    pub lame_duck: Duration,
    /// How long requests in flight may then take.
    pub grace: Duration,
}

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

/// The log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The form of lines.
    pub format: LogFormat,
    /// The least severe line that is written.
    pub level: LogLevel,
}

/// A text that must not be seen: `Debug` hides it, and it has neither `Display` nor `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
