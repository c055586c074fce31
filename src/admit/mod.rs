//! May this caller call this model, here and now, how much of it, and who pays? The order of the checks is the
//! order of the answers: an unknown model is unknown to everyone, a closed one only to those who may
//! see it, and only what could be served is charged to a limit.

pub mod gate;
mod words;

use crate::auth::Caller;
use crate::billing::Shortage;
use crate::billing::hold::Hold;
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
    hold: Option<Hold>,
}

impl Admission {
    /// What is called.
    pub fn model(&self) -> &Found {
        &self.model
    }

    /// What is set aside for it; nothing where nothing is charged.
    pub fn hold(&mut self) -> Option<&mut Hold> {
        self.hold.as_mut()
    }

    /// Ends the request, which used so many tokens.
    pub fn settle(&mut self, tokens: u64) {
        self.grant.settle(tokens);
    }
}

/// Why a permitted request is not admitted.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// A limit fired.
    Limit(Denial),
    /// It cannot be paid for; amounts are in this currency.
    Money(Shortage),
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

/// What limits and money said to a permitted request.
///
/// # Errors
/// `rate_limit_exceeded`, `concurrency_limit`, `insufficient_balance`, `package_exhausted`,
/// `spend_cap_reached`, or `temporarily_unavailable` while neither can be asked and the operator wants no
/// request then. `jitter` is any number: clients that are refused together do not come back together.
/// `currency` is for the words.
pub fn admit(
    caller: &Caller,
    permit: Permit,
    said: Result<(Grant, Option<Hold>), Refusal>,
    jitter: u64,
    currency: &str,
) -> Result<Admission, Rejection> {
    match said {
        Ok((grant, hold)) => Ok(Admission {
            model: permit.model,
            grant,
            hold,
        }),
        Err(Refusal::Limit(denial)) => Err(words::refusal(caller, &denial, jitter)),
        Err(Refusal::Money(shortage)) => Err(words::shortage(caller, &shortage, currency)),
    }
}

fn not_allowed(caller: &Caller, id: &str) -> Rejection {
    let id = crate::rejection::quoted(id);
    let message = match caller.hint().as_str() {
        "" => format!("Model '{id}' is not open to requests without a key. Send one."),
        hint if !caller.key().pays_for(&id) => format!(
            "Model '{id}' is not paid for by the package of key {hint}…. Call a model that is (GET models), or switch the key to pay-as-you-go."
        ),
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
    use crate::billing::{Payer, Pays};
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
            package_models: None,
            payer: Arc::new(Payer {
                account: "a".into(),
                pays: Pays::Package("starter".into()),
                ..Payer::free()
            }),
        };
        let directory = Directory::new(
            [(KeyHash::of("sk-0123456789abcdef"), key)],
            Arc::default(),
            None,
        );
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
