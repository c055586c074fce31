//! The words that a setting may have, shared by the settings as typed and as used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API that a surface offers to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI's: `chat/completions`, `embeddings`, `models` and so on below the mount.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's: `v1/messages` and so on below the mount.
    Anthropic,
}

/// The wire protocol that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderApi {
    /// OpenAI's API.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's API.
    Anthropic,
    /// The built-in provider: deterministic answers, no network.
    Demo,
}

/// The form that errors have on a surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorDialect {
    /// OpenAI's envelope, types and codes.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's envelope and types; only on mounts with `api: anthropic`.
    Anthropic,
    /// OpenAI's envelope with precise names in `type` (`insufficient_credit`, `rate_limited`).
    Typed,
    /// OpenAI's envelope plus `code` and `msg` at the top.
    CodeMsg,
}

/// How a surface tells when a rate limit is full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResetFormat {
    /// A time in UTC: `2027-01-01T00:00:00Z`.
    Iso8601,
    /// Whole seconds from now.
    Seconds,
    /// Seconds since 1970.
    Epoch,
}

/// A failure after which the provider may have begun to work on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// The connection broke before the first byte of the answer.
    Broken,
    /// The first byte did not come within `timeouts.first_byte`.
    FirstByte,
}

/// What a model takes or makes besides text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Chat, completions, moderations, reranking.
    Text,
    /// Images.
    Image,
    /// Speech and transcription.
    Audio,
    /// Videos, as asynchronous jobs.
    Video,
    /// Music, as asynchronous jobs.
    Music,
    /// Embedding vectors.
    Embedding,
}

/// Where a model stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelStatus {
    /// Served and listed.
    Active,
    /// Listed; requests are refused with `model_preview`.
    Preview,
    /// Listed as coming; requests are refused with `model_preview`.
    Soon,
    /// Served and listed as going away.
    Deprecated,
    /// Served, not listed.
    Hidden,
}

/// What is billed when the client leaves before the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectBilling {
    /// The upstream is cancelled at once; what was relayed is billed.
    BillRelayed,
    /// The upstream's answer is read to its end and billed whole, for upstreams that charge it anyway.
    Drain,
}

/// Who shares the limits of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanScope {
    /// Every key has the limits for itself.
    Key,
    /// All keys of an account share them.
    Account,
}

/// What a node does with rate limits while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitsFailure {
    /// Limits by its own counters, at its share of the limit.
    Local,
    /// Lets every request through.
    Allow,
    /// Refuses with 503.
    Deny,
}

/// What a node does with balances, packages and caps while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BillingFailure {
    /// Refuses with 503 once the short grace is used up.
    Deny,
    /// Lets every request through; the charges are kept and applied later.
    Allow,
    /// Decides by the last known balances.
    Local,
}

/// How far billing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BillingMode {
    /// Nothing is charged.
    Off,
    /// Charges are computed and recorded; nobody is refused.
    Observe,
    /// Charges are taken; who cannot pay is refused.
    Enforce,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least severe log line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What an operator must act on.
    Error,
    /// What may need a look.
    Warn,
    /// Starts, stops, one line a request.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> log::LevelFilter {
        match level {
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}
