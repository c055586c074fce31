//! May this caller call this model, here and now? The order of the checks is the order of the
//! answers: an unknown model is unknown to everyone, a closed one only to those who may see it.

use crate::auth::Caller;
use crate::catalog::Found;
use crate::rejection::{Code, Rejection};
use crate::route::{Api, Operation};

/// Permission to forward one request: only [`admit`] makes one.
#[derive(Clone, Debug)]
pub struct Admission {
    model: Found,
}

impl Admission {
    /// What is called.
    pub fn model(&self) -> &Found {
        &self.model
    }
}

/// Checks that the key includes the model, and that it is open.
///
/// # Errors
/// `model_not_allowed`, `model_preview`.
pub fn admit(caller: &Caller, model: Found) -> Result<Admission, Rejection> {
    if !caller.key().allows(&model.id) {
        return Err(not_allowed(caller, &model.id));
    }
    model.open()?;
    Ok(Admission { model })
}

fn not_allowed(caller: &Caller, id: &str) -> Rejection {
    let id = crate::rejection::quoted(id);
    let message = match caller.hint().as_str() {
        "" => format!("Model '{id}' is not open to requests without a key. Send one."),
        hint => format!(
            "Model '{id}' is not included for key {hint}… (plan {}). Ask the operator, or list yours with GET models.",
            caller.key().plan.name
        ),
    };
    Rejection::new(Code::ModelNotAllowed, message).param("model")
}

/// The refusal of a model that no provider serves over the called API.
pub fn unsupported(id: &str, operation: Operation) -> Rejection {
    let other = match operation.api() {
        Api::Anthropic => "the OpenAI API",
        Api::OpenAi => "the Anthropic API",
    };
    Rejection::new(
        Code::UnsupportedOperation,
        format!(
            "Model '{}' is not served over {}. Call it through {other}.",
            crate::rejection::quoted(id),
            operation.path()
        ),
    )
    .param("model")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::directory::Directory;
    use crate::auth::secret::{KeyHash, KeyHint};
    use crate::auth::{Glob, Key, Plan, authenticate};
    use crate::catalog::tests::model;
    use crate::catalog::{Catalog, Model, Status};
    use std::sync::Arc;
    use std::time::SystemTime;

    fn answer(models: &[&str], name: &str) -> Result<String, Code> {
        let catalog = Catalog::new(vec![
            Model {
                aliases: vec!["old".into()],
                ..model("open")
            },
            Model {
                status: Status::Soon,
                ..model("soon")
            },
        ]);
        let key = Key {
            name: "n".into(),
            account: "a".into(),
            project: "default".into(),
            plan: Arc::new(Plan {
                name: "p".into(),
                models: models.iter().map(|m| Glob::new(m)).collect(),
            }),
            models: None,
            networks: Vec::new(),
            expires: None,
            disabled: false,
        };
        let directory = Directory::new([(KeyHash::of("k"), key)], None);
        let caller = authenticate(&directory, "k", KeyHint::NONE, None, SystemTime::now()).unwrap();
        catalog
            .find(name)
            .and_then(|found| admit(&caller, found))
            .map(|admission| admission.model().id.to_string())
            .map_err(|rejection| rejection.code)
    }

    #[test]
    fn the_checks_come_in_order() {
        assert_eq!(answer(&["*"], "open"), Ok("open".into()));
        assert_eq!(answer(&["*"], "soon"), Err(Code::ModelPreview));
        assert_eq!(answer(&["open"], "soon"), Err(Code::ModelNotAllowed));
        assert_eq!(answer(&["open"], "none"), Err(Code::ModelNotFound));
    }

    #[test]
    fn an_alias_is_judged_by_the_id_it_leads_to() {
        assert_eq!(answer(&["open"], "old"), Ok("open".into()));
        assert_eq!(answer(&["old"], "old"), Err(Code::ModelNotAllowed));
    }
}
