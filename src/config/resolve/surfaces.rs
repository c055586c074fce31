//! Surfaces: mounts that do not hide one another, dialects that fit the API.

use std::collections::BTreeMap;

use super::Resolver;
use crate::config::path;
use crate::config::schema;
use crate::config::settings::Surface;
use crate::config::words::{Api, ErrorDialect, ResetFormat};
use crate::nearest::hint;
use crate::rejection::CODES;

/// Paths that answer on every listener, whatever is mounted.
const RESERVED: [&str; 3] = ["/livez", "/readyz", "/api/status"];

/// Paths below an OpenAI mount, of later releases too. `{…}` is any one segment, `{…*}` the rest.
const OPENAI: [&str; 24] = [
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "moderations",
    "rerank",
    "images/generations",
    "images/edits",
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "videos",
    "videos/generations",
    "music/generations",
    "videos/{id}",
    "videos/jobs/{id}",
    "videos/{id}/content",
    "music/jobs/{id}",
    "models",
    "models/{id*}",
    "catalog",
    "usage",
    "messages",
    "messages/count_tokens",
];

/// Paths below an Anthropic mount.
const ANTHROPIC: [&str; 5] = [
    "v1/messages",
    "v1/messages/count_tokens",
    "v1/models",
    "v1/models/{id*}",
    "usage",
];

impl Resolver<'_, '_> {
    pub(super) fn surfaces(&mut self, given: Option<Vec<schema::Surface>>) -> Vec<Surface> {
        let Some(given) = given else {
            return default_surfaces();
        };
        let mut surfaces: Vec<Surface> = Vec::with_capacity(given.len());
        let mut usable: Vec<(String, Api, usize)> = Vec::new();
        for (at, typed) in given.into_iter().enumerate() {
            let path = path::item("surfaces", at);
            let schema::Surface {
                mount,
                api,
                errors,
                retry_after,
                rate_limit_reset,
                ietf_rate_limit,
                statuses,
            } = typed;
            let mount = mount.and_then(|mount| self.mount(&format!("{path}.mount"), &mount));
            if let (Some(mount), Some(api)) = (&mount, api) {
                self.mount_apart(&format!("{path}.mount"), mount, api, &usable);
                usable.push((mount.clone(), api, at));
            }
            let errors = self.dialect(&format!("{path}.errors"), errors, api);
            surfaces.push(Surface {
                mount: mount.unwrap_or_default(),
                api: api.unwrap_or(Api::OpenAi),
                errors,
                retry_after,
                rate_limit_reset: rate_limit_reset.unwrap_or(ResetFormat::Iso8601),
                ietf_rate_limit: ietf_rate_limit.unwrap_or(false),
                statuses: self.statuses(&format!("{path}.statuses"), statuses),
            });
        }
        surfaces
    }

