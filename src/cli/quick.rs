//! The configuration of `tollgate serve` without a file: every model of the provider whose key is
//! in the environment, on this machine only.

use crate::config::{Config, parse};

const OPENAI: &str = "
  openai: { api: openai, base_url: \"${OPENAI_BASE_URL:-https://api.openai.com/v1}\", keys: [\"${OPENAI_API_KEY}\"] }";
const ANTHROPIC: &str = "
  anthropic: { api: anthropic, base_url: \"${ANTHROPIC_BASE_URL:-https://api.anthropic.com}\", keys: [\"${ANTHROPIC_API_KEY}\"] }";

/// Builds it.
///
/// # Errors
/// No key is set, or a base URL of the environment is not one.
pub fn config(environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, String> {
    let set = |name: &str| environment(name).is_some_and(|value| !value.is_empty());
    let (openai, anthropic) = (set("OPENAI_API_KEY"), set("ANTHROPIC_API_KEY"));
    if !openai && !anthropic {
        return Err(
            "nothing to serve: give --config FILE, or set OPENAI_API_KEY or ANTHROPIC_API_KEY"
                .to_owned(),
        );
    }
    let mut providers = String::new();
    let mut upstreams = Vec::new();
    for (name, text, present) in [
        ("openai", OPENAI, openai),
        ("anthropic", ANTHROPIC, anthropic),
    ] {
        if present {
            providers.push_str(text);
            upstreams.push(format!("{{ provider: {name} }}"));
        }
    }
    let text = format!(
        "version: 1
listeners: [{{ bind: 127.0.0.1:8080 }}]
providers:{providers}
models:
  - {{ id: \"*\", upstreams: [{}] }}
plans: {{ default: {{ models: [\"*\"] }} }}
accounts: {{ local: {{ plan: default, projects: [default] }} }}
",
        upstreams.join(", ")
    );
    parse("environment", &text, environment).map_err(|errors| errors.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_environment_is_enough() {
        let only = |wanted: &'static [&'static str]| {
            move |name: &str| wanted.contains(&name).then(|| "sk-secret".to_owned())
        };
        let openai = config(&only(&["OPENAI_API_KEY"])).unwrap();
        assert_eq!(openai.providers.len(), 1);
        assert!(openai.listeners[0].bind.ip().is_loopback());
        let both = config(&only(&["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])).unwrap();
        assert_eq!(both.models[0].upstreams.len(), 2);
        let none = config(&only(&[])).unwrap_err();
        assert!(none.contains("OPENAI_API_KEY"), "{none}");
    }
}
