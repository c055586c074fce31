//! What a provider's good answer is: which form its body has, and what is read of it.

use super::context::{Body, Forward};
use crate::meter::usage::Shape;
use crate::meter::{Form, Meter, Settings};
use crate::rejection::{Code, Rejection};
use crate::route::Operation;
use crate::wire::answer::Rename;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use pingora::http::ResponseHeader;

/// The meter of a good answer. Its header loses the length where the body's may change.
///
/// # Errors
/// An answer that no client of this operation could read, or that we cannot.
pub fn metered(forward: &Forward, header: &mut ResponseHeader) -> Result<Meter, Rejection> {
    let form = form(forward, header)?;
    let shape = match forward.operation {
        Operation::Messages | Operation::CountTokens => Shape::Anthropic,
        Operation::Responses
        | Operation::ImagesGenerations
        | Operation::ImagesEdits
        | Operation::AudioSpeech
        | Operation::AudioTranscriptions
        | Operation::AudioTranslations => Shape::OpenAiResponses,
        _ => Shape::OpenAiChat,
    };
    let attempt = forward.attempt.as_ref();
    let public = &forward.admission.model().id;
    let rename = attempt
        .filter(|attempt| attempt.model != *public)
        .map(|_| Rename {
            public: public.clone(),
        });
    if is_stream(form) || (form == Form::Json && rename.is_some()) {
        header.remove_header(&CONTENT_LENGTH);
    }
    Ok(Meter::new(Settings {
        form,
        shape,
        rename,
        strip_usage_chunk: attempt.is_some_and(|attempt| attempt.injected),
    }))
}

/// Whether a body of this form is an event stream.
pub const fn is_stream(form: Form) -> bool {
    matches!(
        form,
        Form::ChatSse | Form::AnthropicSse | Form::ResponsesSse | Form::OtherSse
    )
}

fn form(forward: &Forward, header: &mut ResponseHeader) -> Result<Form, Rejection> {
    if !header.headers.contains_key(CONTENT_TYPE) {
        name_the_type(forward, header);
    }
    let content_type = header
        .headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes().trim_ascii());
    let is = |kind: &str| {
        let start = content_type.get(..kind.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(kind.as_bytes()))
    };
    let form = match forward.operation {
        operation if is("text/event-stream") => match operation {
            Operation::ChatCompletions | Operation::Completions => Form::ChatSse,
            Operation::Messages => Form::AnthropicSse,
            Operation::Responses => Form::ResponsesSse,
            _ => Form::OtherSse,
        },
        _ if is("application/json") => Form::Json,
        // A page of some proxy on the way, whatever its status says.
        _ if is("text/html") => return Err(unreadable(forward, "a web page")),
        _ => Form::Opaque,
    };
    Ok(form)
}

/// Says what the provider forgot to say. Sounds say themselves.
fn name_the_type(forward: &Forward, header: &mut ResponseHeader) {
    let kind = match &forward.body {
        _ if forward.operation == Operation::AudioSpeech => return,
        Body::Json { call, .. } if call.stream => "text/event-stream",
        _ => "application/json",
    };
    // Both are valid values.
    let _ = header.insert_header(CONTENT_TYPE, kind);
}

fn unreadable(forward: &Forward, what: &str) -> Rejection {
    Rejection::new(
        Code::UpstreamError,
        format!(
            "The provider of model '{}' sent {what}. Try again, or ask the operator.",
            forward.admission.model().id
        ),
    )
}
