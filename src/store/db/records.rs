//! Keys and accounts that were made at run time.

use super::once::{Seen, remember, seen};
use super::{Db, DbError, RECORDS, text};
use crate::auth::record::{Record, WriteError, Written};
use crate::billing::Once;
use redb::ReadableTable;

impl Db {
    /// Every record, as name and JSON text.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn records(&self) -> Result<Vec<(String, String)>, DbError> {
        self.read(|transaction| {
            let mut records = Vec::new();
            for row in transaction.open_table(RECORDS)?.iter()? {
                let (name, text) = row?;
                records.push((name.value().to_owned(), shown(text.value())));
            }
            Ok(records)
        })
    }

    /// The JSON text of one record.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn record(&self, name: &str) -> Result<Option<String>, DbError> {
        self.read(|transaction| {
            let found = transaction.open_table(RECORDS)?.get(name)?;
            Ok(found.map(|text| shown(text.value())))
        })
    }

    /// Writes a record whose version is the one after the stored one's: on the disk when this returns.
    ///
    /// # Errors
    /// [`DbError`]: it may have been written or not.
    pub fn write(
        &self,
        record: &Record,
        once: Option<&Once>,
    ) -> Result<Result<Written, WriteError>, DbError> {
        let now = self.now();
        let name = record.name();
        let done = self.transact(|transaction| {
            match seen(transaction, once, now)? {
                Seen::Never => {}
                Seen::Same(name) => return Ok(Err(Ok(Written::Before(name)))),
                Seen::Other => return Ok(Err(Err(WriteError::Reused))),
            }
            let mut table = transaction.open_table(RECORDS)?;
            let stored = match table.get(name.as_str())? {
                None => Some(0),
                // One that cannot be read has a version that nobody knows: it is not written over.
                Some(text) => Record::read(&name, &shown(text.value()))
                    .ok()
                    .map(|stored| stored.version()),
            };
            if stored.and_then(|stored| stored.checked_add(1)) != Some(record.version()) {
                return Ok(Err(Err(WriteError::Changed)));
            }
            table.insert(name.as_str(), text(record)?.as_slice())?;
            remember(transaction, once, &name, now)?;
            Ok(Ok(Written::Now))
        })?;
        Ok(done.map_or_else(|before| before, Ok))
    }
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
