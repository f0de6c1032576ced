//! Walking the chain, and saying where it is not as it was sealed.

use serde::Serialize;

use super::chain::{Hash, Record};
use super::read::Filter;
use super::{Action, Audit, AuditError, Head};

/// Faults that are told at most.
const MOST: usize = 100;

/// A place where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub position: i64,
    pub what: String,
}

/// What a walk saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub entries: u64,
    /// The position of the first entry that was seen.
    pub first: Option<i64>,
    /// That of the last one.
    pub last: Option<i64>,
    pub hash: Option<Hash>,
    /// Entries that have no place in the chain yet; of a database.
    pub unsealed: Option<u64>,
    /// Where the first hundred faults are.
    pub faults: Vec<Fault>,
}

/// A walk along a chain.
pub struct Walk {
    /// The place after which what is left begins, and its hash if that is known.
    start: (i64, Option<Hash>),
    /// The place before the next entry, if it is known.
    before: Option<(i64, Hash)>,
    heads: Vec<Head>,
    verdict: Verdict,
}

impl Walk {
    /// A walk from the beginning of what is there, which should pass the heads, or end at one.
    pub fn new(heads: Vec<Head>) -> Self {
        let verdict = Verdict { entries: 0, first: None, last: None, hash: None, unsealed: None, faults: Vec::new() };
        Self { start: (0, Some(Hash::BEGINNING)), before: None, heads, verdict }
    }

    /// A walk that begins after a place.
    fn after(self, (position, hash): (i64, Hash)) -> Self {
        Self { start: (position, Some(hash)), before: Some((position, hash)), ..self }
    }

    /// Goes on after a place: what lies between was dropped since the walk began.
    fn go_on_after(&mut self, (position, hash): (i64, Hash)) {
        let before = self.before.map_or(0, |(before, _)| before);
        for head in self.heads.clone().iter().filter(|head| head.position > before) {
            self.hold_against(head, (position, Some(hash)));
        }
        self.before = Some((position, hash));
    }

    /// Looks whether a head can belong to a chain of which all up to a place is gone.
    fn hold_against(&mut self, head: &Head, (position, hash): (i64, Option<Hash>)) {
        if head.position == position && hash.is_some_and(|hash| head.hash != hash) {
            self.fault(position, "is not the entry that the head names: the chain was written anew");
        } else if head.position > 0 && (head.position < position || head.position == position && hash.is_none()) {
            self.fault(head.position, "is gone: this head cannot be held against what is left");
        }
    }

    fn fault(&mut self, position: i64, what: impl Into<String>) {
        if self.verdict.faults.len() < MOST {
            self.verdict.faults.push(Fault { position, what: what.into() });
        }
    }

    /// Looks at the next entry.
    pub fn step(&mut self, record: &Record) {
        let position = record.position;
        let previous = match self.before {
            Some((before, hash)) if position == before + 1 => {
                if record.previous.is_some_and(|previous| previous != hash) {
                    self.fault(position, "does not follow on the entry before it: one of the two was changed");
                }
                Some(hash)
            }
            Some((before, _)) if position > before + 1 => {
                let missing = match position - before - 1 {
                    1 => "is missing".to_owned(),
                    count => format!("is missing, and the {} after it", count - 1),
                };
                self.fault(before + 1, missing);
                record.previous
            }
            Some((before, _)) => {
                self.fault(
                    position,
                    format!("comes after position {before}: it was put there, or the order was changed"),
                );
                record.previous
            }
            None if position == 1 => Some(Hash::BEGINNING),
            None => {
                self.start = (position - 1, record.previous);
                if record.previous.is_none() {
                    self.fault(position, "does not say what it follows on, so it cannot be checked");
                }
                record.previous
            }
        };
        if previous.is_some_and(|previous| record.seal(previous) != record.hash) {
            self.fault(position, "is not as it was sealed: it was changed");
        }
        if self.heads.iter().any(|head| head.position == position && head.hash != record.hash) {
            self.fault(position, "is not the entry that the head names: the chain was written anew");
        }
        self.before = Some((position, record.hash));
        let verdict = &mut self.verdict;
        verdict.entries += 1;
        verdict.first.get_or_insert(position);
        (verdict.last, verdict.hash) = (Some(position), Some(record.hash));
    }

    /// What was seen, when all was.
    pub fn end(mut self) -> Verdict {
        let last = self.before.map_or(0, |(last, _)| last);
        for head in self.heads.clone() {
            if head.position > last {
                self.fault(last + 1, format!("is missing: the chain went on to position {} at least", head.position));
            } else {
                self.hold_against(&head, self.start);
            }
        }
        self.verdict
    }
}

impl Audit {
    /// Walks the chain of the database, which should go on to where it says that it ends, and pass the heads that are given.
    pub async fn verify(&self, mut heads: Vec<Head>) -> Result<Verdict, AuditError> {
        // What is sealed or dropped meanwhile is looked at, or is not missed, as these are read first.
        let anchor = self.anchor().await?;
        heads.push(self.head().await?);
        let mut walk = Walk::new(heads).after(anchor);
        let (mut after, mut expected) = (anchor.0, anchor.0 + 1);
        loop {
            let (entries, last) = self.read_on(&Filter::default(), after).await?;
            for mut entry in entries {
                if entry.position > expected {
                    expected = self.pass_dropped(&mut walk, expected).await?;
                }
                if entry.position < expected {
                    continue;
                }
                expected = entry.position + 1;
                // It is what the entry before has, which is looked at already.
                entry.previous = None;
                walk.step(&entry);
            }
            if last == after {
                break;
            }
            after = last;
        }
        self.pass_dropped(&mut walk, expected).await?;
        // Nobody seals beyond where the chain says that it ends.
        let end = self.head().await?.position;
        if after > end {
            walk.fault(end + 1, format!("was put there by hand: the chain ends at position {end}"));
        }
        if let Some(position) = self.dropped_unsaid().await? {
            walk.fault(position, "was taken out, and all before it: no entry audit.expire says that they were dropped");
        }
        let mut verdict = walk.end();
        verdict.unsealed = Some(self.count_unsealed().await?);
        Ok(verdict)
    }

    /// The last entry that was dropped, after which the chain begins.
    async fn anchor(&self) -> Result<(i64, Hash), AuditError> {
        let (position, hash): (i64, Vec<u8>) =
            sqlx::query_as("select dropped_position, dropped_hash from audit_chain").fetch_one(&self.beside).await?;
        Ok((position, Hash::read(&hash)?))
    }

    /// Where an entry is not there that is expected: goes on after those that were dropped meanwhile. The next that is expected.
    async fn pass_dropped(&self, walk: &mut Walk, expected: i64) -> Result<i64, AuditError> {
        let anchor = self.anchor().await?;
        if anchor.0 < expected {
            return Ok(expected);
        }
        walk.go_on_after(anchor);
        Ok(anchor.0 + 1)
    }

    /// The last that was dropped, if no entry says so: who drops notes it, in the same transaction.
    async fn dropped_unsaid(&self) -> Result<Option<i64>, AuditError> {
        let unsaid = sqlx::query_scalar(
            "select c.dropped_position from audit_chain c where c.dropped_position > 0 and not exists (select from audit a \
             where a.action = $1 and a.details ~ ('\"up_to\":' || c.dropped_position || '[,}]'))",
        )
        .bind(Action::AuditExpire.as_str())
        .fetch_optional(&self.beside)
        .await?;
        Ok(unsaid)
    }
}