    /// `/v1` as it is, `/` as the empty text.
    fn mount(&mut self, path: &str, mount: &str) -> Option<String> {
        if mount == "/" {
            return Some(String::new());
        }
        let trimmed = mount.trim_end_matches('/');
        let segment = |part: &str| {
            let plain = part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b));
            !part.is_empty() && part != "." && part != ".." && plain
        };
        let message = if !mount.starts_with('/') {
            "does not begin with `/`; put one in front".to_owned()
        } else if mount.contains(['?', '#']) {
            "has a query or fragment; write the path alone".to_owned()
        } else if !mount
            .split('/')
            .skip(1)
            .all(|part| part.is_empty() || segment(part))
        {
            "is no plain path; write letters, digits, `.`, `_`, `~` and `-` between single slashes, without `..`".to_owned()
        } else if trimmed.contains("//") || trimmed.is_empty() {
            "has an empty segment (`//`); write single slashes".to_owned()
        } else if mount.ends_with('/') {
            "ends with `/`; remove that".to_owned()
        } else {
            return Some(mount.to_owned());
        };
        self.wrong(path, &message);
        None
    }

    /// A mount must not take a path that the gateway or another mount answers.
    fn mount_apart(&mut self, path: &str, mount: &str, api: Api, earlier: &[(String, Api, usize)]) {
        let shown = |mount: &str| {
            if mount.is_empty() {
                "/".to_owned()
            } else {
                mount.to_owned()
            }
        };
        if let Some(reserved) = RESERVED.iter().find(|reserved| is_below(mount, reserved)) {
            let message = format!("hides the gateway's own `{reserved}`; choose another mount");
            self.wrong(path, &message);
        }
        for (other, other_api, at) in earlier {
            let place = format!("surfaces[{at}]");
            if other == mount {
                self.wrong(
                    path,
                    &format!("is mounted twice, first by `{place}`; every mount is different"),
                );
                continue;
            }
            let (inner, outer, outer_api) = if is_below(mount, other) {
                (mount, other.as_str(), *other_api)
            } else if is_below(other, mount) {
                (other.as_str(), mount, api)
            } else {
                continue;
            };
            if let Some(hidden) = hidden(outer, outer_api, inner) {
                let message = format!(
                    "and `{}` of `{place}` collide: `{inner}` hides `{hidden}`, which `{}` answers; choose another mount",
                    shown(other),
                    shown(outer),
                );
                self.wrong(path, &message);
            }
        }
    }

    fn dialect(
        &mut self,
        path: &str,
        errors: Option<ErrorDialect>,
        api: Option<Api>,
    ) -> ErrorDialect {
        let default = match api {
            Some(Api::Anthropic) => ErrorDialect::Anthropic,
            _ => ErrorDialect::OpenAi,
        };
        let errors = errors.unwrap_or(default);
        match (api, errors) {
            (Some(Api::OpenAi), ErrorDialect::Anthropic) => {
                self.wrong(path, "is for mounts with `api: anthropic`; write `openai`, `typed` or `code_msg`, or remove it");
            }
            (
                Some(Api::Anthropic),
                ErrorDialect::OpenAi | ErrorDialect::Typed | ErrorDialect::CodeMsg,
            ) => {
                self.wrong(
                    path,
                    "is for mounts with `api: openai`; write `anthropic`, or remove it",
                );
            }
            _ => {}
        }
        errors
    }

    fn statuses(
        &mut self,
        path: &str,
        given: Option<schema::Named<schema::Status>>,
    ) -> BTreeMap<String, u16> {
        let mut statuses = BTreeMap::new();
        for (code, status) in given.map(|given| given.0).unwrap_or_default() {
            if !CODES.iter().any(|known| *known == code) {
                let hint = hint(&code, "codes", CODES.iter().copied());
                let message =
                    format!("unknown error code `{code}`{hint}; docs/errors.md lists all");
                self.report.key(&path::field(path, &code), message);
            }
            statuses.insert(code, status.0);
        }
        statuses
    }
}

/// `/v1`, `/api/v1` with its own statuses and waits, `/anthropic`.
fn default_surfaces() -> Vec<Surface> {
    let surface = |mount: &str, api, errors| Surface {
        mount: mount.to_owned(),
        api,
        errors,
        retry_after: None,
        rate_limit_reset: ResetFormat::Iso8601,
        ietf_rate_limit: false,
        statuses: BTreeMap::new(),
    };
    let quota = ["spend_cap_reached", "package_exhausted"];
    vec![
        surface("/v1", Api::OpenAi, ErrorDialect::OpenAi),
        Surface {
            retry_after: Some(60),
            statuses: quota.iter().map(|code| ((*code).to_owned(), 429)).collect(),
            ..surface("/api/v1", Api::OpenAi, ErrorDialect::OpenAi)
        },
        surface("/anthropic", Api::Anthropic, ErrorDialect::Anthropic),
    ]
}

/// Whether the path `inner` is `outer` or lies below it.
fn is_below(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path of the outer mount that the inner one takes.
fn hidden(outer: &str, api: Api, inner: &str) -> Option<String> {
    let endpoints: &[&str] = match api {
        Api::OpenAi => &OPENAI,
        Api::Anthropic => &ANTHROPIC,
    };
    let below = inner.strip_prefix(outer)?.strip_prefix('/')?;
    let takes = |endpoint: &&&str| {
        let mut segments = endpoint.split('/');
        for part in below.split('/') {
            match segments.next() {
                Some(segment) if segment.ends_with("*}") => return true,
                Some(segment) if segment == part || segment.starts_with('{') => {}
                _ => return false,
            }
        }
        true
    };
    endpoints
        .iter()
        .find(takes)
        .map(|endpoint| format!("{outer}/{}", endpoint.replace('*', "")))
}
