//! Configuration → snapshot: from what the file says to what requests are judged by.

use super::keys::Keys;
use super::previous::Previous;
use crate::auth::secret::KeyHash;
use crate::billing::ledger::Ledger;
use crate::catalog::{Catalog, Model, Status, Upstream};
use crate::config::{
    Api as ConfigApi, Config, DisconnectBilling, ErrorDialect, Modality, ModelStatus,
    Provider as ConfigProvider, ProviderApi, Resend as ConfigResend, ResetFormat, Secret,
};
use crate::limit::flood::Flood;
use crate::limit::limiter::Limiter;
use crate::proxy::snapshot::{Resend, Retries, Snapshot, Surface};
use crate::record::metrics::Metrics;
use crate::record::recorder::Recorder;
use crate::rejection::CODES;
use crate::route::{Api, Router};
use crate::upstream::budget::Budget;
use crate::upstream::health::Rules;
use crate::upstream::live::Live;
use crate::upstream::peer::{Template, read_authorities};
use crate::upstream::{Check, Paths, Provider, ProviderSettings, Timeouts};
use crate::wire::error::{Dialect, Style};
use crate::wire::head::Heads;
use crate::wire::rates;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// Where the built-in provider listens, and what it wants to hear as key.
#[derive(Clone, Debug)]
pub struct DemoAccess {
    /// Its address.
    pub address: SocketAddr,
    /// Its key.
    pub key: String,
}

/// What outlives configurations, and every snapshot refers to.
pub struct Lasting {
    /// All numbers.
    pub metrics: Arc<Metrics>,
    /// All counts that limits go by.
    pub limiter: Arc<Limiter>,
    /// Who keeps the money; nobody where nothing is charged.
    pub ledger: Option<Arc<Ledger>>,
    /// A key that exists only while this process runs, made where the configuration has none.
    pub session_key: Option<KeyHash>,
}

