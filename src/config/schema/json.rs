//! The JSON Schema of the configuration, for editors, the check and the reference.

use serde_json::{Map, Value as Json};

use super::Gateway;

/// The JSON Schema (2020-12) of `gateway.yaml`.
///
/// In an editor: `# yaml-language-server: $schema=…` in the first line of the file.
#[must_use]
pub fn json_schema() -> Json {
    let mut schema = schemars::schema_for!(Gateway).to_value();
    without_null(&mut schema);
    if let Json::Object(fields) = &mut schema {
        fields.insert("title".to_owned(), Json::from("Tollgate configuration"));
    }
    schema
}

/// Takes out the null that `Option` brings: a setting is given or it is absent, never empty.
fn without_null(schema: &mut Json) {
    match schema {
        Json::Object(fields) => {
            for name in ["type", "anyOf", "enum"] {
                drop_null(fields, name);
            }
            if let Some(Json::Array(branches)) = fields.get_mut("anyOf")
                && branches.len() == 1
                && let Some(Json::Object(only)) = branches.pop()
            {
                fields.remove("anyOf");
                for (name, value) in only {
                    fields.entry(name).or_insert(value);
                }
            }
            fields.values_mut().for_each(without_null);
        }
        Json::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

fn drop_null(fields: &mut Map<String, Json>, name: &str) {
    let Some(Json::Array(items)) = fields.get_mut(name) else {
        return;
    };
    items.retain(|item| {
        !item.is_null()
            && item.as_str() != Some("null")
            && item.get("type") != Some(&Json::from("null"))
    });
    if name == "type"
        && items.len() == 1
        && let Some(only) = items.pop()
    {
        fields.insert(name.to_owned(), only);
    }
}
