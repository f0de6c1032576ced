//! The review of galleries, in the background: who is enrolled twice, and what looks wrong.
//!
//! The database keeps a queue of subjects whose templates changed. A job works it off, batch by batch, so a
//! new gallery is reviewed as a whole and later only what changed: the faces of changed subjects are compared with all
//! templates, and subjects of others with faces near a changed template are looked at again.

mod examine;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tracing::{debug, warn};

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::engine::{EngineError, Step as EngineStep};
use crate::gallery::{FaceToReview, FindingKind, GalleryError, NewFinding, ReviewBatch, SetAsideFrom, SetAsideItem};
use crate::index::{Hit, Query};
use crate::service::ServiceError;
use crate::service::recognition::{Authority, Serving};
use crate::service::work::patiently;
use crate::types::{GalleryId, StoredEmbedding, SubjectId};
use examine::{ComparedFace, Examined, Nearness, examine};

/// Subjects in a batch, and their faces, unless one subject has more: each face is looked for in the gallery, and other work waits.
const BATCH: u32 = 64;
const BATCH_FACES: u32 = 256;

/// Queries in one search.
const QUERIES: usize = 32;

/// Subjects like one that are looked at in search of duplicates.
const ALIKE: usize = 20;

/// Faces of a subject that are looked at, the latest: all pairs of them are compared.
const MOST_FACES: u32 = 500;

/// How long to wait when there is nothing to do.
const PAUSE: Duration = Duration::from_secs(1);

/// How often those that wait are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Templates of a gallery that change within a [`PAUSE`] in an import. Who is reviewed before its end is compared with all
/// who come after, so the review of that gallery waits for the end, but not for ever.
const MANY: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the review is: whose turn it is, and which galleries change too fast to be reviewed.
struct Round {
    last: GalleryId,
    /// The latest ticket of a [`PAUSE`] ago, and of now.
    ticket: i64,
    latest: (i64, Instant),
    /// Since when galleries change that fast.
    rising: HashMap<GalleryId, Instant>,
}

impl Round {
    fn new() -> Self {
        Self {
            last: crate::gallery::DEFAULT_GALLERY,
            ticket: i64::MAX,
            latest: (0, Instant::now()),
            rising: HashMap::new(),
        }
    }

    /// Notes the latest ticket.
    fn look(&mut self, ticket: i64, now: Instant) {
        if now - self.latest.1 >= PAUSE || self.ticket == i64::MAX {
            self.ticket = if self.latest.0 == 0 { ticket } else { self.latest.0 };
            self.latest = (ticket, now);
        }
    }

    /// Whether a gallery of which so many templates changed within a [`PAUSE`] is to wait, and has not waited for too long.
    fn waits(&mut self, gallery: GalleryId, changed: u64, now: Instant) -> bool {
        if changed < u64::from(MANY) {
            self.rising.remove(&gallery);
            return false;
        }
        now - *self.rising.entry(gallery).or_insert(now) < PATIENCE
    }
}

/// From which similarities on, in one gallery.
struct Rules {
    /// Two subjects may be one person.
    pair: f32,
    nearness: Nearness,
}

impl Rules {
    fn of(authority: &Authority<'_>) -> Self {
        let nearness = Nearness { other: authority.other_subject().threshold, own: authority.own_subject().threshold };
        Self { pair: authority.kept_pair().threshold, nearness }
    }
}

/// The job that reviews galleries.
pub(in crate::service) struct Reviewing {
    round: Round,
    /// Subjects that were reviewed since nothing was due.
    done: u64,
    /// When those that wait were counted last, and how many there were in all.
    counted: Option<(Instant, u64)>,
}

impl Reviewing {
    pub fn new() -> Self {
        Self { round: Round::new(), done: 0, counted: None }
    }

