//! Why a call was not done, in OpenAI's envelope.

use super::body::ended;
use crate::auth::record::WriteError;
use crate::billing::PostError;
use http::StatusCode;
use serde_json::{Value, json};

/// Kinds of failures: what clients see as `code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The body is no JSON object.
    InvalidJson,
    /// A field that the call does not have.
    UnknownField,
    /// A field twice.
    DuplicateField,
    /// A field that must be there.
    MissingField,
    /// A value that cannot be.
    InvalidValue,
    /// No token, or another one.
    Unauthorized,
    /// A call that came by way of a browser.
    Forbidden,
    /// No such path, key or account.
    NotFound,
    /// The path is there, for another method.
    MethodNotAllowed,
    /// What is there does not allow it.
    Conflict,
    /// An `Idempotency-Key` that was used for something else.
    KeyReused,
    /// Too little money to give back.
    InsufficientBalance,
    /// The body is too large.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// The configuration on disk has errors.
    InvalidConfiguration,
    /// The store cannot be asked.
    Away,
    /// Something that should not happen.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 17] = [
        Code::InvalidJson,
        Code::UnknownField,
        Code::DuplicateField,
        Code::MissingField,
        Code::InvalidValue,
        Code::Unauthorized,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::Conflict,
        Code::KeyReused,
        Code::InsufficientBalance,
        Code::TooLarge,
        Code::TooSlow,
        Code::InvalidConfiguration,
        Code::Away,
        Code::Internal,
    ];

    /// Its name, status and `type`.
    pub const fn row(self) -> (&'static str, u16, &'static str) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Code::InvalidJson => ("invalid_json", 400, INVALID),
            Code::UnknownField => ("unknown_field", 400, INVALID),
            Code::DuplicateField => ("duplicate_field", 400, INVALID),
            Code::MissingField => ("missing_required_parameter", 400, INVALID),
            Code::InvalidValue => ("invalid_value", 400, INVALID),
            Code::Unauthorized => ("unauthorized", 401, INVALID),
            Code::Forbidden => ("forbidden", 403, INVALID),
            Code::NotFound => ("not_found", 404, INVALID),
            Code::MethodNotAllowed => ("method_not_allowed", 405, INVALID),
            Code::Conflict => ("conflict", 409, INVALID),
            Code::KeyReused => ("idempotency_key_reused", 409, INVALID),
            Code::InsufficientBalance => ("insufficient_balance", 402, "insufficient_quota"),
            Code::TooLarge => ("request_too_large", 413, INVALID),
            Code::TooSlow => ("request_timeout", 408, INVALID),
            Code::InvalidConfiguration => ("invalid_configuration", 422, INVALID),
            Code::Away => ("temporarily_unavailable", 503, "server_error"),
            Code::Internal => ("internal_error", 500, "server_error"),
        }
    }
}

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its kind.
    pub code: Code,
    /// What is wrong, the value, and what to do; never a secret.
    pub message: String,
    /// The field, query parameter or header at fault.
    pub param: Option<String>,
    /// The methods that the path has.
    pub allow: Option<String>,
    /// When to try again, in seconds.
    pub retry_after: Option<u32>,
    /// All errors, where one line is not enough.
    pub errors: Vec<Value>,
}

/// What a call comes to.
pub type Outcome<T> = Result<T, Failure>;

/// The store is asked again after so many seconds.
const AWAY_SECONDS: u32 = 5;

impl Failure {
    /// A failure with words of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            param: None,
            allow: None,
            retry_after: (code == Code::Away).then_some(AWAY_SECONDS),
            errors: Vec::new(),
        }
    }

    /// A value that cannot be. The message goes on where the field's name ends.
    pub fn value(field: &str, message: impl std::fmt::Display) -> Failure {
        Failure::new(
            Code::InvalidValue,
            format!("`{field}` {}", ended(&message.to_string())),
        )
        .param(field)
    }

    /// Names the field.
    pub fn param(mut self, param: impl Into<String>) -> Failure {
        self.param = Some(param.into());
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The envelope.
    pub fn body(&self) -> Value {
        let (code, _, kind) = self.code.row();
        let mut error = json!({
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": code,
        });
        if !self.errors.is_empty() {
            error["errors"] = json!(self.errors);
        }
        json!({ "error": error })
    }

    /// The store is away.
    pub fn away() -> Failure {
        Failure::new(
            Code::Away,
            "The store cannot be reached, or did not answer. Ask again; a write may have been done or not, and needs the same Idempotency-Key.",
        )
    }

    fn reused() -> Failure {
        Failure::new(
            Code::KeyReused,
            "This Idempotency-Key was used for another request; give every request its own, and repeat one only unchanged.",
        )
        .param("Idempotency-Key")
    }
}

impl From<PostError> for Failure {
    fn from(error: PostError) -> Failure {
        match error {
            PostError::Away => Failure::away(),
            PostError::Reused => Failure::reused(),
            PostError::Unknown => Failure::new(
                Code::NotFound,
                "The account has no balance in the store; create it with POST /admin/v1/accounts.",
            ),
            PostError::Short { available } => Failure::new(
                Code::InsufficientBalance,
                format!(
                    "`amount` is more than the {available} that are neither spent nor held; give back that much at most."
                ),
            )
            .param("amount"),
            PostError::TooLarge => Failure::new(
                Code::InvalidValue,
                "`amount` would make a sum beyond 9007199254, which cannot be counted exactly; use a smaller one.",
            )
            .param("amount"),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        match error {
            WriteError::Away => Failure::away(),
            WriteError::Reused => Failure::reused(),
            WriteError::Changed => Failure::new(
                Code::Conflict,
                "Somebody else changed it at the same time; read it again and repeat the change.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names_and_statuses_of_their_own() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.row().0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(Failure::new(code, "m").status().as_u16(), code.row().1);
        }
        assert_eq!(Failure::away().retry_after, Some(5));
    }
}
