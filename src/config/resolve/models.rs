//! Models: ids and aliases that are all different, upstreams that exist, prices.

use std::collections::BTreeMap;

use super::Resolver;
use crate::billing::money::Money;
use crate::catalog::Price;
use crate::config::path;
use crate::config::schema;
use crate::config::settings::{Model, Provider, UpstreamRef};
use crate::config::words::{DisconnectBilling, Modality, ModelStatus};

impl Resolver<'_, '_> {
    pub(super) fn models(
        &mut self,
        given: Option<Vec<schema::Model>>,
        providers: &[Provider],
    ) -> Vec<Model> {
        let given = given.unwrap_or_default();
        self.ids_apart(&given);
        given
            .into_iter()
            .enumerate()
            .map(|(at, typed)| self.model(at, typed, providers))
            .collect()
    }

    fn model(&mut self, at: usize, typed: schema::Model, providers: &[Provider]) -> Model {
        let path = path::item("models", at);
        let schema::Model {
            id,
            aliases,
            label,
            org,
            context_length,
            tags,
            modality,
            status,
            upstreams,
            price,
            on_disconnect,
        } = typed;
        let id = id.unwrap_or_default();
        let catch_all = id == "*";
        let aliases = aliases.unwrap_or_default();
        if catch_all && !aliases.is_empty() {
            self.report.key(
                &format!("{path}.aliases"),
                "the model `*` catches every id and has no aliases; remove them",
            );
        }
        let status = status.unwrap_or(ModelStatus::Active);
        let on_disconnect = on_disconnect.unwrap_or(DisconnectBilling::BillRelayed);
        Model {
            upstreams: self.upstreams(&path, upstreams, status, catch_all, providers),
            price: self.price(&format!("{path}.price"), price),
            id,
            aliases,
            label,
            org,
            context_length,
            tags: tags.unwrap_or_default(),
            modality: modality.unwrap_or(Modality::Text),
            status,
            on_disconnect,
        }
    }

    /// Every id and alias leads to one model. Ids first: an alias may stand before the id that it repeats.
    fn ids_apart(&mut self, given: &[schema::Model]) {
        let mut taken: BTreeMap<&str, String> = BTreeMap::new();
        for (at, model) in given.iter().enumerate() {
            let Some(id) = model.id.as_deref() else {
                continue;
            };
            let path = format!("models[{at}].id");
            if id != "*" {
                self.id_form(&path, id);
            }
            self.take(&mut taken, &path, id);
        }
        for (at, model) in given.iter().enumerate() {
            for (nth, alias) in model.aliases.iter().flatten().enumerate() {
                let path = format!("models[{at}].aliases[{nth}]");
                self.id_form(&path, alias);
                self.take(&mut taken, &path, alias);
            }
        }
    }

    fn take<'m>(&mut self, taken: &mut BTreeMap<&'m str, String>, path: &str, id: &'m str) {
        if let Some(other) = taken.get(id) {
            let message = format!(
                "is taken by `{other}`; every id and alias leads to one model: rename or remove one"
            );
            self.wrong(path, &message);
        } else if !self.report.is_unusable(path) {
            taken.insert(id, path.to_owned());
        }
    }

    fn id_form(&mut self, path: &str, id: &str) {
        if id.is_empty()
            || id.len() > 128
            || id.chars().any(|c| c.is_whitespace() || c.is_control())
        {
            self.wrong(
                path,
                "is no model id; write 1 to 128 characters without spaces",
            );
        } else if id.contains('*') {
            self.wrong(path, "has a `*`; an id is matched exactly (`*` alone, as the id of a model, catches the rest)");
        }
    }

    fn upstreams(
        &mut self,
        path: &str,
        given: Option<Vec<schema::Upstream>>,
        status: ModelStatus,
        catch_all: bool,
        providers: &[Provider],
    ) -> Vec<UpstreamRef> {
        let path = format!("{path}.upstreams");
        let mut upstreams = Vec::new();
        for (at, typed) in given.unwrap_or_default().into_iter().enumerate() {
            let here = path::item(&path, at);
            let schema::Upstream {
                provider,
                model,
                weight,
                tier,
                concurrency,
            } = typed;
            let names = providers.iter().map(|provider| provider.name.as_str());
            let provider = self.reference(
                &format!("{here}.provider"),
                provider.as_deref(),
                "providers",
                names,
            );
            if let Some(model) = &model {
                let path = format!("{here}.model");
                if catch_all {
                    self.report.key(
                        &path,
                        "the model `*` passes ids on as they are; remove `model`",
                    );
                }
                self.id_form(&path, model);
            }
            upstreams.push(UpstreamRef {
                provider: provider.unwrap_or_default(),
                model,
                weight: weight.unwrap_or(1),
                tier: tier.unwrap_or(0),
                concurrency,
            });
        }
        if upstreams.is_empty() && !matches!(status, ModelStatus::Soon | ModelStatus::Preview) {
            let message = "a model needs an upstream; add `upstreams: [{ provider: NAME }]`, or set `status: soon`";
            self.report.value(&path, message);
        } else if !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream.weight == 0) {
            self.report.value(&path, "every upstream has weight 0, so none takes requests; give one a weight of 1 or more");
        }
        upstreams
    }

    fn price(&mut self, path: &str, given: Option<schema::Price>) -> Price {
        let Some(given) = given else {
            return Price::default();
        };
        let schema::Price {
            input,
            output,
            cached_input,
            cache_write,
            image,
            characters,
            second,
        } = given;
        let (image, images_by_size) = match image {
            None => (None, Vec::new()),
            Some(schema::ImagePrice::Any(amount)) => (
                self.amount(&format!("{path}.image"), Some(amount)),
                Vec::new(),
            ),
            Some(schema::ImagePrice::BySize(sizes)) => {
                (None, self.prices_by_size(&format!("{path}.image"), sizes))
            }
        };
        Price {
            input: self
                .amount(&format!("{path}.input"), input)
                .unwrap_or_default(),
            output: self
                .amount(&format!("{path}.output"), output)
                .unwrap_or_default(),
            cached_input: self.amount(&format!("{path}.cached_input"), cached_input),
            cache_write: self.amount(&format!("{path}.cache_write"), cache_write),
            image,
            images_by_size,
            thousand_characters: self.amount(&format!("{path}.characters"), characters),
            second: self.amount(&format!("{path}.second"), second),
        }
    }

    fn prices_by_size(
        &mut self,
        path: &str,
        sizes: schema::Named<schema::Amount>,
    ) -> Vec<(String, Money)> {
        if sizes.0.is_empty() {
            self.report.value(
                path,
                "the mapping is empty; write an amount, or one for each size: `{ 1024x1024: 0.2 }`",
            );
        }
        let mut prices = Vec::new();
        for (size, amount) in sizes.0 {
            if let Some(amount) = self.amount(&path::field(path, &size), Some(amount)) {
                prices.push((size, amount));
            }
        }
        prices
    }
}
