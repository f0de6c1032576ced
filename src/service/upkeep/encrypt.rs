//! The job that encrypts chips of before there were keys, and wraps the keys of chips by the newest master key.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use metrics::gauge;
use serde_json::{Map, Value, json};

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::gallery::{Galleries, KeysUnder};
use crate::service::ServiceError;
use crate::types::FaceId;

/// How often is looked whether anything is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Chips that are encrypted in one step, some megabytes at most.
const PIECE: usize = 256;

/// Goes through all faces in search of plain chips, then through the keys that are not under the newest master key; and again,
/// until nothing is left.
#[derive(Default)]
pub(super) struct Encrypting {
    stage: Stage,
    keys: Vec<KeysUnder>,
    /// Chips that are not encrypted, once it is known.
    plain: Option<u64>,
    newest: Option<String>,
    done: u64,
    total: Option<u64>,
    shown: Shown,
}

#[derive(Default)]
enum Stage {
    #[default]
    Count,
    Chips {
        after: Option<FaceId>,
        plain: VecDeque<FaceId>,
        /// Whether this pass found any.
        found: bool,
    },
    Keys {
        /// The place among those that [`KeysUnder`] lists, and in it.
        place: usize,
        after: Option<FaceId>,
        /// Whether this pass found any.
        found: bool,
    },
}

impl Encrypting {
    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, ServiceError> {
        let galleries = upkeep.galleries();
        let stage = match self.stage {
            Stage::Count => {
                self.count(&galleries).await?;
                self.stage = Stage::Chips { after: None, plain: VecDeque::new(), found: false };
                "looking"
            }
            Stage::Chips { .. } => self.encrypt(&galleries).await?,
            Stage::Keys { .. } => match self.wrap(&galleries).await? {
                true => "wrapping",
                false => return Ok(self.rest()),
            },
        };
        Ok(Step::More(Progress::new(stage, self.done, self.total)))
    }

    /// What a job shows of the keys: how many are under which master key, and how many chips have none.
    pub fn state(&self) -> Value {
        let keys: Map<String, Value> = self.keys.iter().map(|under| (name(under), json!(under.keys))).collect();
        json!({"plain_chips": self.plain, "keys": keys, "newest": self.newest})
    }

    async fn count(&mut self, galleries: &Galleries) -> Result<(), ServiceError> {
        self.keys = galleries.count_chip_keys().await?;
        self.newest = galleries.newest_master().map(|master| master.to_string());
        self.shown.show(&self.keys, self.plain);
        Ok(())
    }

    /// Encrypts the next few chips, or looks for more.
    async fn encrypt(&mut self, galleries: &Galleries) -> Result<&'static str, ServiceError> {
        let Stage::Chips { after, plain, found } = &mut self.stage else { return Ok("looking") };
        if plain.is_empty() {
            let (more, last) = galleries.plain_chips(*after).await?;
            *found |= !more.is_empty();
            (*plain, *after) = (more.into(), last);
            if !plain.is_empty() && self.total.is_none() {
                self.plain = Some(galleries.count_plain_chips().await?);
                self.total = self.plain.map(|plain| plain + to_wrap(&self.keys, galleries));
                self.shown.show(&self.keys, self.plain);
            }
            // What somebody held may be left before that place, and servers of a former version may go on.
            if last.is_none() && !std::mem::take(found) {
                self.plain = Some(0);
                self.stage = Stage::Keys { place: 0, after: None, found: false };
            }
            return Ok("looking");
        }
        let piece: Vec<FaceId> = plain.drain(..plain.len().min(PIECE)).collect();
        let encrypted = galleries.encrypt_chips(&piece).await?;
        self.done += encrypted.done + encrypted.set_aside;
        self.plain = self.plain.map(|plain| plain.saturating_sub(encrypted.done + encrypted.set_aside));
        add(&mut self.keys, galleries, encrypted.done);
        self.shown.show(&self.keys, self.plain);
        Ok("encrypting")
    }

    /// Wraps the next few keys; whether there may be more.
    async fn wrap(&mut self, galleries: &Galleries) -> Result<bool, ServiceError> {
        let Stage::Keys { place, after, found } = &mut self.stage else { return Ok(false) };
        let Some(under) = self.keys.get(*place).copied() else {
            let again = *found;
            self.count(galleries).await?;
            self.stage = Stage::Keys { place: 0, after: None, found: false };
            return Ok(again);
        };
        if !galleries.wraps_anew(under.master) {
            *place += 1;
            return Ok(true);
        }
        match galleries.wrap_keys(under.master, after).await? {
            Some(wrapped) => {
                *found |= wrapped.done > 0;
                self.done += wrapped.done + wrapped.set_aside;
                self.keys[*place].keys = under.keys.saturating_sub(wrapped.done);
                add(&mut self.keys, galleries, wrapped.done);
                self.shown.show(&self.keys, self.plain);
            }
            None => (*place, *after) = (*place + 1, None),
        }
        if self.total.is_none() {
            self.total = Some(self.done + to_wrap(&self.keys, galleries));
        }
        Ok(true)
    }

    fn rest(&mut self) -> Step {
        self.shown.show(&self.keys, self.plain);
        (self.stage, self.done, self.total) = (Stage::Count, 0, None);
        Step::Idle(LOOK_INTERVAL)
    }
}

/// Keys that are to be wrapped anew.
fn to_wrap(keys: &[KeysUnder], galleries: &Galleries) -> u64 {
    keys.iter().filter(|under| galleries.wraps_anew(under.master)).map(|under| under.keys).sum()
}

/// Counts keys that are under the newest master key from now on.
fn add(keys: &mut Vec<KeysUnder>, galleries: &Galleries, count: u64) {
    let master = galleries.newest_master();
    match keys.iter_mut().find(|under| under.master == master) {
        Some(under) => under.keys += count,
        None => keys.push(KeysUnder { master, keys: count }),
    }
}

fn name(under: &KeysUnder) -> String {
    under.master.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

/// What the metrics of this server show, so that nothing of it is left when another one works on the job.
#[derive(Default)]
struct Shown(BTreeSet<String>);

impl Shown {
    fn show(&mut self, keys: &[KeysUnder], plain: Option<u64>) {
        let gone = self.0.iter().filter(|known| !keys.iter().any(|under| name(under) == **known));
        gone.for_each(|master| gauge!("faceid_chip_keys", "master" => master.clone()).set(0.0));
        for under in keys {
            gauge!("faceid_chip_keys", "master" => name(under)).set(under.keys as f64);
            self.0.insert(name(under));
        }
        if let Some(plain) = plain {
            gauge!("faceid_plain_chips").set(plain as f64);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.show(&[], Some(0));
    }
}
