//! The gateway and the provider behind it that the tests of hostile requests attack.

use serde_json::json;

use super::gateway::{Gateway, KEY};
use super::http::{Client, Response};
use super::provider::Provider;

pub const UPSTREAM_SECRET: &str = "upstream-secret-0123456789abcdef";
pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/anthropic/v1/messages";
/// `limits.body` of [`small`].
pub const SMALL: usize = 64 << 10;

pub struct World {
    pub provider: Provider,
    pub gateway: Gateway,
}

impl World {
    pub async fn start(more: &str) -> World {
        let provider = Provider::start().await;
        let gateway = Gateway::start(&format!(
            "providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}] }}
  - {{ id: transcribe-test, modality: audio, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
{more}
",
            provider.base_url(),
            provider.anthropic_url()
        ))
        .await;
        World { provider, gateway }
    }

    pub async fn small() -> World {
        World::start("limits: { body: 64KiB }").await
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.gateway.addr).await
    }

    /// One request with the good key on a connection of its own.
    pub async fn post(&self, path: &str, body: &[u8]) -> Response {
        post(&mut self.client().await, path, body).await
    }

    /// The provider saw nothing, and the gateway still serves.
    pub async fn unharmed(&self) {
        assert_eq!(self.provider.count(), 0, "{:#?}", self.provider.seen());
        assert_eq!(self.provider.malformed(), Vec::<String>::new());
        let answer = self.post(CHAT, &good()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(self.provider.count(), 1);
    }
}

pub async fn post(client: &mut Client, path: &str, body: &[u8]) -> Response {
    client
        .request("POST", path, &[("Authorization", &bearer(KEY))], body)
        .await
}

pub fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

pub fn good() -> Vec<u8> {
    json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] })
        .to_string()
        .into_bytes()
}

/// The body `{"model":"gpt-test","messages":[],…}` with these members at its end.
pub fn with(members: &str) -> Vec<u8> {
    format!("{{\"model\":\"gpt-test\",\"messages\":[],{members}}}").into_bytes()
}

/// A good request but for its size.
pub fn sized(len: usize) -> Vec<u8> {
    let mut body = with("\"user\":\"\"");
    let filling = vec![b'x'; len - body.len()];
    body.splice(body.len() - 2..body.len() - 2, filling);
    assert_eq!(body.len(), len);
    body
}
