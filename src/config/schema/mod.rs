//! The configuration as typed: `gateway.yaml`, field by field.
//!
//! The doc comments are the reference (`docs/configuration.md`) and the editors' schema. Every field is
//! an `Option`, also the required ones: the check has reported what is missing or wrong and takes it
//! out, and the rest is still resolved, so that all errors come at once.

mod access;
mod catalog;
mod json;
mod text;

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use access::{
    Account, Anonymous, Billing, BillingWord, Key, KeyBilling, Package, PackageBilling, Plan,
    SpendCap,
};
pub(crate) use catalog::{
    ActiveCheck, Health, ImagePrice, Model, Price, Provider, Timeouts, Upstream,
};
pub use json::json_schema;
pub(crate) use text::{
    AddressText, Amount, DurationText, GlobText, Named, NetworkText, PathText, RateText,
    SecretText, SizeText, UrlText,
};

use super::words::{
    Api, BillingFailure, ErrorDialect, LimitsFailure, LogFormat, LogLevel, Resend, ResetFormat,
};

/// The whole file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    /// Version of this schema; the only one is 1.
    #[schemars(range(min = 1, max = 1), extend("default" = 1))]
    pub(crate) version: Option<u32>,
    /// Where clients reach the gateway from outside. Used in poll URLs and on the docs page.
    pub(crate) public_url: Option<UrlText>,
    /// Worker threads. Default: the CPUs that the process may run on.
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) threads: Option<usize>,
    /// Where clients connect. Default: `127.0.0.1:8080`, without TLS.
    #[schemars(length(min = 1))]
    pub(crate) listeners: Option<Vec<Listener>>,
    /// The admin API, on a listener of its own; off by default.
    pub(crate) admin: Option<Admin>,
    /// Prometheus metrics, on a listener of their own; off by default.
    pub(crate) metrics: Option<Metrics>,
    /// The APIs offered, each below a mount. Default: `/v1` and `/api/v1` (OpenAI) and `/anthropic`.
    #[schemars(length(min = 1))]
    pub(crate) surfaces: Option<Vec<Surface>>,
    /// The form of keys.
    pub(crate) auth: Option<Auth>,
    /// Where keys, balances and counters live.
    pub(crate) store: Option<Store>,
    /// The providers that requests go to, by name.
    pub(crate) providers: Option<Named<Provider>>,
    /// The currency of all amounts, by ISO 4217.
    #[schemars(extend("default" = "USD"))]
    pub(crate) currency: Option<String>,
    /// The models offered.
    pub(crate) models: Option<Vec<Model>>,
    /// Limits and allowed models, by plan name.
    pub(crate) plans: Option<Named<Plan>>,
    /// Accounts, by id.
    pub(crate) accounts: Option<Named<Account>>,
    /// Keys from the file; more are made at run time with `tollgate keys create`.
    pub(crate) keys: Option<Vec<Key>>,
    /// Requests without a key; refused by default.
    pub(crate) anonymous: Option<Anonymous>,
    /// Charging.
    pub(crate) billing: Option<Billing>,
    /// Limits on every request, whoever sends it.
    pub(crate) limits: Option<Limits>,
    /// When a failed attempt at a provider is followed by another.
    pub(crate) retries: Option<Retries>,
    /// How the process ends.
    pub(crate) shutdown: Option<Shutdown>,
    /// Networks of proxies whose `X-Forwarded-For` is believed. Default: none.
    pub(crate) trusted_proxies: Option<Vec<NetworkText>>,
    /// The process's own log, on standard error; the access log goes to standard output. Bodies are never logged.
    pub(crate) log: Option<Log>,
}

/// One address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Address and port; port 0 takes a free one.
    #[schemars(required)]
    pub(crate) bind: Option<AddressText>,
    /// TLS; HTTP/2 is then offered by ALPN. Default: plain HTTP.
    pub(crate) tls: Option<Tls>,
}

/// Certificate and private key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// File with the certificate and its chain, PEM.
    #[schemars(required)]
    pub(crate) cert: Option<PathText>,
    /// File with the private key, PEM.
    #[schemars(required)]
    pub(crate) key: Option<PathText>,
}

/// The admin API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    /// Address and port.
    #[schemars(required)]
    pub(crate) bind: Option<AddressText>,
    /// The bearer token that calls must carry. Without one, only a loopback `bind` is accepted.
    #[schemars(length(min = 1))]
    pub(crate) token: Option<SecretText>,
}

/// Prometheus metrics.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Address and port.
    #[schemars(required)]
    pub(crate) bind: Option<AddressText>,
}

