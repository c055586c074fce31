//! The models: ids, aliases, who serves them. An immutable snapshot.

pub mod due;
pub mod listing;
pub mod price;

use crate::rejection::{Code, Rejection, quoted};
use ahash::AHashMap;
pub use price::Price;
use std::sync::Arc;

/// Whether a model may be called, and whether it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Callable and listed.
    Active,
    /// Listed, not callable yet.
    Preview,
    /// Announced, not callable yet.
    Soon,
    /// Callable and listed, to be left.
    Deprecated,
    /// Callable, not listed.
    Hidden,
}

impl Status {
    /// The word that clients see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Preview => "preview",
            Status::Soon => "soon",
            Status::Deprecated => "deprecated",
            Status::Hidden => "hidden",
        }
    }

    const fn callable(self) -> bool {
        !matches!(self, Status::Preview | Status::Soon)
    }
}

/// One provider's offer of a model.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Place of the provider in the configuration's list.
    pub provider: usize,
    /// The provider's own name for the model; `None` where the public id is the same.
    pub name: Option<Arc<str>>,
    /// Share of the requests inside its tier.
    pub weight: u32,
    /// Lower tiers are used first.
    pub tier: u32,
    /// Requests that a node has in flight there at most.
    pub concurrency: Option<u32>,
}

/// A model that clients can name.
#[derive(Clone, Debug)]
pub struct Model {
    /// Place in the catalog, for per-model tables.
    pub index: usize,
    /// The public id; `*` for the catch-all.
    pub id: Arc<str>,
    /// Other names that lead here.
    pub aliases: Vec<String>,
    /// For people.
    pub label: Option<String>,
    /// Who makes it.
    pub org: Option<String>,
    /// In tokens.
    pub context_length: Option<u64>,
    /// Free words.
    pub tags: Vec<String>,
    /// `text`, `image`, …
    pub modality: &'static str,
    /// Callable, listed.
    pub status: Status,
    /// Who serves it.
    pub upstreams: Vec<Upstream>,
    /// What it costs.
    pub price: Price,
    /// Its answers are read to their end, and billed whole, though the client has left.
    pub drain: bool,
}

/// Id of the catch-all model: ids that are not listed go to its upstreams as they are.
pub const CATCH_ALL: &str = "*";

/// A model that a request named: only [`Catalog::find`] makes one.
#[derive(Clone, Debug)]
pub struct Found {
    /// The model.
    pub model: Arc<Model>,
    /// The id that answers and logs carry: the model's own, or, under the catch-all, the one that was asked for.
    pub id: Arc<str>,
}

impl Found {
    /// Whether it may be called.
    ///
    /// # Errors
    /// `model_preview`.
    pub fn open(&self) -> Result<(), Rejection> {
        if self.model.status.callable() {
            return Ok(());
        }
        Err(Rejection::new(
            Code::ModelPreview,
            format!(
                "Model '{}' is not open yet (status {}). Ask the operator for access.",
                self.id,
                self.model.status.as_str()
            ),
        )
        .param("model"))
    }
}

/// All models of one configuration.
#[derive(Debug, Default)]
pub struct Catalog {
    models: Vec<Arc<Model>>,
    names: AHashMap<Box<str>, usize>,
    catch_all: Option<usize>,
}

impl Catalog {
    /// A catalog of these models, in their order. Ids and aliases are unique, as the configuration checks.
    pub fn new(models: Vec<Model>) -> Catalog {
        let mut names = AHashMap::new();
        let mut catch_all = None;
        let models: Vec<Arc<Model>> = models
            .into_iter()
            .enumerate()
            .map(|(index, model)| Arc::new(Model { index, ..model }))
            .collect();
        for model in &models {
            if &*model.id == CATCH_ALL {
                catch_all = Some(model.index);
                continue;
            }
            names.insert(Box::from(&*model.id), model.index);
            for alias in &model.aliases {
                names.insert(Box::from(alias.as_str()), model.index);
            }
        }
        Catalog {
            models,
            names,
            catch_all,
        }
    }

    /// All models, in the configuration's order.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The catch-all, where nothing else is listed: its upstreams then know better what there is.
    pub fn catch_all_alone(&self) -> Option<Found> {
        let [model] = self.models.as_slice() else {
            return None;
        };
        self.catch_all.map(|_| Found {
            model: model.clone(),
            id: model.id.clone(),
        })
    }

    /// The model of this id or alias.
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn find(&self, name: &str) -> Result<Found, Rejection> {
        let found = self.names.get(name).and_then(|at| self.models.get(*at));
        if let Some(model) = found {
            return Ok(Found {
                model: model.clone(),
                id: model.id.clone(),
            });
        }
        match self.catch_all.and_then(|at| self.models.get(at)) {
            Some(model) => Ok(Found {
                model: model.clone(),
                id: name.into(),
            }),
            None => Err(Rejection::new(
                Code::ModelNotFound,
                format!(
                    "Unknown model '{}'. List the models with GET models and copy an id exactly; ids are case-sensitive.",
                    quoted(name)
                ),
            )
            .param("model")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn model(id: &str) -> Model {
        Model {
            index: 0,
            id: id.into(),
            aliases: Vec::new(),
            label: None,
            org: None,
            context_length: None,
            tags: Vec::new(),
            modality: "text",
            status: Status::Active,
            upstreams: Vec::new(),
            price: Price::default(),
            drain: false,
        }
    }

    #[test]
    fn ids_are_exact_and_aliases_lead_to_the_id() {
        let catalog = Catalog::new(vec![
            model("a"),
            Model {
                aliases: vec!["old".into()],
                ..model("new")
            },
        ]);
        assert_eq!(&*catalog.find("old").unwrap().id, "new");
        assert_eq!(catalog.find("new").unwrap().model.index, 1);
        for name in ["A", "old ", "", "*"] {
            let rejection = catalog.find(name).unwrap_err();
            assert_eq!(rejection.code, Code::ModelNotFound, "{name}");
            assert_eq!(rejection.param, Some("model"));
        }
    }

    #[test]
    fn what_is_not_open_yet_is_refused_and_hidden_models_are_not() {
        let with = |status| {
            Catalog::new(vec![Model {
                status,
                ..model("m")
            }])
            .find("m")
            .unwrap()
            .open()
            .map_err(|rejection| rejection.code)
        };
        assert_eq!(with(Status::Preview), Err(Code::ModelPreview));
        assert_eq!(with(Status::Soon), Err(Code::ModelPreview));
        assert_eq!(with(Status::Deprecated), Ok(()));
        assert_eq!(with(Status::Hidden), Ok(()));
    }

    #[test]
    fn the_catch_all_takes_what_no_other_has() {
        let catalog = Catalog::new(vec![model("a"), model(CATCH_ALL)]);
        assert_eq!(catalog.find("a").unwrap().model.index, 0);
        assert!(catalog.catch_all_alone().is_none());
        let alone = Catalog::new(vec![model(CATCH_ALL)]).catch_all_alone();
        assert_eq!(&*alone.unwrap().id, CATCH_ALL);
        let other = catalog.find("any/thing").unwrap();
        assert_eq!((other.model.index, &*other.id), (1, "any/thing"));
    }
}
