//! The way to the admin API of a running gateway.

use super::environment;
use crate::config::Config;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};

const DEFAULT: &str = "http://127.0.0.1:9901";
const URL: &str = "TOLLGATE_ADMIN_URL";
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

/// Where the admin API is. Its token comes from TOLLGATE_ADMIN_TOKEN or the file: arguments are seen by
/// everyone on a machine.
#[derive(Debug, Default, clap::Args)]
pub struct Access {
    /// URL of the admin API. Default: TOLLGATE_ADMIN_URL, else <http://127.0.0.1:9901>.
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// Take the address and the token from this configuration file.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the API's JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// An admin API.
pub struct Api {
    base: String,
    token: Option<String>,
    agent: Agent,
}

/// What became of a try.
enum Tried {
    Answered(Response<Body>),
    /// No answer came: it may help to ask again.
    Lost(ureq::Error),
    Failed(ureq::Error),
}

impl Access {
    /// The API.
    ///
    /// # Errors
    /// The configuration cannot be read, or serves no admin API.
    pub fn api(&self) -> Result<Api, String> {
        let file = match &self.config {
            Some(path) => Some(of_file(&super::read(path)?)?),
            None => None,
        };
        let (at, of_file) = file.unzip();
        let base = self
            .admin
            .clone()
            .or(at)
            .or_else(|| environment(URL).filter(|url| !url.is_empty()))
            .unwrap_or_else(|| DEFAULT.to_owned());
        let token = of_file
            .flatten()
            .or_else(|| environment(TOKEN).filter(|token| !token.is_empty()));
        Api::new(&base, token)
    }
}

fn of_file(config: &Config) -> Result<(String, Option<String>), String> {
    let Some(admin) = &config.admin else {
        return Err("the configuration has no `admin`: add `admin: { bind: 127.0.0.1:9901 }` and start the gateway with it".to_owned());
    };
    let mut bind = admin.bind;
    match bind {
        SocketAddr::V4(at) if at.ip().is_unspecified() => bind.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(at) if at.ip().is_unspecified() => bind.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let token = admin.token.as_ref();
    Ok((
        format!("http://{bind}"),
        token.map(|token| token.expose().to_owned()),
    ))
}

impl Api {
    /// The API at this URL.
    ///
    /// # Errors
    /// A URL that cannot be called.
    pub fn new(base: &str, token: Option<String>) -> Result<Api, String> {
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            return Err(format!(
                "the admin API is plain HTTP: `{base}` should begin with http://; reach another machine through a tunnel, such as ssh -L 9901:127.0.0.1:9901"
            ));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy of the environment is for the way out, and would see the token.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_secs(60)))
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Api {
            base,
            token,
            agent: config.into(),
        })
    }

    /// Reads.
    ///
    /// # Errors
    /// In one line: the API's, or that it cannot be reached.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        parsed(&self.ask(&Method::GET, path, None, "application/json")?)
    }

    /// Reads a text of another form than JSON.
    ///
    /// # Errors
    /// As for [`Api::get`].
    pub fn get_text(&self, path: &str, accept: &str) -> Result<String, String> {
        self.ask(&Method::GET, path, None, accept)
    }

    /// Reads a list, all of its pages; `query` is empty or `name=value&…`.
    ///
    /// # Errors
    /// As for [`Api::get`].
    pub fn list(&self, path: &str, query: &str) -> Result<Value, String> {
        let mut all: Vec<Value> = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.get(&format!("{path}?limit=1000&{query}{cursor}"))?;
            if let Some(data) = page["data"].as_array_mut() {
                all.append(data);
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encoded(next)),
                None => {
                    page["data"] = json!(all);
                    return Ok(page);
                }
            }
        }
    }

    /// Writes, once: with an `Idempotency-Key` of its own, under which it is tried a second time if the first got
    /// no answer.
    ///
    /// # Errors
    /// As for [`Api::get`].
    pub fn write(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
        parsed(&self.ask(&method, path, body, "application/json")?)
    }

    fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<String, String> {
        let writes = !method.is_safe();
        let once = match writes {
            true => Some(random()?),
            false => None,
        };
        let mut tries = if writes { 2 } else { 1 };
        let mut answer = loop {
            tries -= 1;
            match self.send(method, path, body, accept, once.as_deref())? {
                Tried::Answered(answer) if answer.status() == 503 && tries > 0 => {}
                Tried::Answered(answer) => break answer,
                Tried::Lost(_) if tries > 0 => {}
                Tried::Lost(error) | Tried::Failed(error) => return Err(self.unreachable(&error)),
            }
            std::thread::sleep(Duration::from_millis(500));
        };
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(text);
        }
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let error = &said["error"];
        let Some(message) = error["message"].as_str() else {
            return Err(format!(
                "{} answered {status}, and not as an admin API does; check the URL",
                self.base
            ));
        };
        let mut line = format!(
            "{message} [{}]",
            error["code"].as_str().unwrap_or("no code")
        );
        if status == 401 {
            let _ = write!(line, " Set {TOKEN}, or give --config FILE.");
        }
        for error in error["errors"].as_array().into_iter().flatten() {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            let _ = write!(line, " {}: {}", text("path"), text("message"));
        }
        Err(line)
    }

    fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
        once: Option<&str>,
    ) -> Result<Tried, String> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}/admin/v1{path}", self.base))
            .header("accept", accept);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(once) = once {
            request = request.header("idempotency-key", once);
        }
        let wrong = |error: ureq::http::Error| format!("`{}` cannot be called: {error}", self.base);
        let sent = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                let request = request.body(body.to_string()).map_err(wrong)?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(wrong)?),
        };
        Ok(match sent {
            Ok(answer) => Tried::Answered(answer),
            Err(
                error @ (ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed),
            ) => Tried::Lost(error),
            Err(error) => Tried::Failed(error),
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> String {
        format!(
            "the admin API at {} cannot be reached ({error}); start the gateway with `admin: {{ bind: … }}`, or say where it is with --admin URL or {URL}",
            self.base
        )
    }
}

fn parsed(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("the answer is not JSON ({error}); check the URL"))
}

fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A text as a part of a path or query.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_file_says_where_the_api_is() {
        let of = |admin: &str| of_file(&parse("test", admin, &|_| None).unwrap());
        let (url, token) = of("admin: { bind: '0.0.0.0:9901', token: secret }").unwrap();
        assert_eq!(
            (url.as_str(), token.as_deref()),
            ("http://127.0.0.1:9901", Some("secret"))
        );
        let (url, token) = of("admin: { bind: '[::1]:9902' }").unwrap();
        assert_eq!((url.as_str(), token), ("http://[::1]:9902", None));
        assert!(of("version: 1").unwrap_err().contains("has no `admin`"));
        assert_eq!(encoded("a@b/c d+é"), "a%40b%2Fc%20d%2B%C3%A9");
    }
}
