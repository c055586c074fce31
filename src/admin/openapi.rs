//! The API's description, OpenAPI 3.1: made from the router's table.

mod schemas;

use super::page::PARAMETERS;
use super::router::{BASE, ENDPOINTS, Endpoint, Operation};
use super::usage;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// What is said of an operation.
struct About {
    summary: &'static str,
    /// Parameters of the query.
    query: Vec<&'static str>,
    /// The schema of the body.
    body: Option<&'static str>,
    /// The schema of the answer.
    answer: &'static str,
    status: &'static str,
}

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
    &DOCUMENT
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in &ENDPOINTS {
        let path = format!("{BASE}{}", endpoint.path);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[endpoint.method.to_ascii_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keys, accounts, money and usage. Money is a decimal string in the configured currency; times are RFC 3339.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`admin.token` of the configuration." },
            },
            "schemas": schemas::all(),
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let About {
        summary,
        query,
        body,
        answer,
        status,
    } = about(endpoint.operation);
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let mut parameters: Vec<Value> = Vec::new();
    if endpoint.path.contains("{id}") {
        parameters.push(json!({
            "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
        }));
    }
    parameters.extend(
        query
            .iter()
            .map(|name| json!({ "name": name, "in": "query", "schema": schemas::parameter(name) })),
    );
    if endpoint.method != "GET" {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "1 to 255 visible ASCII characters. A request that is repeated with it is done once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    let mut content = json!({ "application/json": { "schema": schema(answer) } });
    if endpoint.operation == Operation::Usage {
        content["text/csv"] = json!({ "schema": { "type": "string" } });
    }
    let mut operation = json!({
        "operationId": format!("{:?}", endpoint.operation),
        "summary": summary,
        "parameters": parameters,
        "responses": {
            status: { "description": "Done.", "content": content },
            "default": {
                "description": "Not done; `error.code` says why.",
                "content": { "application/json": { "schema": schema("Error") } },
            },
        },
    });
    if let Some(body) = body {
        operation["requestBody"] = json!({
            "content": { "application/json": { "schema": schema(body) } },
        });
    }
    operation
}

fn about(operation: Operation) -> About {
    let write = |summary, body, answer, status| About {
        summary,
        query: Vec::new(),
        body,
        answer,
        status,
    };
    let made = |summary, body, answer| write(summary, Some(body), answer, "201");
    let changed = |summary, body, answer| write(summary, Some(body), answer, "200");
    let read = |summary, answer| write(summary, None, answer, "200");
    let list = |summary, more: &[&'static str], answer| About {
        query: PARAMETERS.iter().chain(more).copied().collect(),
        ..read(summary, answer)
    };
    match operation {
        Operation::CreateKey => made(
            "Make a key. Its text is in this answer only.",
            "NewKey",
            "MadeKey",
        ),
        Operation::ListKeys => list("List keys.", &["account"], "Keys"),
        Operation::GetKey => read("A key.", "Key"),
        Operation::EditKey => changed("Change a key.", "KeyChanges", "Key"),
        Operation::RevokeKey => read("Revoke a key, for good.", "Key"),
        Operation::RotateKey => changed(
            "Give a key a new text. The old one is taken for the grace; one that was rotated away before ends now.",
            "Rotation",
            "MadeKey",
        ),
        Operation::CreateAccount => made("Make an account.", "NewAccount", "Account"),
        Operation::ListAccounts => list("List accounts.", &[], "Accounts"),
        Operation::GetAccount => read(
            "An account: balance, packages, what its keys have spent.",
            "Account",
        ),
        Operation::EditAccount => changed(
            "Change an account's plan or projects.",
            "AccountChanges",
            "Account",
        ),
        Operation::ListEntries => list(
            "What was posted to an account, the oldest first.",
            &[],
            "Entries",
        ),
        Operation::TopUp => made("Money came in.", "Amount", "AccountWithEntry"),
        Operation::Refund => made(
            "Money goes back: no more than what is neither spent nor held.",
            "Amount",
            "AccountWithEntry",
        ),
        Operation::GrantPackage => made("Sell or give a package.", "Grant", "AccountWithEntry"),
        Operation::ListGranted => list(
            "An account's packages, the first to expire first.",
            &[],
            "GrantedPackages",
        ),
        Operation::ListPackages => list("The packages on sale.", &[], "Packages"),
        Operation::Usage => list(
            "What was used, in sums. CSV with `Accept: text/csv`, whole.",
            &usage::WHAT,
            "Usage",
        ),
        Operation::ListModels => list(
            "The models, with the state of the last minutes.",
            &[],
            "Objects",
        ),
        Operation::ListUpstreams => list("The providers.", &[], "Objects"),
        Operation::ListNodes => list(
            "This node first, then all others on its Redis, each with when it was last heard of.",
            &[],
            "Objects",
        ),
        Operation::Reload => write(
            "Read the configuration file again. What changed is in force at once, but for the settings named in `restart_needed`; a file with errors changes nothing.",
            None,
            "Reloaded",
            "200",
        ),
        Operation::VerifyLedger => read(
            "Add all sums up again, and tell which are not what they should be.",
            "Verified",
        ),
        Operation::OpenApi => read("This document.", "Object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{accounts, entries, key_form, keys};

    #[test]
    fn the_document_and_the_router_have_the_same_calls() {
        let mut described = Vec::new();
        for (path, item) in document()["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                described.push(format!("{} {path}", method.to_ascii_uppercase()));
            }
        }
        let mut routed: Vec<String> = ENDPOINTS
            .iter()
            .map(|endpoint| format!("{} {BASE}{}", endpoint.method, endpoint.path))
            .collect();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
        let mut ids: Vec<String> = ENDPOINTS
            .iter()
            .map(|endpoint| format!("{:?}", endpoint.operation))
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), ENDPOINTS.len());
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_every_one_there_is_named() {
        let text = document().to_string();
        let schemas = document()["components"]["schemas"].as_object().unwrap();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        for name in schemas.keys() {
            let reference = format!("\"#/components/schemas/{name}\"");
            assert!(text.contains(&reference), "{name}");
        }
    }

    #[test]
    fn bodies_have_the_fields_that_are_read() {
        for (schema, fields) in [
            ("NewKey", &key_form::CREATE[..]),
            ("KeyChanges", &key_form::EDIT),
            ("Rotation", &keys::ROTATE),
            ("NewAccount", &accounts::CREATE),
            ("AccountChanges", &accounts::EDIT),
            ("Amount", &entries::SUM),
            ("Grant", &entries::GRANT),
        ] {
            let schema = &document()["components"]["schemas"][schema];
            let mut described: Vec<&str> = schema["properties"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let mut read = fields.to_vec();
            described.sort_unstable();
            read.sort_unstable();
            assert_eq!(described, read);
            assert_eq!(schema["additionalProperties"], false);
        }
    }
}
