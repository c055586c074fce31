//! The content type of a form and the headers of its parts.

use super::{Fault, Field};

/// The boundary of a content type. RFC 2046 allows more characters than these, but quoted only.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut boundaries = parameters(rest)?
        .into_iter()
        .filter(|(name, _)| name.starts_with("boundary"));
    let (name, boundary) = boundaries.next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'+_-.".contains(&byte);
    let sound = name == "boundary"
        && boundaries.next().is_none()
        && (1..=70).contains(&boundary.len())
        && boundary.bytes().all(plain);
    sound.then_some(boundary)
}

/// The parameters of a header value, names in lower case: `a=b; c="d;e"`. `None` if it is none.
fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim_start();
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = value.find(';').unwrap_or(value.len());
                let (value, behind) = value.split_at(end);
                (value.trim().to_owned(), behind)
            }
        };
        if name.is_empty() || name.contains([';', '"']) {
            return None;
        }
        found.push((name, value));
        rest = match behind.trim_start() {
            "" => "",
            behind => behind.strip_prefix(';')?.trim_start(),
        };
    }
    Some(found)
}

/// Reads up to the closing quote, and gives what stands behind it. Only `\"` is an escape: file
/// names of one system are full of other backslashes.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let at = rest.find('"')?;
        let (part, behind) = (rest.get(..at)?, rest.get(at + 1..)?);
        match part.strip_suffix('\\') {
            Some(part) => {
                value.push_str(part);
                value.push('"');
            }
            None => {
                value.push_str(part);
                return Some((value, behind));
            }
        }
        rest = behind;
    }
}

/// Which field that matters a part's header names. It begins with a line break and ends without.
pub fn field(header: &[u8]) -> Result<Option<Field>, Fault> {
    let header = std::str::from_utf8(header).map_err(|_| Fault::Malformed)?;
    let mut name = None;
    for line in header.split("\r\n").skip(1) {
        if line.contains(['\r', '\n']) || line.starts_with([' ', '\t']) {
            return Err(Fault::Malformed);
        }
        let Some((field, value)) = line.split_once(':') else {
            return Err(Fault::Malformed);
        };
        match field.to_ascii_lowercase().as_str() {
            "content-disposition" if name.is_none() => name = Some(part_name(value)?),
            "content-disposition" => return Err(Fault::Repeated(Field::Model)),
            "content-transfer-encoding" => {
                let value = value.trim().to_ascii_lowercase();
                if !["binary", "8bit", "7bit"].contains(&value.as_str()) {
                    return Err(Fault::Malformed);
                }
            }
            // Some parser may trim what we would not.
            field if field.trim() != field => return Err(Fault::Malformed),
            _ => {}
        }
    }
    let name = name.unwrap_or_default();
    let reads_as = |field: &Field| name.trim().eq_ignore_ascii_case(field.as_str());
    match Field::ALL.into_iter().find(reads_as) {
        Some(field) if field.as_str() == name => Ok(Some(field)),
        Some(field) => Err(Fault::Variant(field)),
        None => Ok(None),
    }
}

fn part_name(disposition: &str) -> Result<String, Fault> {
    let parameters = match disposition.split_once(';') {
        Some((_, rest)) => parameters(rest).ok_or(Fault::Malformed)?,
        None => Vec::new(),
    };
    let mut names = parameters
        .into_iter()
        .filter(|(key, _)| key == "name" || key == "name*");
    match (names.next(), names.next()) {
        (None, _) => Ok(String::new()),
        // `name*` is another spelling of `name` (RFC 5987), which RFC 7578 forbids here.
        (Some((key, _)), _) if key == "name*" => Err(Fault::Variant(Field::Model)),
        (Some(_), Some(_)) => Err(Fault::Repeated(Field::Model)),
        (Some((_, name)), None) => Ok(name),
    }
}
