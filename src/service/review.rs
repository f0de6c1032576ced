//! The review of galleries, in the background: who is enrolled twice, and what looks wrong.
//!
//! The database keeps a queue of subjects whose templates changed. One server at a time works it off, batch by batch, so a
//! new gallery is reviewed as a whole and later only what changed: the faces of changed subjects are compared with all
//! templates, and subjects of others with faces near a changed template are looked at again.

mod examine;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::json;
use tracing::{debug, warn};

use super::serving::Serving;
use super::{ServiceError, Services};
use crate::gallery::{FaceToReview, FindingKind, NewFinding, ReviewBatch};
use crate::index::{Hit, Query};
use crate::types::{GalleryId, StoredEmbedding, SubjectId};
use examine::{Examined, Seen, examine};

/// Subjects in a batch.
const BATCH: u32 = 64;

/// Queries in one search.
const QUERIES: usize = 32;

/// Subjects like one that are looked at in search of duplicates.
const ALIKE: usize = 20;

/// How long to wait when there is nothing to do, or it failed.
const PAUSE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(10);

/// The longest rest after a batch.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Tickets a second that are drawn in an import: one for each template that is new, two for one that changes, and one for
/// whoever is to be looked at again. Who is reviewed before its end is compared with all who come after, so the review waits
/// for the end, but not for ever.
const MANY: f64 = 200.0;
const PATIENCE: Duration = Duration::from_secs(600);

/// How fast templates change.
#[derive(Default)]
struct Flood {
    /// Tickets that had been drawn at the latest look.
    seen: Option<(i64, Instant)>,
    /// When it was that they began to be many.
    since: Option<Instant>,
}

impl Flood {
    /// Whether there is more than could be reviewed, and has not been for too long. Looks once in a [`PAUSE`].
    fn rises(&mut self, tickets: i64, now: Instant) -> bool {
        let (former, at) = *self.seen.get_or_insert((tickets, now));
        let passed = now - at;
        if passed >= PAUSE {
            self.seen = Some((tickets, now));
            let is_rising = (tickets - former) as f64 >= MANY * passed.as_secs_f64();
            self.since = is_rising.then(|| self.since.unwrap_or(now));
        }
        self.since.is_some_and(|since| now - since < PATIENCE)
    }
}

