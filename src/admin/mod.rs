//! The admin API: what operators do while the gateway runs. Keys, accounts, money, usage; on a listener of
//! its own, as REST with JSON.
//!
//! A call goes through `serve` (HTTP), `auth` (the token), `router` (which operation), and then to the file of
//! what it is about: `keys`, `accounts`, `usage`, `system`. These read `body`, `query` and `values`, ask
//! [`backend`], and give a [`reply::Reply`] or a [`failure::Failure`]. `openapi` describes all of it.

mod accounts;
mod auth;
pub mod backend;
mod body;
mod csv;
mod entries;
pub mod failure;
mod key_form;
mod keys;
mod openapi;
mod page;
mod query;
pub mod reply;
pub mod router;
mod serve;
mod settings;
mod system;
mod upstreams;
mod usage;
mod values;

pub use settings::{Package, Settings};

use crate::billing::Once;
use crate::clock::Clock;
use crate::id::RequestId;
use crate::rejection::quoted;
use auth::Token;
use backend::{Books, File, Keys, Peers, Sight};
use failure::{Code, Failure, Outcome};
use http::{HeaderMap, Method, Uri};
use query::Query;
use reply::Reply;
use router::{Operation, Routed, route};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// The admin API.
pub struct Admin {
    settings: Settings,
    token: Option<Token>,
    backends: Backends,
}

/// What it works on.
#[derive(Clone)]
pub struct Backends {
    /// The money.
    pub books: Arc<dyn Books>,
    /// The keys.
    pub keys: Arc<dyn Keys>,
    /// The gateway.
    pub sight: Arc<dyn Sight>,
    /// The other nodes; `None` where there can be none.
    pub peers: Option<Arc<dyn Peers>>,
    /// The configuration file.
    pub file: Arc<dyn File>,
    /// What time it is.
    pub clock: Clock,
}

/// A request's head.
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Who sent it.
    pub client: Option<SocketAddr>,
}

/// A call, as the operations see it.
struct Call<'a> {
    /// The `{id}` of its path.
    id: &'a str,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    body: &'a [u8],
    once: Option<Once>,
    /// Milliseconds since 1970.
    now: u64,
}

impl Call<'_> {
    fn query(&self, known: &[&str]) -> Outcome<Query> {
        Query::read(self.query, known)
    }
}

impl Admin {
    /// The admin API over these.
    pub fn new(mut settings: Settings, backends: Backends) -> Admin {
        let token = settings.token.take();
        Admin {
            settings,
            token: token.as_deref().map(Token::new),
            backends,
        }
    }

    /// Answers a request. Its body is read only if the request is allowed.
    pub async fn answer(
        &self,
        request: &Request,
        body: impl Future<Output = Outcome<Vec<u8>>>,
    ) -> Reply {
        let reply = match self.answered(request, body).await {
            Ok(reply) => reply,
            Err(failure) => failure.into(),
        };
        if let Some(line) = audit(request, &reply) {
            log::info!("{line}");
        }
        reply
    }

    async fn answered(
        &self,
        request: &Request,
        body: impl Future<Output = Outcome<Vec<u8>>>,
    ) -> Outcome<Reply> {
        auth::check(self.token.as_ref(), &request.headers)?;
        let path = request.uri.path();
        let (operation, id) = match route(&request.method, path)? {
            Routed::Options(allow) => return Ok(Reply::options(&allow)),
            Routed::Call(operation, id) => (operation, id),
        };
        let body = body.await?;
        let writes = !request.method.is_safe();
        let call = Call {
            id: &id,
            query: request.uri.query(),
            headers: &request.headers,
            body: &body,
            once: if writes { once(request, &body)? } else { None },
            now: self.backends.clock.now().wall,
        };
        if writes {
            call.query(&[])?;
        }
        self.run(operation, call).await
    }

    async fn run(&self, operation: Operation, call: Call<'_>) -> Outcome<Reply> {
        match operation {
            Operation::CreateKey => self.create_key(call).await,
            Operation::ListKeys => self.list_keys(&call),
            Operation::GetKey => self.get_key(&call),
            Operation::EditKey => self.edit_key(call).await,
            Operation::RevokeKey => self.revoke_key(call).await,
            Operation::RotateKey => self.rotate_key(call).await,
            Operation::CreateAccount => self.create_account(call).await,
            Operation::ListAccounts => self.list_accounts(&call).await,
            Operation::GetAccount => self.get_account(&call).await,
            Operation::EditAccount => self.edit_account(call).await,
            Operation::ListEntries => self.list_entries(&call).await,
            Operation::TopUp => self.top_up(call).await,
            Operation::Refund => self.refund(call).await,
            Operation::GrantPackage => self.grant_package(call).await,
            Operation::ListGranted => self.list_granted(&call).await,
            Operation::ListPackages => self.list_packages(&call),
            Operation::Usage => self.usage(&call).await,
            Operation::ListModels => self.list_models(&call),
            Operation::ListUpstreams => self.list_upstreams(&call),
            Operation::ListNodes => self.list_nodes(&call).await,
            Operation::Reload => self.reload(&call).await,
            Operation::VerifyLedger => self.verify_ledger(&call).await,
            Operation::OpenApi => Ok(Reply::ok(openapi::document())),
        }
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The request's `Idempotency-Key`, with a digest of what is asked for.
fn once(request: &Request, body: &[u8]) -> Outcome<Option<Once>> {
    let mut sent = request.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = sent.next() else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let good = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    if !good || sent.next().is_some() {
        return Err(Failure::new(
            Code::InvalidValue,
            "The Idempotency-Key is not 1 to 255 visible ASCII characters, or is there twice; send one, such as a UUID.",
        )
        .param("Idempotency-Key"));
    }
    let mut digest = Sha256::new();
    digest.update(format!("{} {}\n", request.method, request.uri.path()));
    digest.update(body);
    Ok(Some(Once {
        key: String::from_utf8_lossy(bytes).into_owned(),
        fingerprint: hex(&digest.finalize()),
    }))
}

/// One line for every write, and for every call without the token. No body and no header is in it.
fn audit(request: &Request, reply: &Reply) -> Option<String> {
    let refused = matches!(reply.status.as_u16(), 401 | 403);
    if request.method.is_safe() && !refused {
        return None;
    }
    let client = request
        .client
        .map_or_else(|| "unknown".to_owned(), |client| client.ip().to_string());
    let mut line = format!(
        "admin: client={client} method={} path={} status={} request={}",
        quoted(request.method.as_str()),
        quoted(request.uri.path()),
        reply.status.as_u16(),
        request.id,
    );
    if let Some(subject) = &reply.subject {
        line += &format!(" subject={}", quoted(subject));
    }
    if let Some(key) = request.headers.get(IDEMPOTENCY_KEY) {
        let digest = hex(&Sha256::digest(key.as_bytes()));
        line += &format!(" idempotency={}", digest.get(..12).unwrap_or_default());
    }
    Some(line)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod account_tests;
#[cfg(test)]
pub(crate) mod fake_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod usage_tests;
