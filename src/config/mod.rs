//! The configuration file: text → [`Config`], or all errors at once.
//!
//! In the order in which a file passes through:
//!
//! - `document`: YAML → tree with the place of everything; `expand` puts in variables and files, `scalar`
//!   types plain scalars, `path` names settings as people do
//! - `schema`: the settings as typed; also the editors' JSON Schema and, through `reference`, the page
//!   `docs/configuration.md`
//! - `check`: the tree against the JSON Schema: unknown fields, wrong types; `shape` reads the
//!   schema, `crate::nearest` finds what was meant
//! - `resolve`: as typed → as used (`settings`, with the `words` that both share): scalars, references, rules
//! - `report`: gathers the errors of every step; `load` runs the steps
//! - `difference`: what changed from one configuration to another, by the `outline` of both, and what of it needs a restart
//!
//! Seen by the shell and the wiring only: inner modules take small settings of their own.

mod check;
mod difference;
mod document;
mod expand;
mod load;
mod outline;
mod path;
mod reference;
mod report;
mod resolve;
mod scalar;
mod schema;
mod settings;
mod shape;
mod words;

pub use difference::{Change, Step, difference, restart_settings};
pub use expand::Env;
pub use load::{Loaded, load, parse, read};
pub use reference::reference_markdown;
pub use report::{Errors, Problem};
pub use schema::json_schema;
pub use settings::{
    Account, ActiveCheck, Admin, Anonymous, BaseUrl, Billing, Config, Health, Key, KeyBilling,
    Limits, Listener, Log, Model, Package, Plan, Provider, Rate, Redis, Retries, Secret, Shutdown,
    Store, Surface, Timeouts, TlsFiles, UpstreamRef,
};
pub use words::{
    Api, BillingFailure, BillingMode, DisconnectBilling, ErrorDialect, LimitsFailure, LogFormat,
    LogLevel, Modality, ModelStatus, PlanScope, ProviderApi, Resend, ResetFormat,
};