    /// Reviews a batch of the next gallery that is due.
    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, ServiceError> {
        let (galleries, serving) = (&upkeep.galleries(), upkeep.recognition().serving());
        self.round.look(galleries.review_tickets().await?, Instant::now());
        let batch = match upkeep.next_to_review(&serving, &mut self.round).await? {
            Some(gallery) => galleries.next_review(gallery, serving.id(), BATCH, BATCH_FACES).await?,
            None => None,
        };
        let Some(batch) = batch else {
            (self.done, self.counted) = (0, None);
            return Ok(Step::Idle(PAUSE));
        };
        match upkeep.review(&serving, &batch).await {
            Err(error) if is_of_input(&error) => upkeep.review_one_by_one(&serving, &batch).await?,
            reviewed => reviewed?,
        }
        self.done += batch.subjects.len() as u64;
        if self.counted.is_none_or(|(at, _)| at.elapsed() > COUNT_INTERVAL) {
            let waiting = galleries.count_to_review(serving.id()).await?;
            self.counted = Some((Instant::now(), self.done + waiting));
        }
        Ok(Step::More(Progress::new("reviewing", self.done, self.counted.map(|(_, total)| total))))
    }
}

/// Whether what was reviewed is to blame, rather than the server or its database.
fn is_of_input(error: &ServiceError) -> bool {
    match error {
        ServiceError::Engine(EngineError::Panicked) | ServiceError::Internal(_) => true,
        ServiceError::Gallery(GalleryError::Db(error)) => error.is_of_data(),
        _ => false,
    }
}

impl Upkeep {
    /// Reviews subjects of a gallery.
    async fn review(&self, serving: &Serving, batch: &ReviewBatch) -> Result<(), ServiceError> {
        let (galleries, gallery) = (&self.galleries(), batch.gallery);
        // Searches must see at least what the batch counts as seen.
        serving.resident.catch_up().await;
        let subjects: Vec<SubjectId> = batch.subjects.iter().map(|due| due.subject).collect();
        let changed: Vec<SubjectId> = batch.subjects.iter().filter(|due| due.changed).map(|due| due.subject).collect();
        let faces = galleries.faces_to_review(gallery, serving.id(), &subjects, MOST_FACES).await?;
        let rules = Rules::of(&self.recognition().authority(serving, gallery).await?);
        let findings = self.look_at(serving, &rules, gallery, faces).await?;
        let nearest = rules.pair.min(rules.nearness.other);
        galleries.recheck_near(gallery, serving.id(), &changed, nearest).await?;
        galleries.finish_review(serving.id(), batch, &findings).await?;
        debug!(subjects = subjects.len(), findings = findings.len(), "reviewed a part of a gallery");
        Ok(())
    }

    /// Reviews each subject of a batch by itself, and sets those aside that cannot be reviewed.
    async fn review_one_by_one(&self, serving: &Serving, batch: &ReviewBatch) -> Result<(), ServiceError> {
        for one in batch.each() {
            match self.review(serving, &one).await {
                Err(error) if is_of_input(&error) => {
                    for due in &one.subjects {
                        warn!(%error, subject = %due.subject, "a subject cannot be reviewed; it is set aside");
                        let (work, item) = (SetAsideFrom::Review, SetAsideItem::Subject(due.subject));
                        self.galleries().set_aside(work, serving.id(), item, &error.to_string()).await?;
                    }
                }
                reviewed => reviewed?,
            }
        }
        Ok(())
    }

    /// The next gallery in turn that is not in the middle of an import.
    async fn next_to_review(&self, serving: &Serving, round: &mut Round) -> Result<Option<GalleryId>, ServiceError> {
        let mut first = None;
        while let Some(gallery) = self.galleries().next_gallery_to_review(serving.id(), round.last).await? {
            if first == Some(gallery) {
                break;
            }
            first = first.or(Some(gallery));
            round.last = gallery;
            let changed = self.galleries().changed_since(gallery, serving.id(), round.ticket, MANY).await?;
            if !round.waits(gallery, changed, Instant::now()) {
                return Ok(Some(gallery));
            }
        }
        Ok(None)
    }

