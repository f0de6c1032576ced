//! How often keys were used, until it is noted in the database.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::access::Uses;
use crate::types::KeyId;

#[derive(Default)]
pub(super) struct UseCounts(Mutex<HashMap<KeyId, Uses>>);

impl UseCounts {
    pub fn count(&self, key: KeyId, at: DateTime<Utc>) {
        add(&mut self.counts(), key, Uses { uses: 1, last: at });
    }

    /// All that was counted; counting begins anew.
    pub fn take(&self) -> Vec<(KeyId, Uses)> {
        std::mem::take(&mut *self.counts()).into_iter().collect()
    }

    /// What could not be noted.
    pub fn put_back(&self, uses: Vec<(KeyId, Uses)>) {
        let mut counts = self.counts();
        uses.into_iter().for_each(|(key, uses)| add(&mut counts, key, uses));
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<KeyId, Uses>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut HashMap<KeyId, Uses>, key: KeyId, more: Uses) {
    let counted = counts.entry(key).or_insert(Uses { uses: 0, last: more.last });
    counted.uses += more.uses;
    counted.last = counted.last.max(more.last);
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_could_not_be_noted_is_counted_with_what_came_since() {
        let (counts, key, first) = (UseCounts::default(), KeyId::new(), Utc::now());
        let last = first + TimeDelta::seconds(1);
        counts.count(key, first);
        counts.count(key, first);
        let taken = counts.take();
        assert_eq!((taken.as_slice(), counts.take().len()), (&[(key, Uses { uses: 2, last: first })][..], 0));
        counts.count(key, last);
        counts.put_back(taken);
        assert_eq!(counts.take(), [(key, Uses { uses: 3, last })]);
    }
}
