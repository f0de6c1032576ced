//! Whom some probes resemble, in one gallery or in several at once.
//!
//! Each gallery is searched by itself and decides by its own threshold. Of several the matches are then put into one list: first those
//! that reach the threshold of their gallery, and of these the most similar, so that nobody whom one gallery knows becomes unknown
//! because of another one that does not. Whether the first of them is clear is said by its gallery alone: somebody who is in two
//! galleries is no riddle.

use std::cmp::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::search::{Found, one_face_per_subject};
use super::{Recognition, Serving};
use crate::gallery::{Gallery, Policy};
use crate::index::{Hit, Query};
use crate::registry::Opinion;
use crate::service::ServiceError;
use crate::service::answers::{Decision, DecisionIn, Match};
use crate::service::requests::Among;
use crate::types::{GalleryId, Name, StoredEmbedding, SubjectId};

/// Faces of one photo whose lists are made longer, so that what others take away can be filled up again.
const MOST_SPARE: usize = 64;

/// The best subject and the next: whether it is clear which of them a probe shows.
const RIVALS: usize = 2;

/// A gallery that is searched, and what decides there.
pub(super) struct Place {
    pub gallery: Gallery,
    pub decision: Decision,
}

/// Where faces are searched for.
pub(super) struct Places {
    pub all: Vec<Place>,
    /// That of the lowest threshold: below it a face is in none of the galleries.
    pub decision: Decision,
    /// Whether the request speaks of several, be it a list of one.
    several: bool,
}

/// What is searched for.
#[derive(Clone, Copy)]
pub(in crate::service) struct Probes<'a> {
    /// Of one photo.
    pub embeddings: &'a [StoredEmbedding],
    /// Whom not to find.
    pub except: Option<SubjectId>,
    /// Subjects for each.
    pub top_k: usize,
    /// Whether each subject that reaches the threshold is left to one probe.
    pub unique: bool,
}

/// Whom a probe resembles.
pub(super) struct Resemblance {
    pub standing: Standing,
    pub matches: Vec<Match>,
}

/// What was found in one gallery.
struct FoundIn {
    threshold: f32,
    /// Of each probe.
    standings: Vec<Standing>,
    found: Found,
}

/// What became of a search.
pub(super) struct LookedUp {
    /// How old the answer is, if it is not fresh.
    pub stale_seconds: Option<f64>,
    /// Of each probe.
    pub resemblances: Vec<Resemblance>,
}

impl Recognition {
    /// The galleries that a request means, and what decides in each.
    pub(super) async fn places(
        &self,
        serving: &Serving,
        among: Among<'_>,
        asked: Option<Policy>,
    ) -> Result<Places, ServiceError> {
        let (galleries, several) = match among {
            Among::One(gallery) => (vec![self.find_gallery(serving, gallery).await?], false),
            Among::Several(names) => (self.find_each_once(serving, names.iter().map(Name::as_str)).await?, true),
        };
        let count = galleries.len();
        let place = async |gallery: Gallery| {
            let decision = self.decide(serving, &gallery, asked, count).await?;
            Ok::<_, ServiceError>(Place { gallery, decision })
        };
        let all = try_join_all(galleries.into_iter().map(place)).await?;
        let lowest = all.iter().min_by(|a, b| a.decision.threshold.total_cmp(&b.decision.threshold));
        let decision = lowest.map(|place| place.decision.clone());
        let decision = decision.ok_or_else(|| ServiceError::Internal("no gallery is searched".to_owned()))?;
        Ok(Places { all, decision, several })
    }

    async fn find_each_once<'a>(
        &self,
        serving: &Serving,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Gallery>, ServiceError> {
        let mut galleries: Vec<Gallery> = Vec::new();
        for name in names {
            let gallery = self.find_gallery(serving, name).await?;
            if galleries.iter().any(|other| other.id == gallery.id) {
                let reason = format!("the gallery {:?} is named twice", gallery.name);
                return Err(ServiceError::InvalidField { field: "galleries", reason });
            }
            galleries.push(gallery);
        }
        Ok(galleries)
    }

    /// Whom each probe resembles, in all of the galleries.
    pub(super) async fn look_up(
        &self,
        serving: &Serving,
        places: &Places,
        probes: Probes<'_>,
    ) -> Result<LookedUp, ServiceError> {
        let mut found: Vec<FoundIn> = Vec::with_capacity(places.all.len());
        for place in &places.all {
            // One after the other: a request has one place in the queue of searches.
            found.push(self.look_in(serving, place, probes).await?);
            // What others beat is dropped as they come, and is not named.
            leave_best(&mut found, probes.top_k);
        }
        for (place, FoundIn { found, .. }) in places.all.iter().zip(&mut found) {
            if !self.fill_faces(serving, place.gallery.id, probes.embeddings, found).await? {
                // Nobody waits for a slow database once for each gallery.
                break;
            }
        }
        let stale = found.iter().filter_map(|found| found.found.stale).max();
        let mut by_place: Vec<_> = found.into_iter().map(|found| found.resemblances()).collect();
        let resemblances = probes.embeddings.iter().map(|_| {
            let in_each = places.all.iter().zip(by_place.iter_mut().filter_map(Iterator::next));
            let matches = in_each.map(|(place, (standing, hits))| {
                let named = places.several.then_some(&place.gallery);
                let matches = hits.into_iter().map(|hit| match_answer(serving, &place.decision, named, hit));
                (place.decision.threshold, Resemblance { standing, matches: matches.collect() })
            });
            merged(matches, probes.top_k)
        });
        let resemblances = resemblances.collect();
        Ok(LookedUp { stale_seconds: stale.map(stale_seconds), resemblances })
    }

