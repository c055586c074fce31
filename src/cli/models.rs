//! `tollgate models`.

use super::Output;
use super::api::Api;
use super::table::{Side, Table, amount, text};
use serde_json::Value;

/// Lists the models of a running gateway.
///
/// # Errors
/// In one line.
pub fn run(api: &Api, as_json: bool) -> Result<Output, String> {
    let list = api.list("/models", "")?;
    Ok(if as_json { list.into() } else { table(&list) })
}

fn table(list: &Value) -> Output {
    use Side::{Left, Right};
    let mut table = Table::new(&[
        ("model", Left),
        ("status", Left),
        ("state", Left),
        ("requests", Right),
        ("input", Right),
        ("output", Right),
        ("upstreams", Left),
    ]);
    let mut currency = String::new();
    for model in list["data"].as_array().into_iter().flatten() {
        let pricing = &model["pricing"];
        currency = text(&pricing["currency"]);
        let upstreams = model["upstreams"].as_array().into_iter().flatten();
        let upstreams: Vec<String> = upstreams.map(|one| text(&one["provider"])).collect();
        table.row(vec![
            text(&model["id"]),
            text(&model["status"]),
            text(&model["state"]),
            text(&model["requests"]),
            amount(&pricing["input_per_million_tokens"]),
            amount(&pricing["output_per_million_tokens"]),
            upstreams.join(","),
        ]);
    }
    let mut shown = table.text("no models");
    if !currency.is_empty() {
        shown += &format!(
            "\nprices in {currency} a million tokens; state and requests of the last 10 minutes\n"
        );
    }
    shown.into()
}
