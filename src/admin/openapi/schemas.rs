//! What bodies and answers look like.

use super::super::usage::{BY, SUMS};
use serde_json::{Map, Value, json};

/// Every schema, by name.
pub fn all() -> Value {
    let mut all = Map::new();
    for part in [keys(), accounts(), lists(), rest()] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    Value::Object(all)
}

/// The schema of a parameter.
pub fn parameter(name: &str) -> Value {
    match name {
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
        "cursor" => json!({ "type": "string", "description": "`next` of the page before." }),
        "by" => json!({
            "type": "string", "default": "model",
            "description": format!("What rows are of, with commas: {}.", BY.join(", ")),
        }),
        "since" => json!({
            "type": "string", "default": "30d",
            "description": "The first day: a date, a time, or how many days back with today (`30d`).",
        }),
        "until" => json!({
            "type": "string",
            "description": "The last day, which is included: a date, a time, or how long ago. Default: today.",
        }),
        _ => json!({ "type": "string" }),
    }
}

fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn count() -> Value {
    json!({ "type": "integer" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn texts() -> Value {
    json!({ "type": "array", "items": text() })
}

/// What is answered.
fn answer(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

/// What is sent: unknown fields are errors.
fn form(required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn key_fields() -> Map<String, Value> {
    let fields = json!({
        "name": { "type": "string", "maxLength": 128 },
        "account": text(),
        "project": { "type": "string", "description": "One of the account's; `default` if nothing is said." },
        "plan": or_null(json!({ "type": "string", "description": "Instead of the account's." })),
        "models": or_null(json!({ "type": "array", "items": text(), "description": "Globs that narrow the plan's." })),
        "networks": or_null(json!({ "type": "array", "items": text(), "description": "CIDR; empty for everywhere." })),
        "billing": or_null(of("KeyBilling")),
        "spend_cap": or_null(form(&[], json!({ "daily": or_null(of("Money")), "monthly": or_null(of("Money")) }))),
        "expires": or_null(time()),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn keys() -> Value {
    let new = key_fields();
    let mut changes = new.clone();
    changes.insert("disabled".into(), flag());
    let mut key = changes.clone();
    if let Value::Object(more) = json!({
        "id": text(),
        "state": { "type": "string", "enum": ["active", "disabled", "expired", "revoked"] },
        "prefix": or_null(json!({ "type": "string", "description": "The first 8 characters of the key." })),
        "retiring": or_null(answer(json!({ "prefix": text(), "until": time() }))),
        "revoked": or_null(time()),
        "created": or_null(time()),
        "source": { "type": "string", "enum": ["runtime", "file", "session"] },
    }) {
        key.extend(more);
    }
    let mut made = key.clone();
    made.insert(
        "key".into(),
        or_null(json!({ "type": "string", "description": "The key's text: here only, and null when a request is repeated." })),
    );
    json!({
        "NewKey": form(&["name", "account"], Value::Object(new)),
        "KeyChanges": form(&[], Value::Object(changes)),
        "Key": answer(Value::Object(key)),
        "MadeKey": answer(Value::Object(made)),
        "Rotation": form(&[], json!({
            "grace": { "type": "string", "default": "24h", "description": "How long the old key is taken: `30m`, `24h`, `7d`; `0s` not at all." },
        })),
        "KeyBilling": {
            "oneOf": [
                { "type": "string", "const": "pay_as_you_go" },
                form(&["package"], json!({ "package": text() })),
            ],
        },
    })
}

fn accounts() -> Value {
    let account = json!({
        "id": text(),
        "plan": text(),
        "projects": texts(),
        "source": { "type": "string", "enum": ["runtime", "file"] },
        "currency": text(),
        "balance": of("Money"),
        "held": of("Money"),
        "packages": { "type": "array", "items": of("GrantedPackage") },
        "keys": { "type": "array", "items": answer(json!({
            "id": text(), "name": text(), "prefix": or_null(text()), "project": text(), "source": text(),
            "spend_cap": answer(json!({ "daily": of("Money"), "monthly": of("Money") })),
            "spent": answer(json!({ "daily": of("Money"), "monthly": of("Money"), "held": of("Money") })),
        })) },
        "created": or_null(time()),
    });
    let mut posted = account.clone();
    posted["entry"] = of("Entry");
    json!({
        "NewAccount": form(&["id", "plan"], json!({ "id": text(), "plan": text(), "projects": texts() })),
        "AccountChanges": form(&[], json!({ "plan": text(), "projects": texts() })),
        "Account": answer(account),
        "AccountWithEntry": answer(posted),
        "Amount": form(&["amount"], json!({ "amount": of("Money"), "note": or_null(text()) })),
        "Grant": form(&["package"], json!({ "package": text(), "note": or_null(text()) })),
        "Entry": answer(json!({
            "id": text(),
            "kind": { "type": "string", "enum": ["open", "top_up", "refund", "grant"] },
            "amount": of("Money"), "package": text(), "tokens": count(), "valid_seconds": count(),
            "note": or_null(text()), "at": time(),
        })),
        "GrantedPackage": answer(json!({
            "id": text(), "name": text(), "tokens": count(), "tokens_left": count(), "held": count(),
            "granted": time(), "expires": time(), "active": flag(),
        })),
        "Package": answer(json!({
            "name": text(), "tokens": count(), "valid_seconds": count(), "models": texts(),
            "price": of("Money"), "currency": text(),
        })),
    })
}

fn list(item: &str) -> Value {
    answer(json!({
        "data": { "type": "array", "items": of(item) },
        "next": or_null(text()),
    }))
}

fn lists() -> Value {
    json!({
        "Keys": list("Key"),
        "Accounts": list("Account"),
        "Entries": list("Entry"),
        "GrantedPackages": list("GrantedPackage"),
        "Packages": list("Package"),
        "Objects": list("Object"),
    })
}

fn rest() -> Value {
    let mut sums = Map::new();
    for name in SUMS {
        let money = name.ends_with("cost");
        sums.insert(name.into(), if money { of("Money") } else { count() });
    }
    let mut row = sums.clone();
    for name in BY.into_iter().chain(["key_name"]) {
        row.insert(name.into(), or_null(text()));
    }
    json!({
        "Usage": answer(json!({
            "data": { "type": "array", "items": answer(Value::Object(row)) },
            "next": or_null(text()),
            "since": { "type": "string", "format": "date" },
            "until": { "type": "string", "format": "date" },
            "currency": text(),
            "total": answer(Value::Object(sums)),
        })),
        "Verified": answer(json!({
            "drift": { "type": "array", "items": answer(json!({
                "account": text(), "what": text(), "unit": text(),
                "stored": of("Number"), "expected": of("Number"), "difference": of("Number"),
            })) },
            "checked_at": time(),
        })),
        "Reloaded": answer(json!({
            "status": { "type": "string", "enum": ["applied", "unchanged"] },
            "changes": texts(),
            "restart_needed": texts(),
        })),
        "Money": {
            "description": "A decimal amount with at most 6 decimals; answered as a string with 6.",
            "type": ["string", "number"],
            "examples": ["99.937500"],
        },
        "Number": { "type": ["string", "integer"] },
        "Object": { "type": "object" },
        "Error": answer(json!({
            "error": answer(json!({
                "message": text(), "type": text(), "param": or_null(text()), "code": text(),
                "errors": { "type": "array", "items": of("Object") },
            })),
        })),
    })
}
