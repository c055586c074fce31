//! The header that a provider gets.

use super::context::{Body, Forward};
use super::headers::{X_API_KEY, take_request, upward};
use crate::downstream::Exchange;
use crate::route::Api;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING,
};
use http::{HeaderValue, Uri};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, Result};

/// Makes the client's header the provider's: its path, its host, its key, the length of what is sent.
/// This happens after Pingora has looked at `Connection`, so that no client can take ours away.
///
/// # Errors
/// A query that cannot be sent.
pub fn for_provider(
    forward: &mut Forward,
    exchange: Option<&Exchange>,
    header: &mut RequestHeader,
) -> Result<()> {
    let Some(attempt) = &forward.attempt else {
        return Error::e_explain(ErrorType::InternalError, "no attempt");
    };
    let provider = &attempt.provider;
    let Some(path) = provider.path(forward.operation) else {
        return Error::e_explain(ErrorType::InternalError, "no path for the operation");
    };
    let uri = match &forward.query {
        None => path.clone(),
        Some(query) => Uri::try_from(format!("{}?{query}", path.path()))
            .map_err(|error| Error::because(ErrorType::InternalError, "query", error))?,
    };
    let mut parts = take_request(header);
    let mut map = upward(&forward.headers);
    map.insert(HOST, provider.authority.clone());
    // What comes encoded can be neither metered nor renamed.
    map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(credential) = provider.keys.credential(attempt.key) {
        match forward.operation.api() {
            Api::OpenAi => map.insert(AUTHORIZATION, credential.bearer.clone()),
            Api::Anthropic => map.insert(X_API_KEY, credential.plain.clone()),
        };
    }
    let length = match &mut forward.body {
        Body::Json { .. } => {
            // It was read as JSON: nobody behind may read it as anything else.
            map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Some(exchange.map_or(0, Exchange::replay_len))
        }
        Body::Upload(upload) => {
            let content_type = HeaderValue::from_str(upload.content_type())
                .map_err(|error| Error::because(ErrorType::InternalError, "boundary", error))?;
            map.insert(CONTENT_TYPE, content_type);
            let (pieces, length) = upload.begin(&attempt.model);
            if let Some(exchange) = exchange {
                exchange.unread(pieces);
            }
            if length.is_none() {
                map.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            length
        }
        Body::Empty => None,
    };
    if let Some(length) = length {
        // `HeaderValue::from(u64)` allocates twice.
        let length = HeaderValue::from_str(itoa::Buffer::new().format(length))
            .map_err(|error| Error::because(ErrorType::InternalError, "length", error))?;
        map.insert(CONTENT_LENGTH, length);
    }
    parts.uri = uri;
    parts.headers = map;
    *header = RequestHeader::from(parts);
    Ok(())
}