impl Services {
    /// Reviews what is due, for as long as the service lives.
    pub(super) async fn keep_reviewing(self) {
        let mut flood = Flood::default();
        loop {
            let began = Instant::now();
            match self.review_unless(&mut flood).await {
                // Half of the time, by and large: requests come first.
                Ok(true) => tokio::time::sleep(began.elapsed().min(LONGEST_REST)).await,
                Ok(false) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    warn!(%error, "the review of galleries failed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// As [`Self::review_some`], unless more comes than could be reviewed; `false` then as well.
    async fn review_unless(&self, flood: &mut Flood) -> Result<bool, ServiceError> {
        if flood.rises(self.0.galleries.review_tickets().await?, Instant::now()) {
            return Ok(false);
        }
        self.review_some().await
    }

    /// Reviews a batch. `false`: nothing is due, or another server is at it.
    async fn review_some(&self) -> Result<bool, ServiceError> {
        let (galleries, serving) = (&self.0.galleries, self.serving());
        let Some(_turn) = galleries.take_turn(crate::gallery::Turn::Review).await? else { return Ok(false) };
        let Some(batch) = galleries.next_review(serving.id(), BATCH).await? else { return Ok(false) };
        // Searches must see at least what the batch counts as seen.
        serving.resident.settle().await;
        let subjects: Vec<SubjectId> = batch.subjects.iter().map(|due| due.subject).collect();
        let changed: Vec<SubjectId> = batch.subjects.iter().filter(|due| due.changed).map(|due| due.subject).collect();
        let faces = galleries.faces_to_review(batch.gallery, serving.id(), &subjects).await?;
        let findings = self.look_at(&serving, &batch, &faces).await?;
        let same = serving.threshold.get();
        galleries.recheck_near(batch.gallery, serving.id(), &changed, same).await?;
        galleries.finish_review(serving.id(), &batch, &findings).await?;
        debug!(subjects = subjects.len(), findings = findings.len(), "reviewed a part of a gallery");
        Ok(true)
    }

    async fn look_at(
        &self,
        serving: &Serving,
        batch: &ReviewBatch,
        faces: &[FaceToReview],
    ) -> Result<Vec<NewFinding>, ServiceError> {
        let mut findings = Vec::new();
        let mut templates = Vec::new();
        for (subject, examined) in self.examined(serving, batch.gallery, faces).await? {
            findings.extend(examined.findings);
            templates.push((subject, examined.template));
        }
        findings.extend(self.look_alikes(serving, batch.gallery, templates).await?);
        Ok(findings)
    }

    /// Examines the subjects of some faces; all faces of a subject must be among them.
    async fn examined(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        faces: &[FaceToReview],
    ) -> Result<Vec<(SubjectId, Examined)>, ServiceError> {
        let query = |face: &FaceToReview| Query {
            probe: face.embedding.clone(),
            top_k: 1,
            min_similarity: None,
            except: Some(face.subject),
        };
        let nearest = self.search_in_parts(serving, gallery, faces.iter().map(query).collect()).await?;
        let mut by_subject: HashMap<SubjectId, Vec<Seen<'_>>> = HashMap::new();
        for (face, hits) in faces.iter().zip(&nearest) {
            let anomaly = face.norm.and_then(|norm| serving.calibration().anomaly(norm));
            by_subject.entry(face.subject).or_default().push(Seen { face, other: hits.first(), anomaly });
        }
        let same = serving.threshold.get();
        let examined = by_subject.into_iter().map(|(subject, seen)| (subject, examine(subject, &seen, same)));
        Ok(examined.collect())
    }

    /// Pairs of a subject of `templates` and any other that look like one person. A subject that only has a face too many
    /// is no duplicate: templates here are without faces that seem to be another's.
    async fn look_alikes(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        templates: Vec<(SubjectId, StoredEmbedding)>,
    ) -> Result<Vec<NewFinding>, ServiceError> {
        let same = serving.threshold.get();
        let queries = templates.iter().map(|(subject, template)| Query {
            probe: template.clone(),
            top_k: ALIKE,
            min_similarity: Some(f64::from(same)),
            except: Some(*subject),
        });
        let found = self.search_in_parts(serving, gallery, queries.collect()).await?;
        let mut others: HashMap<SubjectId, StoredEmbedding> = templates.iter().cloned().collect();
        let ids = found.iter().flatten().map(|hit| hit.about.subject_id);
        let unknown: HashSet<SubjectId> = ids.filter(|subject| !others.contains_key(subject)).collect();
        let unknown: Vec<SubjectId> = unknown.into_iter().collect();
        let faces = self.0.galleries.faces_to_review(gallery, serving.id(), &unknown).await?;
        let examined = self.examined(serving, gallery, &faces).await?.into_iter();
        others.extend(examined.map(|(subject, examined)| (subject, examined.template)));
        let mut pairs = HashSet::new();
        let mut findings = Vec::new();
        for ((subject, template), hits) in templates.iter().zip(&found) {
            for hit in hits {
                let other = hit.about.subject_id;
                let Some(clean) = others.get(&other) else { continue };
                let similarity = template.similarity(clean) as f32;
                let pair = ((*subject).min(other), (*subject).max(other));
                if similarity >= same && pairs.insert(pair) {
                    findings.push(duplicate(pair, similarity));
                }
            }
        }
        Ok(findings)
    }

    /// Leaves room for others between the searches.
    async fn search_in_parts(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        queries: Vec<Query>,
    ) -> Result<Vec<Vec<Hit>>, ServiceError> {
        let mut found = Vec::with_capacity(queries.len());
        for part in queries.chunks(QUERIES) {
            found.extend(self.search(serving, gallery, part.to_vec()).await?);
        }
        Ok(found)
    }
}

fn duplicate((a, b): (SubjectId, SubjectId), similarity: f32) -> NewFinding {
    NewFinding {
        kind: FindingKind::Duplicate,
        subject: a,
        face: None,
        other: Some(b),
        score: similarity,
        evidence: json!({"similarity": similarity}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_waits_for_an_import_but_not_for_ever() {
        let (start, mut flood) = (Instant::now(), Flood::default());
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert!(!flood.rises(1_000_000, at(0.0)));
        assert!(!flood.rises(1_000_150, at(1.0)));
        // Many at once may be one request.
        assert!(!flood.rises(1_000_350, at(1.5)));
        assert!(flood.rises(1_000_550, at(2.0)));
        assert!(flood.rises(1_000_550, at(2.9)));
        assert!(!flood.rises(1_000_550, at(3.0)));
        // One that never ends.
        let tickets = |second: u32| 1_000_550 + 500 * i64::from(second);
        let waited = (1..2000).take_while(|second| flood.rises(tickets(*second), at(3.0 + f64::from(*second)))).count();
        assert_eq!(waited, 600);
        assert!(!flood.rises(tickets(602), at(605.0)));
    }
}
