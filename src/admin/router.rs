//! Method and path → operation.

use super::failure::{Code, Failure, Outcome};
use crate::nearest::nearest;
use crate::rejection::quoted;
use crate::route::percent_decode;
use http::Method;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // `openapi` says what each does
pub enum Operation {
    CreateKey,
    ListKeys,
    GetKey,
    EditKey,
    RevokeKey,
    RotateKey,
    CreateAccount,
    ListAccounts,
    GetAccount,
    EditAccount,
    ListEntries,
    TopUp,
    Refund,
    GrantPackage,
    ListGranted,
    ListPackages,
    Usage,
    ListModels,
    ListUpstreams,
    ListNodes,
    Reload,
    VerifyLedger,
    OpenApi,
}

/// One call of the API.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// The method.
    pub method: &'static str,
    /// The path below [`BASE`]; `{id}` stands for one part of it.
    pub path: &'static str,
    /// What it does.
    pub operation: Operation,
}

/// What all paths begin with.
pub const BASE: &str = "/admin/v1";

const fn at(method: &'static str, path: &'static str, operation: Operation) -> Endpoint {
    Endpoint {
        method,
        path,
        operation,
    }
}

/// Every call.
pub const ENDPOINTS: [Endpoint; 23] = [
    at("POST", "/keys", Operation::CreateKey),
    at("GET", "/keys", Operation::ListKeys),
    at("GET", "/keys/{id}", Operation::GetKey),
    at("PATCH", "/keys/{id}", Operation::EditKey),
    at("DELETE", "/keys/{id}", Operation::RevokeKey),
    at("POST", "/keys/{id}/rotate", Operation::RotateKey),
    at("POST", "/accounts", Operation::CreateAccount),
    at("GET", "/accounts", Operation::ListAccounts),
    at("GET", "/accounts/{id}", Operation::GetAccount),
    at("PATCH", "/accounts/{id}", Operation::EditAccount),
    at("GET", "/accounts/{id}/entries", Operation::ListEntries),
    at("POST", "/accounts/{id}/top-ups", Operation::TopUp),
    at("POST", "/accounts/{id}/refunds", Operation::Refund),
    at("POST", "/accounts/{id}/packages", Operation::GrantPackage),
    at("GET", "/accounts/{id}/packages", Operation::ListGranted),
    at("GET", "/packages", Operation::ListPackages),
    at("GET", "/usage", Operation::Usage),
    at("GET", "/models", Operation::ListModels),
    at("GET", "/upstreams", Operation::ListUpstreams),
    at("GET", "/nodes", Operation::ListNodes),
    at("POST", "/reload", Operation::Reload),
    at("GET", "/ledger", Operation::VerifyLedger),
    at("GET", "/openapi.json", Operation::OpenApi),
];

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// To an operation, with the `{id}` of its path, decoded.
    Call(Operation, String),
    /// To the methods that the path has: it was asked for these.
    Options(String),
}

/// Finds the operation of a request.
///
/// # Errors
/// 404, 405.
pub fn route(method: &Method, path: &str) -> Outcome<Routed> {
    let below = path.strip_prefix(BASE).ok_or_else(|| unknown(path))?;
    let mut allowed = Vec::new();
    for endpoint in &ENDPOINTS {
        let Some(id) = fits(endpoint.path, below) else {
            continue;
        };
        // HEAD is GET whose body is not sent.
        let wanted = if method == Method::HEAD {
            "GET"
        } else {
            method.as_str()
        };
        if endpoint.method == wanted {
            return Ok(Routed::Call(endpoint.operation, id));
        }
        allowed.push(endpoint.method);
        if endpoint.method == "GET" {
            allowed.push("HEAD");
        }
    }
    if allowed.is_empty() {
        return Err(unknown(path));
    }
    allowed.push("OPTIONS");
    let allow = allowed.join(", ");
    if method == Method::OPTIONS {
        return Ok(Routed::Options(allow));
    }
    let message = format!(
        "{} is not allowed here; use one of: {allow}.",
        quoted(method.as_str())
    );
    let mut failure = Failure::new(Code::MethodNotAllowed, message);
    failure.allow = Some(allow);
    Err(failure)
}

/// The `{id}` of a path that fits; empty where the pattern has none.
fn fits(pattern: &str, path: &str) -> Option<String> {
    let mut id = String::new();
    let mut parts = path.split('/');
    for wanted in pattern.split('/') {
        let part = parts.next()?;
        if wanted == "{id}" {
            id = percent_decode(part).filter(|id| !id.is_empty())?;
        } else if wanted != part {
            return None;
        }
    }
    parts.next().is_none().then_some(id)
}

fn unknown(path: &str) -> Failure {
    let paths = ENDPOINTS.iter().map(|endpoint| endpoint.path);
    let meant = nearest(path.strip_prefix(BASE).unwrap_or(path), paths);
    let hint = match meant {
        Some(meant) => format!("did you mean {BASE}{meant}?"),
        None => format!("GET {BASE}/openapi.json lists all paths."),
    };
    Failure::new(
        Code::NotFound,
        format!("There is no {}; {hint}", quoted(path)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(method: &str, path: &str) -> Result<Routed, (Code, Option<String>)> {
        route(&Method::from_bytes(method.as_bytes()).unwrap(), path)
            .map_err(|failure| (failure.code, failure.allow))
    }

    #[test]
    fn every_endpoint_is_found_by_its_own_path() {
        for endpoint in ENDPOINTS {
            let path = format!("{BASE}{}", endpoint.path.replace("{id}", "a%40b"));
            let id = if endpoint.path.contains("{id}") {
                "a@b"
            } else {
                ""
            };
            let call = Routed::Call(endpoint.operation, id.to_owned());
            assert_eq!(to(endpoint.method, &path), Ok(call), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        for path in [
            "/",
            "/admin",
            "/admin/v1",
            "/admin/v1/",
            "/admin/v1/keys/",
            "/admin/v1//keys",
            "/admin/v1/keys/a/b",
            "/admin/v1/keys/%zz",
            "/admin/v2/keys",
        ] {
            assert_eq!(to("GET", path), Err((Code::NotFound, None)), "{path}");
        }
        let failure = route(&Method::GET, "/admin/v1/acounts").unwrap_err();
        assert!(
            failure.message.contains("/admin/v1/accounts?"),
            "{failure:?}"
        );
    }

    #[test]
    fn methods_are_told() {
        let allow = "POST, GET, HEAD, OPTIONS".to_owned();
        assert_eq!(
            to("PUT", "/admin/v1/keys"),
            Err((Code::MethodNotAllowed, Some(allow.clone())))
        );
        assert_eq!(to("OPTIONS", "/admin/v1/keys"), Ok(Routed::Options(allow)));
        assert_eq!(
            to("HEAD", "/admin/v1/ledger"),
            Ok(Routed::Call(Operation::VerifyLedger, String::new()))
        );
        assert_eq!(
            to("GET", "/admin/v1/reload"),
            Err((Code::MethodNotAllowed, Some("POST, OPTIONS".to_owned())))
        );
    }
}
