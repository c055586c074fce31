//! What is on the wire: only the fields that the gateway reads or writes; the rest passes through
//! as it came.

pub mod answer;
pub mod error;
pub mod head;
pub mod json;
pub mod multipart;
pub mod rates;
pub mod request;
pub mod wait;
