//! The OpenAI surface, as a client sees it.

mod support;

use serde_json::json;
use support::gateway::{Gateway, KEY};
use support::http::Client;
use support::provider::Provider;

fn sections(provider: &Provider) -> String {
    format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]\n",
        provider.base_url()
    )
}

#[tokio::test]
async fn a_chat_goes_through() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&sections(&provider)).await;
    let mut client = Client::connect(gateway.addr).await;
    let request = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = client
        .post_json("/v1/chat/completions", KEY, &request)
        .await;
    assert_eq!(answer.status, 200);
    let seen = provider.last().expect("the provider saw the request");
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-secret"));
    assert_eq!(seen.body, request.to_string().as_bytes());
}