    async fn look_at(
        &self,
        serving: &Serving,
        rules: &Rules,
        gallery: GalleryId,
        faces: Vec<FaceToReview>,
    ) -> Result<Vec<NewFinding>, ServiceError> {
        let mut findings = Vec::new();
        let mut templates = Vec::new();
        for (subject, examined) in self.examined(serving, rules, gallery, faces).await? {
            findings.extend(examined.findings);
            templates.push((subject, examined.template));
        }
        findings.extend(self.look_alikes(serving, rules, gallery, templates).await?);
        Ok(findings)
    }

    /// Examines the subjects of some faces.
    async fn examined(
        &self,
        serving: &Serving,
        rules: &Rules,
        gallery: GalleryId,
        faces: Vec<FaceToReview>,
    ) -> Result<Vec<(SubjectId, Examined)>, ServiceError> {
        let query = |face: &FaceToReview| Query {
            probe: face.embedding.clone(),
            top_k: 1,
            min_similarity: None,
            except: Some(face.subject),
        };
        let nearest = self.search_in_parts(serving, gallery, faces.iter().map(query).collect()).await?;
        let mut by_subject: HashMap<SubjectId, Vec<ComparedFace>> = HashMap::new();
        for (face, hits) in faces.into_iter().zip(nearest) {
            let anomaly = face.norm.and_then(|norm| serving.calibration().anomaly(norm));
            let other = hits.into_iter().next();
            by_subject.entry(face.subject).or_default().push(ComparedFace { face, other, anomaly });
        }
        let (by_subject, nearness) = (Arc::new(by_subject), rules.nearness);
        patiently(|| {
            let by_subject = Arc::clone(&by_subject);
            let examine =
                move |(subject, seen): (&SubjectId, &Vec<ComparedFace>)| (*subject, examine(*subject, seen, nearness));
            let work = move || by_subject.iter().map(examine).collect();
            async { Ok(self.parts.engine.on_cpu(EngineStep::Statistics, work).await?) }
        })
        .await
    }

    /// Pairs of a subject of `templates` and any other that look like one person. A subject that only has a face too many
    /// is no duplicate: templates here are without faces that seem to be another's.
    async fn look_alikes(
        &self,
        serving: &Serving,
        rules: &Rules,
        gallery: GalleryId,
        templates: Vec<(SubjectId, StoredEmbedding)>,
    ) -> Result<Vec<NewFinding>, ServiceError> {
        let same = rules.pair;
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
        let faces = self.galleries().faces_to_review(gallery, serving.id(), &unknown, MOST_FACES).await?;
        let examined = self.examined(serving, rules, gallery, faces).await?.into_iter();
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
            found.extend(self.recognition().search_fresh(serving, gallery, part.to_vec()).await?);
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
    fn a_gallery_waits_for_its_import_but_not_for_ever() {
        let (start, mut round) = (Instant::now(), Round::new());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let [one, other] = [1, 2].map(|id| GalleryId(uuid::Uuid::from_u128(id)));
        assert!(!round.waits(one, 199, at(0)));
        assert!(round.waits(one, 200, at(1)));
        assert!(!round.waits(other, 10, at(1)));
        assert!(round.waits(one, 200, at(600)));
        // One that never ends.
        assert!(!round.waits(one, 200, at(601)));
        // Another begins after a pause.
        assert!(!round.waits(one, 0, at(700)));
        assert!(round.waits(one, 200, at(701)));
    }

    #[test]
    fn what_counts_as_new_was_drawn_within_a_pause() {
        let (start, mut round) = (Instant::now(), Round::new());
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        // What lay there before is not new.
        round.look(5000, at(0));
        assert_eq!(round.ticket, 5000);
        round.look(5100, at(500));
        assert_eq!(round.ticket, 5000);
        round.look(5200, at(1000));
        assert_eq!(round.ticket, 5000);
        round.look(5300, at(2000));
        assert_eq!(round.ticket, 5200);
    }
}
