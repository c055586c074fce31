//! Method and path → [`Endpoint`]: which surface is called, and which operation of it.
//!
//! Paths are matched byte for byte. What is encoded, doubled or dotted (`%2e`, `//`, `..`) matches
//! nothing and is a 404, so that the path which was authorised is the path that was meant.
//!
//! Above 400 lines only with its tests.

use http::Method;

/// The protocol of a surface or of one of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's API.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // named after the API's own paths
pub enum Operation {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    Rerank,
    ImagesGenerations,
    ImagesEdits,
    AudioSpeech,
    AudioTranscriptions,
    AudioTranslations,
    Messages,
    CountTokens,
    ListModels,
    GetModel,
    Catalog,
    Usage,
}

/// How a request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A JSON object, read whole: its `model` decides the route.
    Json,
    /// `multipart/form-data`, streamed up.
    Multipart,
    /// None is expected.
    None,
}

impl Operation {
    /// Every operation, in the order of their discriminants.
    pub const ALL: [Operation; 17] = [
        Operation::ChatCompletions,
        Operation::Completions,
        Operation::Embeddings,
        Operation::Responses,
        Operation::Moderations,
        Operation::Rerank,
        Operation::ImagesGenerations,
        Operation::ImagesEdits,
        Operation::AudioSpeech,
        Operation::AudioTranscriptions,
        Operation::AudioTranslations,
        Operation::Messages,
        Operation::CountTokens,
        Operation::ListModels,
        Operation::GetModel,
        Operation::Catalog,
        Operation::Usage,
    ];

    /// The path below the mount (for Anthropic's operations below `v1/`), and so the path below the
    /// provider's base URL.
    pub const fn path(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "chat/completions",
            Operation::Completions => "completions",
            Operation::Embeddings => "embeddings",
            Operation::Responses => "responses",
            Operation::Moderations => "moderations",
            Operation::Rerank => "rerank",
            Operation::ImagesGenerations => "images/generations",
            Operation::ImagesEdits => "images/edits",
            Operation::AudioSpeech => "audio/speech",
            Operation::AudioTranscriptions => "audio/transcriptions",
            Operation::AudioTranslations => "audio/translations",
            Operation::Messages => "messages",
            Operation::CountTokens => "messages/count_tokens",
            Operation::ListModels => "models",
            Operation::GetModel => "models/{id}",
            Operation::Catalog => "catalog",
            Operation::Usage => "usage",
        }
    }

    /// Whether it has usage in tokens: counting them and listing models has none.
    pub const fn uses_tokens(self) -> bool {
        !matches!(
            self,
            Operation::CountTokens
                | Operation::ListModels
                | Operation::GetModel
                | Operation::Catalog
                | Operation::Usage
        )
    }

    /// Whether its answer is a text that a model writes.
    pub const fn writes_text(self) -> bool {
        matches!(
            self,
            Operation::ChatCompletions
                | Operation::Completions
                | Operation::Responses
                | Operation::Messages
        )
    }

    /// The value of the metric label `operation`: OpenTelemetry's names for
    /// `gen_ai.operation.name` where one exists, else the path with dots.
    pub const fn label(self) -> &'static str {
        match self {
            Operation::ChatCompletions | Operation::Messages | Operation::Responses => "chat",
            Operation::Completions => "text_completion",
            Operation::Embeddings => "embeddings",
            Operation::Moderations => "moderations",
            Operation::Rerank => "rerank",
            Operation::ImagesGenerations => "images.generations",
            Operation::ImagesEdits => "images.edits",
            Operation::AudioSpeech => "audio.speech",
            Operation::AudioTranscriptions => "audio.transcriptions",
            Operation::AudioTranslations => "audio.translations",
            Operation::CountTokens => "count_tokens",
            Operation::ListModels => "models.list",
            Operation::GetModel => "models.get",
            Operation::Catalog => "catalog",
            Operation::Usage => "usage",
        }
    }

    /// The methods that it answers.
    pub const fn allow(self) -> &'static str {
        match self {
            Operation::ListModels | Operation::GetModel | Operation::Catalog | Operation::Usage => {
                "GET, HEAD, OPTIONS"
            }
            _ => "POST, OPTIONS",
        }
    }

    /// How its body is read.
    pub const fn body(self) -> Body {
        match self {
            Operation::ImagesEdits
            | Operation::AudioTranscriptions
            | Operation::AudioTranslations => Body::Multipart,
            Operation::ListModels | Operation::GetModel | Operation::Catalog | Operation::Usage => {
                Body::None
            }
            _ => Body::Json,
        }
    }

    /// The protocol that a provider must speak to serve it.
    pub const fn api(self) -> Api {
        match self {
            Operation::Messages | Operation::CountTokens => Api::Anthropic,
            _ => Api::OpenAi,
        }
    }
}