/// Builds the snapshot. What has not changed since the previous one is the same object in both: see [`Previous`].
///
/// # Errors
/// One line for what only now shows: a file of certificates, a key that no header can carry.
pub fn snapshot(
    config: &Config,
    lasting: &Lasting,
    demo: Option<&DemoAccess>,
    keys: &Keys,
    previous: Option<Previous<'_>>,
) -> Result<Snapshot, String> {
    let Lasting {
        metrics,
        limiter,
        ledger,
        session_key,
    } = lasting;
    let catalog = Catalog::new(config.models.iter().map(model).collect());
    let surfaces: Vec<Surface> = config.surfaces.iter().map(surface).collect();
    let recorder = Recorder::new(
        metrics.clone(),
        surfaces
            .iter()
            .map(|surface| surface.mount.clone())
            .collect(),
        catalog
            .models()
            .iter()
            .map(|model| model.id.clone())
            .collect(),
        config
            .plans
            .iter()
            .map(|plan| plan.name.as_str().into())
            .collect(),
        config
            .providers
            .iter()
            .map(|provider| provider.name.as_str().into())
            .collect(),
    );
    let providers = config
        .providers
        .iter()
        .map(|settings| {
            let authorities = settings.ca.as_deref().map(read_authorities).transpose()?;
            if let Some(same) =
                previous.and_then(|previous| previous.provider(settings, authorities.as_ref()))
            {
                return Ok(same);
            }
            let mut provider = provider(settings, demo)?;
            if let Some(older) = previous
                .as_ref()
                .and_then(|previous| previous.named(&provider.name))
            {
                provider.inherit(older);
            }
            let template = Template::new(&provider, authorities);
            Ok((Arc::new(provider), template))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let lives = lives(&catalog, &providers, previous);
    let budget = previous.map(|previous| previous.snapshot.budget.clone());
    let budget = budget.unwrap_or_else(|| Arc::new(Budget::new(Instant::now().into_std())));
    let traffic = catalog
        .models()
        .iter()
        .map(|model| {
            let known = previous.and_then(|previous| previous.traffic(model));
            known.unwrap_or_default()
        })
        .collect();
    let flood = config.limits.unauthenticated_per_ip.map(|rate| {
        let known = previous.and_then(|previous| previous.flood(rate.count, rate.per));
        known.unwrap_or_else(|| Arc::new(Flood::new(rate.count, rate.per)))
    });
    Ok(Snapshot {
        router: Router::new(
            config
                .surfaces
                .iter()
                .map(|surface| (surface.mount.clone(), api(surface.api))),
        ),
        surfaces,
        directory: keys.directory(config, *session_key),
        limiter: limiter.clone(),
        ledger: ledger.clone(),
        flood,
        catalog,
        providers,
        lives,
        retries: retries(&config.retries),
        budget,
        trusted_proxies: config.trusted_proxies.clone(),
        header_limit: usize::try_from(config.limits.header).unwrap_or(usize::MAX),
        body_limit: config.limits.body,
        answer_limit: config.limits.answer,
        currency: config.currency.clone(),
        recorder,
        traffic,
    })
}

/// How each model's upstreams are doing.
fn lives(
    catalog: &Catalog,
    providers: &[(Arc<Provider>, Template)],
    previous: Option<Previous<'_>>,
) -> Vec<Vec<Arc<Live>>> {
    let of = |model: &Arc<Model>| {
        let known = previous.map(|previous| previous.lives(model, providers));
        let mut known = known.unwrap_or_default();
        let live = |upstream: &Upstream| {
            let provider = providers.get(upstream.provider);
            let provider = provider.map(|(provider, _)| provider.name.clone());
            let provider = provider.unwrap_or_default();
            let name = upstream.name.as_ref().unwrap_or(&model.id);
            let same = |live: &Arc<Live>| live.provider == provider && live.model == *name;
            match known.iter().position(same) {
                Some(at) => known.swap_remove(at),
                None => Arc::new(Live::new(provider, name.clone())),
            }
        };
        model.upstreams.iter().map(live).collect()
    };
    catalog.models().iter().map(of).collect()
}

fn retries(settings: &crate::config::Retries) -> Retries {
    let crate::config::Retries {
        max,
        budget,
        resend,
    } = settings;
    Retries {
        max: *max,
        percent: *budget,
        resend: Resend {
            broken: resend.contains(&ConfigResend::Broken),
            first_byte: resend.contains(&ConfigResend::FirstByte),
        },
    }
}

const fn api(api: ConfigApi) -> Api {
    match api {
        ConfigApi::OpenAi => Api::OpenAi,
        ConfigApi::Anthropic => Api::Anthropic,
    }
}

fn surface(surface: &crate::config::Surface) -> Surface {
    let style = match surface.errors {
        ErrorDialect::OpenAi | ErrorDialect::Anthropic => Style::Native,
        ErrorDialect::Typed => Style::Typed,
        ErrorDialect::CodeMsg => Style::CodeMsg,
    };
    let statuses = CODES
        .iter()
        .filter_map(|code| Some((*code, *surface.statuses.get(*code)?)))
        .collect();
    let mount = match surface.mount.as_str() {
        "" => "/",
        mount => mount,
    };
    Surface {
        mount: mount.into(),
        dialect: Dialect {
            style,
            statuses,
            retry_after: surface.retry_after,
        },
        heads: Heads::new(rates::Style {
            api: api(surface.api),
            reset: match surface.rate_limit_reset {
                ResetFormat::Iso8601 => rates::Reset::Iso8601,
                ResetFormat::Seconds => rates::Reset::Seconds,
                ResetFormat::Epoch => rates::Reset::Epoch,
            },
            ietf: surface.ietf_rate_limit,
        }),
    }
}

fn model(model: &crate::config::Model) -> Model {
    let crate::config::Model {
        id,
        aliases,
        label,
        org,
        context_length,
        tags,
        modality,
        status,
        upstreams,
        price,
        on_disconnect,
    } = model;
    Model {
        index: 0,
        id: id.as_str().into(),
        aliases: aliases.clone(),
        label: label.clone(),
        org: org.clone(),
        context_length: *context_length,
        tags: tags.clone(),
        modality: match modality {
            Modality::Text => "text",
            Modality::Image => "image",
            Modality::Audio => "audio",
            Modality::Video => "video",
            Modality::Music => "music",
            Modality::Embedding => "embedding",
        },
        status: match status {
            ModelStatus::Active => Status::Active,
            ModelStatus::Preview => Status::Preview,
            ModelStatus::Soon => Status::Soon,
            ModelStatus::Deprecated => Status::Deprecated,
            ModelStatus::Hidden => Status::Hidden,
        },
        upstreams: upstreams
            .iter()
            .map(|upstream| Upstream {
                provider: upstream.provider,
                name: upstream.model.as_deref().map(Arc::from),
                weight: upstream.weight,
                tier: upstream.tier,
                concurrency: upstream.concurrency,
            })
            .collect(),
        price: price.clone(),
        drain: *on_disconnect == DisconnectBilling::Drain,
    }
}

fn provider(settings: &ConfigProvider, demo: Option<&DemoAccess>) -> Result<Provider, String> {
    let timeouts = Timeouts {
        connect: settings.timeouts.connect,
        first_byte: settings.timeouts.first_byte,
        idle: settings.timeouts.idle,
        total: settings.timeouts.total,
    };
    let crate::config::Health {
        failures,
        cooldown,
        max_cooldown,
        slow_start,
        check,
    } = settings.health.clone();
    let anthropic = settings.api == ProviderApi::Anthropic;
    let base = settings.base_url.as_ref().map_or("/v1", |base| &base.path);
    let check = check.map(|check| Check {
        target: format!("{base}{}", check.path),
        interval: check.interval,
        timeout: check.timeout,
        anthropic,
    });
    let health = Rules {
        failures,
        cooldown,
        max_cooldown,
        slow_start,
    };
    let name = settings.name.clone();
    let settings = match (&settings.base_url, demo) {
        (Some(base), _) => ProviderSettings {
            name,
            host: base.host.clone(),
            port: base.port,
            tls: base.tls,
            paths: match settings.api {
                ProviderApi::Anthropic => Paths {
                    openai: None,
                    anthropic: Some(base.path.clone()),
                },
                ProviderApi::OpenAi | ProviderApi::Demo => Paths {
                    openai: Some(base.path.clone()),
                    anthropic: None,
                },
            },
            keys: settings
                .keys
                .iter()
                .map(Secret::expose)
                .map(str::to_owned)
                .collect(),
            timeouts,
            health,
            check,
        },
        (None, Some(demo)) => ProviderSettings {
            name,
            host: demo.address.ip().to_string(),
            port: demo.address.port(),
            tls: false,
            paths: Paths {
                openai: Some("/v1".to_owned()),
                anthropic: Some(String::new()),
            },
            keys: vec![demo.key.clone()],
            timeouts,
            health,
            check,
        },
        (None, None) => return Err(format!("provider {name}: it has no base_url")),
    };
    Provider::new(settings)
}
