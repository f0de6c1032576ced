//! Rows in the binary format of COPY (PostgreSQL manual, "COPY", "Binary Format"): a third of the work of text for
//! server and client, and exact by construction.

use chrono::{DateTime, Utc};
use half::f16;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::GalleryError;

/// Signature, flags, and the length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes that are sent at once.
const CHUNK: usize = 1 << 20;

/// Microseconds from the epoch of Unix to that of Postgres, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Rows to be copied into a table.
pub(super) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
}

impl Rows {
    pub fn new(columns: i16) -> Self {
        Self { bytes: HEADER.to_vec(), columns }
    }

    /// Begins a row; a value for each column must follow.
    pub fn begin(&mut self) {
        self.bytes.extend(self.columns.to_be_bytes());
    }

    pub fn null(&mut self) {
        self.bytes.extend((-1_i32).to_be_bytes());
    }

    pub fn uuid(&mut self, id: Uuid) {
        self.value(id.as_bytes());
    }

    pub fn bytea(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.value(bytes),
            None => self.null(),
        }
    }

    pub fn real(&mut self, number: Option<f32>) {
        match number {
            Some(number) => self.value(&number.to_be_bytes()),
            None => self.null(),
        }
    }

    pub fn timestamptz(&mut self, time: DateTime<Utc>) {
        self.value(&(time.timestamp_micros() - POSTGRES_EPOCH).to_be_bytes());
    }

    pub fn time(&mut self, time: Option<DateTime<Utc>>) {
        match time {
            Some(time) => self.timestamptz(time),
            None => self.null(),
        }
    }

    pub fn jsonb(&mut self, value: Option<&impl Serialize>) -> Result<(), GalleryError> {
        let Some(value) = value else {
            self.null();
            return Ok(());
        };
        // The version of the format, then text.
        let mut text = vec![1];
        serde_json::to_writer(&mut text, value).map_err(|_| GalleryError::Inconsistent("a value is no JSON"))?;
        self.value(&text);
        Ok(())
    }

    pub fn halfvec(&mut self, vector: &[f16]) {
        // pgvector's halfvec_send: dimensions, an unused word, and the numbers.
        self.length(4 + 2 * vector.len());
        self.bytes.extend((vector.len() as u16).to_be_bytes());
        self.bytes.extend([0, 0]);
        self.bytes.extend(vector.iter().flat_map(|number| number.to_bits().to_be_bytes()));
    }

    fn value(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.bytes.extend(bytes);
    }

    /// Values are bounded by what a line of a file may hold, far below 2 GiB.
    fn length(&mut self, bytes: usize) {
        self.bytes.extend((bytes as i32).to_be_bytes());
    }

    /// Copies the rows with a `copy ... from stdin (format binary)` and returns how many there were.
    pub async fn send(mut self, connection: &mut PgConnection, statement: &str) -> Result<u64, GalleryError> {
        self.bytes.extend((-1_i16).to_be_bytes());
        let mut copy = connection.copy_in_raw(statement).await?;
        for chunk in self.bytes.chunks(CHUNK) {
            copy.send(chunk).await?;
        }
        Ok(copy.finish().await?)
    }
}
