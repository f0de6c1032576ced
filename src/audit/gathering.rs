//! Entries about answers: gathered in memory, and written many at a time, so that no answer waits for the database.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tracing::warn;

use super::entry::append_all;
use super::{Action, Audit, AuditError, Entry};
use crate::types::Actor;

/// How long an entry waits for others at most, while the database keeps up.
const PAUSE: Duration = Duration::from_millis(200);

/// How long after a failure it is tried again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Entries that one statement writes at most; when so many are there, they are written at once.
const PIECE: usize = 500;

/// Entries that are kept at most while the database is away.
const MOST: usize = 20_000;

/// With so many waiting no refusal finds room any more: refusals, which cost little to make, leave the other half to answers.
const MOST_FOR_REFUSALS: usize = MOST / 2;

/// What was gathered and is not written yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    waiting: Mutex<Waiting>,
    many: Notify,
    /// Held while it is written.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// Entries that found no room.
    lost: u64,
}

impl Gathered {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, entry: Entry, most: usize) {
        let mut waiting = self.waiting();
        if waiting.entries.len() >= most {
            waiting.lost += 1;
            metrics::counter!("faceid_audit_lost_total").increment(1);
            return;
        }
        waiting.entries.push_back(entry);
        if waiting.entries.len() == PIECE {
            self.many.notify_one();
        }
    }

    fn take(&self) -> (Vec<Entry>, u64) {
        let mut waiting = self.waiting();
        let most = waiting.entries.len().min(PIECE);
        (waiting.entries.drain(..most).collect(), std::mem::take(&mut waiting.lost))
    }

    /// What could not be written comes before what came since, even if these are more than there is room for.
    fn put_back(&self, entries: Vec<Entry>, lost: u64) {
        let mut waiting = self.waiting();
        waiting.lost += lost;
        for entry in entries.into_iter().rev() {
            waiting.entries.push_front(entry);
        }
    }
}

impl Audit {
    /// Notes what was answered, soon. Questions are left out if the configuration says so.
    pub fn gather(&self, entry: Entry) {
        if self.questions || !entry.action().is_question() {
            self.gathered.add(entry, MOST);
        }
    }

    /// The same of what was refused.
    pub fn gather_refusal(&self, entry: Entry) {
        if self.questions || !entry.action().is_question() {
            self.gathered.add(entry, MOST_FOR_REFUSALS);
        }
    }

    /// Whether questions are noted.
    pub fn notes_questions(&self) -> bool {
        self.questions
    }

    /// Writes what is gathered, for as long as it is polled.
    pub async fn keep_writing(self) {
        loop {
            tokio::select! {
                () = self.gathered.many.notified() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
            if let Err(error) = self.write_gathered().await {
                warn!(%error, "cannot write to the audit; it is tried again");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// Writes all that is gathered.
    pub async fn write_gathered(&self) -> Result<(), AuditError> {
        let _only_one = self.gathered.writing.lock().await;
        loop {
            let mut piece = Unwritten { of: &self.gathered, entries: Vec::new(), lost: 0 };
            (piece.entries, piece.lost) = self.gathered.take();
            if piece.entries.is_empty() && piece.lost == 0 {
                return Ok(());
            }
            self.write(&piece).await?;
            metrics::counter!("faceid_audit_entries_total", "kind" => "answer").increment(piece.entries.len() as u64);
            piece.written();
        }
    }

    async fn write(&self, piece: &Unwritten<'_>) -> Result<(), AuditError> {
        let mut transaction = self.beside.begin().await?;
        append_all(&mut transaction, &piece.entries).await?;
        if piece.lost > 0 {
            let lost = Entry::new(&Actor::from("server"), Action::AuditLost).details(json!({"entries": piece.lost}));
            append_all(&mut transaction, std::slice::from_ref(&lost)).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// What was taken to be written; it is put back if that fails, or is given up.
struct Unwritten<'a> {
    of: &'a Gathered,
    entries: Vec<Entry>,
    lost: u64,
}

impl Unwritten<'_> {
    fn written(mut self) {
        self.entries.clear();
        self.lost = 0;
    }
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.of.put_back(std::mem::take(&mut self.entries), self.lost);
    }
}
