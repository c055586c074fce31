//! May this caller call this model, here and now, and how much of it? The order of the checks is the
//! order of the answers: an unknown model is unknown to everyone, a closed one only to those who may
//! see it, and only what could be served is charged to a limit.

mod words;

use crate::auth::Caller;
use crate::catalog::Found;
use crate::limit::{Ask, Denial, Grant};
use crate::rejection::{Code, Rejection};
use crate::route::{Api, Operation};
use std::sync::Arc;

/// The function library that Redis is given: each part's own, and what asks limits and money together.
pub const FUNCTIONS: [&str; 4] = [
    include_str!("../limit/limit.lua"),
    include_str!("../billing/billing.lua"),
    include_str!("../auth/registry.lua"),
    include_str!("admit.lua"),
];

/// A model that a caller may call, when the limits allow: only [`permit`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    model: Found,
}

impl Permit {
    /// What is called.
    pub fn model(&self) -> &Found {
        &self.model
    }

    /// What to ask of the limits for it.
    pub fn ask(&self, caller: &Caller, estimate: u64) -> Ask {
        Ask {
            subject: caller.subject().clone(),
            limits: Arc::clone(&caller.key().plan.limits),
            estimate,
        }
    }
}

/// Permission to forward one request: only [`admit`] makes one.
#[derive(Debug)]
pub struct Admission {
    model: Found,
    grant: Grant,
}

impl Admission {
    /// What is called.
    pub fn model(&self) -> &Found {
        &self.model
    }

    /// Ends the request, which used so many tokens.
    pub fn settle(&mut self, tokens: u64) {
        self.grant.settle(tokens);
    }
}

/// Checks that the key includes the model, and that it is open.
///
/// # Errors
/// `model_not_allowed`, `model_preview`.
pub fn permit(caller: &Caller, model: Found) -> Result<Permit, Rejection> {
    if !caller.key().allows(&model.id) {
        return Err(not_allowed(caller, &model.id));
    }
    model.open()?;
    Ok(Permit { model })
}

/// What the limits said to a permitted request.
///
/// # Errors
/// `rate_limit_exceeded`, `concurrency_limit`, or `temporarily_unavailable` while the limits cannot
/// be asked and the operator wants no request then. `jitter` is any number: clients that are
/// refused together do not come back together.
pub fn admit(
    caller: &Caller,
    permit: Permit,
    said: Result<Grant, Denial>,
    jitter: u64,
) -> Result<Admission, Rejection> {
    match said {
        Ok(grant) => Ok(Admission {
            model: permit.model,
            grant,
        }),
        Err(denial) => Err(words::refusal(caller, &denial, jitter)),
    }
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
pub(crate) mod tests {
    use super::*;
    use crate::auth::directory::Directory;
    use crate::auth::secret::{KeyHash, KeyHint};
    use crate::auth::{Glob, Key, Plan, authenticate};
    use crate::catalog::tests::model;
    use crate::catalog::{Catalog, Model, Status};
    use crate::limit::{Limits, Subject};
    use std::time::SystemTime;

    pub(crate) fn caller(models: &[&str], limits: Limits, subject: Subject) -> Caller {
        let key = Key {
            name: "n".into(),
            account: "a".into(),
            project: "default".into(),
            plan: Arc::new(Plan {
                name: "p".into(),
                place: 0,
                models: models.iter().map(|m| Glob::new(m)).collect(),
                limits: Arc::new(limits),
            }),
            models: None,
            networks: Vec::new(),
            expires: None,
            disabled: false,
            subject: Arc::new(subject),
        };
        let directory = Directory::new([(KeyHash::of("sk-0123456789abcdef"), key)], None);
        let hint = KeyHint::of("sk-0123456789abcdef");
        let now = SystemTime::now();
        authenticate(&directory, "sk-0123456789abcdef", hint, None, now).unwrap()
    }

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
        let caller = caller(models, Limits::default(), Subject::key("a", &[0; 32]));
        catalog
            .find(name)
            .and_then(|found| permit(&caller, found))
            .map(|permit| permit.model().id.to_string())
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
