//! Providers and models as typed.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::{Amount, DurationText, Named, PathText, SecretText, UrlText};
use crate::config::words::{DisconnectBilling, Modality, ModelStatus, ProviderApi};

/// A provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    /// The wire protocol that it speaks.
    #[schemars(required)]
    pub(crate) api: Option<ProviderApi>,
    /// Where its API lies, `http` or `https`. Required unless `api: demo`.
    pub(crate) base_url: Option<UrlText>,
    /// Its keys, used in turn. At least one, unless `api: demo` or the host is this machine.
    pub(crate) keys: Option<Vec<SecretText>>,
    /// How long to wait for it.
    pub(crate) timeouts: Option<Timeouts>,
    /// When it is left out because it fails, and when it is tried again.
    pub(crate) health: Option<Health>,
    /// File with the certificates of a private certificate authority, PEM. Default: the system's.
    pub(crate) ca: Option<PathText>,
}

/// How long to wait for a provider; 1ms to 1h each, `total` to 1d.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// Until the connection stands, TLS included.
    #[schemars(extend("default" = "3s"))]
    pub(crate) connect: Option<DurationText>,
    /// From the request to the first byte of the answer.
    #[schemars(extend("default" = "60s"))]
    pub(crate) first_byte: Option<DurationText>,
    /// Between two pieces of an answer.
    #[schemars(extend("default" = "120s"))]
    pub(crate) idle: Option<DurationText>,
    /// From the request to the end of the answer, further attempts included.
    #[schemars(extend("default" = "1h"))]
    pub(crate) total: Option<DurationText>,
}

/// When an upstream of a provider is left out because it fails, and when it is tried again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    /// Failures in a row after which an upstream is left out: out of reach, 5xx, too slow, broken off. A model's only upstream: four times as many.
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    pub(crate) failures: Option<u32>,
    /// How long it is left out the first time; each further time twice as long. Then one request tries it. 1ms to 1h.
    #[schemars(extend("default" = "1s"))]
    pub(crate) cooldown: Option<DurationText>,
    /// The longest that it is left out; `cooldown` to 1h.
    #[schemars(extend("default" = "60s"))]
    pub(crate) max_cooldown: Option<DurationText>,
    /// One that came back gets its full share after so long; `0s` to 1h.
    #[schemars(extend("default" = "10s"))]
    pub(crate) slow_start: Option<DurationText>,
    /// Asks the provider whether it is there, besides. Default: only real requests tell.
    pub(crate) check: Option<ActiveCheck>,
}

/// A request that asks a provider whether it is there: any answer below 500 says yes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActiveCheck {
    /// What is asked for with GET, below `base_url`: `/models`.
    #[schemars(required)]
    pub(crate) path: Option<String>,
    /// How often; 1s to 1h.
    #[schemars(extend("default" = "10s"))]
    pub(crate) interval: Option<DurationText>,
    /// An answer must come within this time; 1ms to 1m.
    #[schemars(extend("default" = "2s"))]
    pub(crate) timeout: Option<DurationText>,
}

/// A model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// The id that clients send, matched exactly. `"*"` catches every id that is not listed and passes it on as it is.
    #[schemars(required)]
    pub(crate) id: Option<String>,
    /// Other ids that lead to this model.
    pub(crate) aliases: Option<Vec<String>>,
    /// Its name for people.
    pub(crate) label: Option<String>,
    /// Who made it.
    pub(crate) org: Option<String>,
    /// Tokens that prompt and answer may have together.
    #[schemars(range(min = 1))]
    pub(crate) context_length: Option<u64>,
    /// Words to find it by.
    pub(crate) tags: Option<Vec<String>>,
    /// What it takes or makes besides text.
    #[schemars(extend("default" = "text"))]
    pub(crate) modality: Option<Modality>,
    /// Where it stands in its life.
    #[schemars(extend("default" = "active"))]
    pub(crate) status: Option<ModelStatus>,
    /// Where its requests go. At least one, unless the status is `soon` or `preview`.
    pub(crate) upstreams: Option<Vec<Upstream>>,
    /// What it costs. Default: nothing.
    pub(crate) price: Option<Price>,
    /// What is billed when the client leaves before the end.
    #[schemars(extend("default" = "bill_relayed"))]
    pub(crate) on_disconnect: Option<DisconnectBilling>,
}

/// A provider that serves a model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    /// Name of the provider.
    #[schemars(required)]
    pub(crate) provider: Option<String>,
    /// The provider's own name of the model. Default: the id.
    pub(crate) model: Option<String>,
    /// Its share of the requests of its tier; 0 takes none.
    #[schemars(range(max = 1_000_000), extend("default" = 1))]
    pub(crate) weight: Option<u32>,
    /// A higher tier is used only when the lower ones have no healthy upstream.
    #[schemars(range(max = 1000), extend("default" = 0))]
    pub(crate) tier: Option<u32>,
    /// Requests that a node has in flight here at most; further ones go to other upstreams. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) concurrency: Option<u32>,
}

/// What a model costs, in the configured currency, at most 6 decimals.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// A million input tokens.
    #[schemars(extend("default" = 0))]
    pub(crate) input: Option<Amount>,
    /// A million output tokens.
    #[schemars(extend("default" = 0))]
    pub(crate) output: Option<Amount>,
    /// A million input tokens that the provider had cached. Default: as `input`.
    pub(crate) cached_input: Option<Amount>,
    /// A million input tokens that the provider puts into its cache. Default: as `input`.
    pub(crate) cache_write: Option<Amount>,
    /// An image: one amount, or one for each size (`{ 1024x1024: 0.2, 2048x2048: 0.5 }`).
    pub(crate) image: Option<ImagePrice>,
    /// A thousand characters of speech.
    pub(crate) characters: Option<Amount>,
    /// A second of audio, video or music.
    pub(crate) second: Option<Amount>,
}

/// The price of an image. The mapping comes first: an [`Amount`] deserializes from anything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum ImagePrice {
    /// By size.
    BySize(Named<Amount>),
    /// The same for all sizes.
    Any(Amount),
}