/// Where a request goes: only [`Router::route`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Place of the surface in the configuration's list.
    pub surface: usize,
    /// What is asked for.
    pub operation: Operation,
    /// The protocol whose envelope errors take: the operation's own for Anthropic's operations,
    /// else the surface's.
    pub api: Api,
    /// The `{id}` of [`Operation::GetModel`], percent-decoded.
    pub model: Option<String>,
}

/// Why there is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The path is not known; the surface it lies under, if any.
    Path(Option<usize>),
    /// The path is known, the method is wrong.
    Method(Endpoint),
}

/// The mounts of the configuration.
#[derive(Clone, Debug)]
pub struct Router {
    /// Longest mount first, so that `/api/v1` is tried before `/`.
    mounts: Vec<Mount>,
}

#[derive(Clone, Debug)]
struct Mount {
    prefix: String,
    surface: usize,
    api: Api,
}

impl Router {
    /// A router over `(mount, api)`; a mount has no trailing slash, the root is the empty string.
    pub fn new(surfaces: impl IntoIterator<Item = (String, Api)>) -> Router {
        let mut mounts: Vec<Mount> = surfaces
            .into_iter()
            .enumerate()
            .map(|(surface, (prefix, api))| Mount {
                prefix,
                surface,
                api,
            })
            .collect();
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        Router { mounts }
    }

    /// Finds the endpoint of a request.
    ///
    /// # Errors
    /// [`Miss`], with what an honest answer needs: the surface for the dialect, or the methods.
    pub fn route(&self, method: &Method, path: &str) -> Result<Endpoint, Miss> {
        let mut surface = None;
        for mount in &self.mounts {
            let Some(below) = path
                .strip_prefix(mount.prefix.as_str())
                .and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            surface = surface.or(Some(mount.surface));
            if let Some(endpoint) = mount.find(below) {
                let get = matches!(*method, Method::GET | Method::HEAD);
                let wants_get = endpoint.operation.body() == Body::None;
                return if get == wants_get && (get || *method == Method::POST) {
                    Ok(endpoint)
                } else {
                    Err(Miss::Method(endpoint))
                };
            }
        }
        Err(Miss::Path(surface))
    }

    /// The protocol of a surface.
    pub fn api(&self, surface: usize) -> Api {
        self.mounts
            .iter()
            .find(|mount| mount.surface == surface)
            .map_or(Api::OpenAi, |mount| mount.api)
    }
}

impl Mount {
    fn find(&self, below: &str) -> Option<Endpoint> {
        let operation = match self.api {
            // Ours: no SDK puts its version before it.
            _ if below == "usage" => Operation::Usage,
            Api::Anthropic => match below.strip_prefix("v1/")? {
                "messages" => Operation::Messages,
                "messages/count_tokens" => Operation::CountTokens,
                "models" => Operation::ListModels,
                rest => return self.get_model(rest),
            },
            Api::OpenAi => match below {
                "chat/completions" => Operation::ChatCompletions,
                "completions" => Operation::Completions,
                "embeddings" => Operation::Embeddings,
                "responses" => Operation::Responses,
                "moderations" => Operation::Moderations,
                "rerank" => Operation::Rerank,
                "images/generations" => Operation::ImagesGenerations,
                "images/edits" => Operation::ImagesEdits,
                "audio/speech" => Operation::AudioSpeech,
                "audio/transcriptions" => Operation::AudioTranscriptions,
                "audio/translations" => Operation::AudioTranslations,
                // One base URL for both SDKs: Anthropic's appends /v1/messages itself.
                "messages" => Operation::Messages,
                "messages/count_tokens" => Operation::CountTokens,
                "models" => Operation::ListModels,
                "catalog" => Operation::Catalog,
                rest => return self.get_model(rest),
            },
        };
        Some(self.endpoint(operation, None))
    }

    fn get_model(&self, below: &str) -> Option<Endpoint> {
        let id = percent_decode(below.strip_prefix("models/")?)?;
        (!id.is_empty()).then(|| self.endpoint(Operation::GetModel, Some(id)))
    }

