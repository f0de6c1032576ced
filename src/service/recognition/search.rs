//! Finding subjects, wherever galleries are searched at present, and giving each subject to one face.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, debug_span};

use super::{Recognition, Serving, rejected};
use crate::gallery::Gallery;
use crate::index::{Hit, Hits, Query};
use crate::resident::View;
use crate::service::ServiceError;
use crate::types::GalleryId;

/// How long a search waits for a place in the database, where the memory should have answered and is too old.
const PLACE_WITHIN: Duration = Duration::from_secs(1);

/// What a search found.
#[derive(Default)]
pub(in crate::service) struct Found {
    /// Of each query.
    pub hits: Hits,
    /// The age of the memory that answered, if it was not fresh.
    pub stale: Option<Duration>,
}

impl Recognition {
    /// The gallery that is given by id or name, if there is such a one for the caller.
    pub(in crate::service) async fn find_gallery(
        &self,
        serving: &Serving,
        gallery: &str,
    ) -> Result<Gallery, ServiceError> {
        let held = serving.resident.current().and_then(|held| held.view.gallery(gallery));
        if let Some(found) = held.filter(|found| self.caller.scope().has(found.id)) {
            return Ok(found);
        }
        Ok(self.galleries().find_gallery(gallery).await?)
    }

    /// For each query its hits, best first: in memory, even if that is somewhat old, else in the database. There few search at
    /// once while galleries should be in memory: that many cannot be answered at its pace, and all else needs it as well.
    pub(in crate::service) async fn search(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        queries: Vec<Query>,
    ) -> Result<Found, ServiceError> {
        let Some(held) = serving.resident.current() else {
            let _place = self.place_in_database(serving).await?;
            return Ok(Found { hits: self.search_in(None, serving, gallery, queries).await?, stale: None });
        };
        let hits = self.search_in(Some(held.view), serving, gallery, queries).await?;
        Ok(Found { hits, stale: held.stale })
    }

    /// As [`Self::search`], for what must not rest on an old state.
    pub(in crate::service) async fn search_fresh(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        queries: Vec<Query>,
    ) -> Result<Hits, ServiceError> {
        self.search_in(serving.resident.fresh(), serving, gallery, queries).await
    }

    /// Searches in a view, or without one in the database. In memory all that wait for a gallery share one scan.
    pub(in crate::service) async fn search_in(
        &self,
        view: Option<Arc<View>>,
        serving: &Serving,
        gallery: GalleryId,
        queries: Vec<Query>,
    ) -> Result<Hits, ServiceError> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let search = async {
            let Some(view) = view else {
                return Ok(self.galleries().search(gallery, serving.id(), &queries).await?);
            };
            Ok(self.parts.engine.search(&view.index, gallery, queries).await?)
        };
        let found: Result<Hits, ServiceError> = search.instrument(debug_span!("search")).await;
        metrics::histogram!("faceid_stage_seconds", "stage" => "search").record(began.elapsed());
        found
    }

    /// A place among those who search in the database, if galleries should be in memory.
    async fn place_in_database(&self, serving: &Serving) -> Result<Option<OwnedSemaphorePermit>, ServiceError> {
        if !serving.resident.is_on() {
            return Ok(None);
        }
        let place = Arc::clone(&self.parts.database_searches).acquire_owned();
        match tokio::time::timeout(PLACE_WITHIN, place).await {
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(rejected("search")),
        }
    }
}

/// Leaves each subject that is named to the face that resembles it most: nobody is on a photo twice.
///
/// Pairs of a face and a subject that reach `threshold` are gone through from the most similar on; a pair holds if
/// neither has been given away. Whoever belongs to one face is taken off the lists of the others, whose next best moves
/// up. The most similar pair always holds, which a largest sum of similarities would not grant.
pub(in crate::service) fn one_face_per_subject(found: &mut [Vec<Hit>], threshold: f32) {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (face, hits) in found.iter().enumerate() {
        pairs.extend((0..hits.len()).filter(|hit| hits[*hit].similarity as f32 >= threshold).map(|hit| (face, hit)));
    }
    pairs.sort_by(|a, b| found[b.0][b.1].similarity.total_cmp(&found[a.0][a.1].similarity).then(a.cmp(b)));
    let mut owners: Vec<Option<crate::types::SubjectId>> = vec![None; found.len()];
    let mut taken = HashSet::new();
    for (face, hit) in pairs {
        let subject = found[face][hit].about.subject_id;
        if owners[face].is_none() && taken.insert(subject) {
            owners[face] = Some(subject);
        }
    }
    for (hits, owner) in found.iter_mut().zip(owners) {
        hits.retain(|hit| owner == Some(hit.about.subject_id) || !taken.contains(&hit.about.subject_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::About;
    use crate::types::SubjectId;

    fn hits(similarities: &[(u128, f64)]) -> Vec<Hit> {
        let hit = |(subject, similarity): &(u128, f64)| Hit {
            about: About {
                subject_id: SubjectId(uuid::Uuid::from_u128(*subject)),
                name: "".into(),
                faces: 1,
                face_id: None,
            },
            similarity: *similarity,
        };
        similarities.iter().map(hit).collect()
    }

    #[test]
    fn a_subject_is_named_once() {
        let mut found =
            [hits(&[(1, 0.7), (2, 0.5), (3, 0.1)]), hits(&[(1, 0.9), (2, 0.6)]), hits(&[(2, 0.3), (1, 0.2)])];
        one_face_per_subject(&mut found, 0.4);
        // The second face is nearest to 1, so the first gets 2, and the third nobody.
        assert_eq!(found[0], hits(&[(2, 0.5), (3, 0.1)]));
        assert_eq!(found[1], hits(&[(1, 0.9)]));
        assert_eq!(found[2], hits(&[]));
    }

    #[test]
    fn below_the_threshold_nobody_is_given_away() {
        let mut found = [hits(&[(1, 0.3)]), hits(&[(1, 0.2)])];
        one_face_per_subject(&mut found, 0.4);
        assert_eq!(found, [hits(&[(1, 0.3)]), hits(&[(1, 0.2)])]);
    }
}