    /// Whom each probe resembles in one gallery.
    async fn look_in(
        &self,
        serving: &Serving,
        Place { gallery, decision }: &Place,
        probes: Probes<'_>,
    ) -> Result<FoundIn, ServiceError> {
        let wanted = Probes { top_k: probes.top_k.max(RIVALS), ..probes };
        let mut found = self.best_subjects(serving, gallery.id, wanted, decision.threshold).await?;
        let standings = found.hits.iter().map(|hits| standing(serving, hits, decision)).collect();
        found.hits.iter_mut().for_each(|hits| hits.truncate(probes.top_k));
        Ok(FoundIn { threshold: decision.threshold, standings, found })
    }

    /// The subjects of a gallery that each probe resembles most.
    pub(in crate::service) async fn best_subjects(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        Probes { embeddings, except, top_k, unique }: Probes<'_>,
        threshold: f32,
    ) -> Result<Found, ServiceError> {
        let unique = unique && embeddings.len() > 1;
        let spare = if unique { (embeddings.len() - 1).min(MOST_SPARE) } else { 0 };
        let query = |probe: &StoredEmbedding| Query {
            probe: probe.clone(),
            top_k: top_k + spare,
            min_similarity: None,
            except,
        };
        let mut found = self.search(serving, gallery, embeddings.iter().map(query).collect()).await?;
        if unique {
            one_face_per_subject(&mut found.hits, threshold);
        }
        found.hits.iter_mut().for_each(|hits| hits.truncate(top_k));
        Ok(found)
    }
}

impl Places {
    /// What decides in each, for a request that speaks of several.
    pub fn decisions(&self) -> Vec<DecisionIn> {
        let of_place = |Place { gallery, decision }: &Place| DecisionIn {
            gallery: gallery.name.clone(),
            gallery_id: gallery.id,
            decision: decision.clone(),
        };
        if self.several { self.all.iter().map(of_place).collect() } else { Vec::new() }
    }
}

impl Resemblance {
    /// What it says of the probe, at a threshold.
    pub fn opinion(&self, threshold: f32) -> Opinion {
        Opinion { best: self.matches.first().map(|best| (best.subject_id, best.similarity)), threshold }
    }
}

impl FoundIn {
    /// What is said of each probe, one after the other.
    fn resemblances(self) -> impl Iterator<Item = (Standing, Vec<Hit>)> {
        self.standings.into_iter().zip(self.found.hits)
    }
}

/// Leaves of each probe's hits in several galleries those that [`merged`] keeps: of each gallery the first few.
fn leave_best(found: &mut [FoundIn], top_k: usize) {
    if found.len() < 2 {
        return;
    }
    for probe in 0..found[0].found.hits.len() {
        let mut all: Vec<(bool, f32, usize)> = Vec::new();
        for (place, FoundIn { threshold, found, .. }) in found.iter().enumerate() {
            all.extend(found.hits[probe].iter().map(similarity).map(|one| (one >= *threshold, one, place)));
        }
        all.sort_by(|a, b| before((a.0, a.1), (b.0, b.1)));
        all.truncate(top_k);
        for (place, FoundIn { found, .. }) in found.iter_mut().enumerate() {
            let kept = all.iter().filter(|one| one.2 == place).count();
            found.hits[probe].truncate(kept);
            found.hits[probe].shrink_to_fit();
        }
    }
}

/// The order of what several galleries hold: whether it reaches the threshold of its gallery, and how similar it is.
fn before((a_reaches, a): (bool, f32), (b_reaches, b): (bool, f32)) -> Ordering {
    b_reaches.cmp(&a_reaches).then(b.total_cmp(&a))
}

/// One list of what a probe resembles in several galleries of different thresholds.
fn merged(in_each: impl Iterator<Item = (f32, Resemblance)>, top_k: usize) -> Resemblance {
    let mut all: Vec<(bool, Standing, Match)> = Vec::new();
    for (threshold, Resemblance { standing, matches }) in in_each {
        all.extend(matches.into_iter().map(|one| (one.similarity >= threshold, standing, one)));
    }
    all.sort_by(|(a_reaches, _, a), (b_reaches, _, b)| before((*a_reaches, a.similarity), (*b_reaches, b.similarity)));
    all.truncate(top_k);
    let standing = all.first().map_or(Standing::Unknown, |(_, standing, _)| *standing);
    Resemblance { standing, matches: all.into_iter().map(|(_, _, one)| one).collect() }
}

