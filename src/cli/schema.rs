//! `tollgate schema`.

use crate::config::json_schema;

/// Prints the schema.
pub fn run() -> Result<(), String> {
    println!("{:#}", json_schema());
    Ok(())
}
