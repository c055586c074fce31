//! The model lists that clients read.
//!
//! One object serves the SDKs of both families: OpenAI's fields beside Anthropic's `type`,
//! `display_name`, `created_at`, `has_more`, `first_id`, `last_id`. Without `has_more` one of them
//! would page for ever.

use super::{CATCH_ALL, Catalog, Model, Price, Status};
use crate::auth::Key;
use crate::billing::money::Money;
use serde_json::{Map, Value, json};

/// How much a list tells of each model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What the SDKs know.
    Plain,
    /// Also label, org, context length, price, tags, status; and models that are announced only.
    Full,
}

/// `GET models`: what this key may use.
pub fn models(catalog: &Catalog, key: &Key, detail: Detail, currency: &str) -> Value {
    let shown = catalog.models().iter().filter(|model| {
        listed(model)
            && key.allows(&model.id)
            && (detail == Detail::Full || model.status.callable())
    });
    list(
        shown
            .map(|model| entry(model, &model.id, detail, currency))
            .collect(),
    )
}

/// `GET catalog`: everything that is listed, for everyone.
pub fn catalog(catalog: &Catalog, currency: &str) -> Value {
    let shown = catalog.models().iter().filter(|model| listed(model));
    list(
        shown
            .map(|model| entry(model, &model.id, Detail::Full, currency))
            .collect(),
    )
}

/// `GET models/{id}`; under the catch-all the id is the one that was asked for.
pub fn entry(model: &Model, id: &str, detail: Detail, currency: &str) -> Value {
    // Nobody told us when the model was made; Anthropic's reference allows the epoch for that.
    let mut entry = json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": model.org.as_deref().unwrap_or("tollgate"),
        "type": "model",
        "display_name": model.label.as_deref().unwrap_or(id),
        "created_at": "1970-01-01T00:00:00Z",
    });
    if let (Detail::Full, Some(fields)) = (detail, entry.as_object_mut()) {
        fields.insert("label".into(), json!(model.label));
        fields.insert("org".into(), json!(model.org));
        fields.insert("context_length".into(), json!(model.context_length));
        fields.insert("modality".into(), json!(model.modality));
        fields.insert("tags".into(), json!(model.tags));
        fields.insert("status".into(), json!(model.status.as_str()));
        fields.insert("aliases".into(), json!(model.aliases));
        fields.insert("pricing".into(), pricing(&model.price, currency));
    }
    entry
}

fn listed(model: &Model) -> bool {
    model.status != Status::Hidden && &*model.id != CATCH_ALL
}

fn list(data: Vec<Value>) -> Value {
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": false,
        "data": data,
    })
}

/// Money as decimal strings: a float would not survive every client.
fn pricing(price: &Price, currency: &str) -> Value {
    let Price {
        input,
        output,
        cached_input,
        cache_write,
        image,
        images_by_size,
        thousand_characters,
        second,
    } = price;
    let mut fields = Map::new();
    fields.insert("currency".into(), json!(currency));
    let mut put = |name: &str, money: Option<&Money>| {
        if let Some(money) = money {
            fields.insert(name.into(), json!(money.to_string()));
        }
    };
    put("input_per_million_tokens", Some(input));
    put("output_per_million_tokens", Some(output));
    put("cached_input_per_million_tokens", cached_input.as_ref());
    put("cache_write_per_million_tokens", cache_write.as_ref());
    put("per_image", image.as_ref());
    put("per_thousand_characters", thousand_characters.as_ref());
    put("per_second", second.as_ref());
    if !images_by_size.is_empty() {
        let sizes: Map<String, Value> = images_by_size
            .iter()
            .map(|(size, money)| (size.clone(), json!(money.to_string())))
            .collect();
        fields.insert("per_image_by_size".into(), Value::Object(sizes));
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use super::*;
    use crate::auth::{Glob, Plan};
    use crate::limit::Subject;
    use std::sync::Arc;

    fn key(models: &[&str]) -> Key {
        Key {
            name: "n".into(),
            account: "a".into(),
            project: "default".into(),
            plan: Arc::new(Plan {
                name: "p".into(),
                place: 0,
                models: models.iter().map(|m| Glob::new(m)).collect(),
                limits: Arc::default(),
            }),
            models: None,
            networks: Vec::new(),
            expires: None,
            disabled: false,
            package_models: None,
            payer: Arc::new(crate::billing::Payer::free()),
            subject: Arc::new(Subject::key("a", &[0; 32])),
        }
    }

    fn with(status: Status, id: &str) -> Model {
        Model {
            status,
            ..model(id)
        }
    }

    fn ids(list: &Value) -> Vec<&str> {
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["id"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn lists_hold_what_they_should() {
        let all = Catalog::new(vec![
            with(Status::Active, "a-1"),
            with(Status::Hidden, "a-2"),
            with(Status::Preview, "a-3"),
            with(Status::Deprecated, "b-1"),
            model(CATCH_ALL),
        ]);
        let plain = models(&all, &key(&["*"]), Detail::Plain, "CNY");
        assert_eq!(ids(&plain), ["a-1", "b-1"]);
        assert_eq!(plain["has_more"], false);
        assert_eq!(plain["first_id"], "a-1");
        assert_eq!(plain["last_id"], "b-1");
        assert_eq!(
            ids(&models(&all, &key(&["a-*"]), Detail::Full, "CNY")),
            ["a-1", "a-3"]
        );
        assert_eq!(ids(&catalog(&all, "CNY")), ["a-1", "a-3", "b-1"]);
        let none = models(&all, &key(&[]), Detail::Plain, "CNY");
        assert_eq!(none["first_id"], Value::Null);
    }

    #[test]
    fn details_show_the_price_as_text() {
        let detailed = Model {
            price: Price {
                input: Money::parse("4").unwrap(),
                output: Money::parse("16").unwrap(),
                cached_input: Some(Money::parse("0.4").unwrap()),
                images_by_size: vec![("1024x1024".into(), Money::parse("0.2").unwrap())],
                ..Price::default()
            },
            ..model("m")
        };
        let entry = entry(&detailed, "m", Detail::Full, "CNY");
        assert_eq!(entry["pricing"]["input_per_million_tokens"], "4.000000");
        assert_eq!(
            entry["pricing"]["cached_input_per_million_tokens"],
            "0.400000"
        );
        assert_eq!(
            entry["pricing"]["per_image_by_size"]["1024x1024"],
            "0.200000"
        );
        assert!(entry["pricing"].get("per_second").is_none());
    }
}