/// Counts an answer that is not fresh, and says how old it is.
fn stale_seconds(stale: Duration) -> f64 {
    metrics::counter!("faceid_stale_answers_total").increment(1);
    (stale.as_secs_f64() * 1000.0).round() / 1000.0
}

fn match_answer(serving: &Serving, decision: &Decision, gallery: Option<&Gallery>, hit: Hit) -> Match {
    let similarity = similarity(&hit);
    Match {
        subject: hit.about.name.into(),
        subject_id: hit.about.subject_id,
        gallery: gallery.map(|gallery| gallery.name.clone()),
        gallery_id: gallery.map(|gallery| gallery.id),
        face_id: hit.about.face_id,
        similarity,
        probability: serving.calibration().probability(similarity, decision.subjects),
    }
}

/// What the best hits of a face say of it.
pub(in crate::service) fn opinion(hits: &[Hit], threshold: f32) -> Opinion {
    Opinion { best: hits.first().map(|best| (best.about.subject_id, similarity(best))), threshold }
}

/// Whether a probe is somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Known,
    /// One of several subjects.
    Ambiguous,
    Unknown,
}

/// Two subjects that both reach the threshold, as twins do or one person under two names, are told apart only if one is nearer
/// by the margin.
fn standing(serving: &Serving, hits: &[Hit], decision: &Decision) -> Standing {
    let reaching = hits.iter().map(similarity).filter(|similarity| *similarity >= decision.threshold);
    match reaching.take(2).collect::<Vec<f32>>()[..] {
        [] => Standing::Unknown,
        [best, second] if best - second < serving.margin() => Standing::Ambiguous,
        _ => Standing::Known,
    }
}

/// Rounding to 16 bits can take a vector's length a little past 1.
fn similarity(hit: &Hit) -> f32 {
    (hit.similarity as f32).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::About;

    fn resemblance(standing: Standing, similarities: &[f32]) -> Resemblance {
        let one = |similarity: &f32| Match {
            subject: similarity.to_string(),
            subject_id: SubjectId(uuid::Uuid::nil()),
            gallery: None,
            gallery_id: None,
            face_id: None,
            similarity: *similarity,
            probability: None,
        };
        Resemblance { standing, matches: similarities.iter().map(one).collect() }
    }

    fn merge(in_each: Vec<(f32, Resemblance)>, top_k: usize) -> (Standing, Vec<f32>) {
        let Resemblance { standing, matches } = merged(in_each.into_iter(), top_k);
        (standing, matches.iter().map(|one| one.similarity).collect())
    }

    #[test]
    fn whoever_reaches_a_threshold_comes_first() {
        let large = resemblance(Standing::Unknown, &[0.44, 0.2]);
        let small = resemblance(Standing::Known, &[0.4, 0.3, 0.1]);
        let found = merge(vec![(0.5, large), (0.35, small)], 4);
        assert_eq!(found, (Standing::Known, vec![0.4, 0.44, 0.3, 0.2]));
    }

    #[test]
    fn what_others_beat_is_dropped_before_it_is_named() {
        let hit = |similarity: &f64| Hit {
            about: About { subject_id: SubjectId::new(), name: "".into(), faces: 1, face_id: None },
            similarity: *similarity,
        };
        let found_in = |threshold: f32, probes: [&[f64]; 2]| FoundIn {
            threshold,
            standings: vec![Standing::Unknown; 2],
            found: Found { hits: probes.map(|hits| hits.iter().map(hit).collect()).into(), stale: None },
        };
        let mut found =
            vec![found_in(0.5, [&[0.44, 0.2], &[0.9, 0.8, 0.7]]), found_in(0.35, [&[0.4, 0.3, 0.1], &[0.6]])];
        leave_best(&mut found, 3);
        let left = |place: &FoundIn| place.found.hits.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(found.iter().map(left).collect::<Vec<_>>(), [[1, 3], [2, 0]]);
        leave_best(&mut found, 1);
        assert_eq!(found.iter().map(left).collect::<Vec<_>>(), [[0, 1], [1, 0]]);
    }

    #[test]
    fn the_gallery_of_the_first_says_whether_it_is_clear() {
        let (one, other) = (resemblance(Standing::Known, &[0.8]), resemblance(Standing::Ambiguous, &[0.79, 0.78]));
        assert_eq!(merge(vec![(0.4, one), (0.4, other)], 2), (Standing::Known, vec![0.8, 0.79]));
        let (one, other) = (resemblance(Standing::Known, &[0.7]), resemblance(Standing::Ambiguous, &[0.79, 0.78]));
        assert_eq!(merge(vec![(0.4, one), (0.4, other)], 1), (Standing::Ambiguous, vec![0.79]));
        assert_eq!(merge(vec![(0.4, resemblance(Standing::Unknown, &[]))], 5), (Standing::Unknown, vec![]));
    }
}