    fn endpoint(&self, operation: Operation, model: Option<String>) -> Endpoint {
        let api = match operation.api() {
            Api::Anthropic => Api::Anthropic,
            Api::OpenAi => self.api,
        };
        Endpoint {
            surface: self.surface,
            operation,
            api,
            model,
        }
    }
}

/// Decodes `%41` to `A`; `None` for a broken escape or for bytes that are not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        // `from_str_radix` takes a sign, an escape has none.
        if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::new([
            ("/v1".to_owned(), Api::OpenAi),
            ("/api/v1".to_owned(), Api::OpenAi),
            ("/anthropic".to_owned(), Api::Anthropic),
        ])
    }

    fn found(method: Method, path: &str) -> Result<(usize, Operation, Api), Miss> {
        router()
            .route(&method, path)
            .map(|e| (e.surface, e.operation, e.api))
    }

    #[test]
    fn each_mount_leads_to_its_surface() {
        use Operation::*;
        let (openai, anthropic) = (Api::OpenAi, Api::Anthropic);
        let post = Method::POST;
        assert_eq!(
            found(post.clone(), "/v1/chat/completions"),
            Ok((0, ChatCompletions, openai))
        );
        assert_eq!(
            found(post.clone(), "/api/v1/embeddings"),
            Ok((1, Embeddings, openai))
        );
        assert_eq!(
            found(post.clone(), "/anthropic/v1/messages"),
            Ok((2, Messages, anthropic))
        );
        assert_eq!(
            found(post, "/v1/messages/count_tokens"),
            Ok((0, CountTokens, anthropic))
        );
        assert_eq!(
            found(Method::GET, "/anthropic/v1/models"),
            Ok((2, ListModels, anthropic))
        );
        assert_eq!(
            found(Method::HEAD, "/v1/models"),
            Ok((0, ListModels, openai))
        );
    }

    #[test]
    fn every_operation_is_found_under_its_own_path() {
        for operation in Operation::ALL {
            if operation == Operation::GetModel {
                continue;
            }
            let method = if operation.body() == Body::None {
                Method::GET
            } else {
                Method::POST
            };
            let (_, found, api) = found(method, &format!("/v1/{}", operation.path())).unwrap();
            assert_eq!(found, operation);
            assert_eq!(api, operation.api());
        }
    }

    #[test]
    fn tricks_match_nothing() {
        for path in [
            "/v1//chat/completions",
            "//v1/chat/completions",
            "/v1/chat/completions/",
            "/v1/%63hat/completions",
            "/v1/chat%2fcompletions",
            "/v1/../v1/chat/completions",
            "/v1/%2e%2e/v1/chat/completions",
            "/v1/chat/completions;x=1",
            "/V1/chat/completions",
            "/v1/chat/completions\\",
            "/v1",
            "/v1/models/",
            "/v1/models/%zz",
            "/v1/models/%+1",
            "/v1/models/%ff",
            "",
            "*",
        ] {
            assert!(
                matches!(found(Method::POST, path), Err(Miss::Path(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let Err(Miss::Method(endpoint)) = router().route(&Method::GET, "/v1/chat/completions")
        else {
            panic!("GET must not reach a POST endpoint");
        };
        assert_eq!(endpoint.operation.allow(), "POST, OPTIONS");
        assert!(matches!(
            found(Method::PUT, "/v1/models"),
            Err(Miss::Method(_))
        ));
    }

    #[test]
    fn model_ids_may_hold_slashes_and_escapes() {
        let endpoint = router()
            .route(&Method::GET, "/v1/models/org%2Fname:free")
            .unwrap();
        assert_eq!(endpoint.model.as_deref(), Some("org/name:free"));
        let endpoint = router().route(&Method::GET, "/v1/models/org/name").unwrap();
        assert_eq!(endpoint.model.as_deref(), Some("org/name"));
    }

    #[test]
    fn a_root_mount_serves_below_the_others() {
        let router = Router::new([
            (String::new(), Api::Anthropic),
            ("/v2".to_owned(), Api::OpenAi),
        ]);
        let endpoint = router.route(&Method::POST, "/v1/messages").unwrap();
        assert_eq!(
            (endpoint.surface, endpoint.operation),
            (0, Operation::Messages)
        );
        assert_eq!(
            router
                .route(&Method::POST, "/v2/completions")
                .unwrap()
                .surface,
            1
        );
    }
}