/// An API below a mount.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Surface {
    /// The path that the API lies below: `/v1`, or `/` for the root.
    #[schemars(required)]
    pub(crate) mount: Option<String>,
    /// The API offered.
    #[schemars(required)]
    pub(crate) api: Option<Api>,
    /// The form of errors. Default: that of the API.
    pub(crate) errors: Option<ErrorDialect>,
    /// Seconds that every `Retry-After` says, instead of the true wait.
    #[schemars(range(min = 1, max = 60))]
    pub(crate) retry_after: Option<u32>,
    /// The form of `X-RateLimit-Reset`.
    #[schemars(extend("default" = "iso8601"))]
    pub(crate) rate_limit_reset: Option<ResetFormat>,
    /// Also send the IETF's `RateLimit` and `RateLimit-Policy`.
    #[schemars(extend("default" = false))]
    pub(crate) ietf_rate_limit: Option<bool>,
    /// Error codes that this surface answers with another HTTP status, 400 to 599.
    pub(crate) statuses: Option<Named<Status>>,
}

/// An HTTP status of an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(crate) struct Status(#[schemars(range(min = 400, max = 599))] pub(crate) u16);

/// The form of keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    /// What new keys begin with: at most 16 letters, digits, `-` and `_`.
    #[schemars(extend("default" = "sk-"))]
    pub(crate) key_prefix: Option<String>,
}

/// Where keys, balances and counters live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    /// Directory of the embedded store and the journal, relative to the working directory.
    #[schemars(extend("default" = "./data"))]
    pub(crate) path: Option<PathText>,
    /// Redis, shared by all nodes. Default: none, one node with the embedded store.
    pub(crate) redis: Option<Redis>,
    /// What a node does while Redis is away.
    pub(crate) on_failure: Option<OnFailure>,
}

/// A Redis server or cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redis {
    /// `redis://`, `rediss://` (TLS), `redis+cluster://` or `rediss+cluster://`, with the password.
    #[schemars(required)]
    pub(crate) url: Option<SecretText>,
    /// What all names in Redis begin with.
    #[schemars(extend("default" = "tollgate"))]
    pub(crate) prefix: Option<String>,
}

/// What a node does while Redis is away.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnFailure {
    /// Rate limits.
    #[schemars(extend("default" = "local"))]
    pub(crate) limits: Option<LimitsFailure>,
    /// Balances, packages and caps.
    #[schemars(extend("default" = "deny"))]
    pub(crate) billing: Option<BillingFailure>,
}

/// Limits on every request, whoever sends it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// The largest request body, 1KiB to 4GiB.
    #[schemars(extend("default" = "32MiB"))]
    pub(crate) body: Option<SizeText>,
    /// The largest request header, 1KiB to 1MiB.
    #[schemars(extend("default" = "32KiB"))]
    pub(crate) header: Option<SizeText>,
    /// Requests without a valid key, for each client network. Default: no limit.
    pub(crate) unauthenticated_per_ip: Option<RateText>,
    /// Client connections at once; who comes beyond is told 503. Default: 50000, or as many as half of the file descriptors that the process may open.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) connections: Option<u32>,
    /// Requests in flight at once, with a key or without; further ones are told 503. Default: as `connections`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) in_flight: Option<u32>,
    /// Bytes of request bodies that are held at once, over all requests; a rewritten copy counts too. Beyond them requests are told 503. At least `body`. Default: 512MiB, or `body` if that is more.
    pub(crate) buffered: Option<SizeText>,
    /// The largest answer that is read of a provider when it is no stream, 1KiB to 4GiB.
    #[schemars(extend("default" = "256MiB"))]
    pub(crate) answer: Option<SizeText>,
}

/// When a failed attempt at a provider is followed by another: always before the first byte of the answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retries {
    /// Further attempts for one request, at another upstream or with another key; 0 for none.
    #[schemars(range(max = 10), extend("default" = 2))]
    pub(crate) max: Option<u32>,
    /// Further attempts over all requests, in percent of the requests of the last seconds.
    #[schemars(range(max = 100), extend("default" = 20))]
    pub(crate) budget: Option<u32>,
    /// What is tried again besides, though the provider may have begun to work and may bill it. Default: nothing.
    pub(crate) resend: Option<Vec<Resend>>,
}

/// How the process ends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shutdown {
    /// After SIGTERM readiness fails so long before the listeners close, so that load balancers learn of it; `0s` to 10 minutes.
    #[schemars(extend("default" = "2s"))]
    pub(crate) lame_duck: Option<DurationText>,
    /// Requests in flight may then end within this time; `0s` to 1 day.
    #[schemars(extend("default" = "30s"))]
    pub(crate) grace: Option<DurationText>,
}

/// The process's own log, on standard error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    /// The form of lines.
    #[schemars(extend("default" = "json"))]
    pub(crate) format: Option<LogFormat>,
    /// The least severe line that is written.
    #[schemars(extend("default" = "info"))]
    pub(crate) level: Option<LogLevel>,
}
