//! What was answered, in the audit: where, who was known, by which model and how surely. No image, no vector, no name.

use serde_json::{Value, json};

use super::lookup::Places;
use super::{Recognition, Serving};
use crate::audit::{Action, Entry};
use crate::gallery::Known;
use crate::service::answers::{Compared, IdentifiedFace, Match, VerifiedStored};
use crate::types::{GalleryId, ModelId};

/// What an answer says of a face.
pub(super) struct Seen<'a> {
    pub known: bool,
    pub ambiguous: bool,
    pub matches: &'a [Match],
}

impl<'a> From<&'a IdentifiedFace> for Seen<'a> {
    fn from(face: &'a IdentifiedFace) -> Self {
        Self { known: face.known, ambiguous: face.ambiguous, matches: &face.matches }
    }
}

impl Recognition {
    /// Notes whom faces were found to be; `photos` and `failed` if they came as a batch.
    pub(super) fn note_identified<'a>(
        &self,
        action: Action,
        (serving, places): (&Serving, &Places),
        faces: impl Iterator<Item = Seen<'a>>,
        batch: Option<(usize, usize)>,
    ) {
        if !self.parts.audit.notes_questions() {
            return;
        }
        let (mut subjects, mut count, mut known, mut ambiguous, mut best) = (Vec::new(), 0_u32, 0_u32, 0_u32, None);
        for face in faces {
            count += 1;
            ambiguous += u32::from(face.ambiguous);
            let Some(first) = face.matches.first() else { continue };
            best = best.max(Some(rounded(first.similarity)));
            if face.known {
                known += 1;
                subjects.push(first.subject_id);
            }
        }
        let outcome = match (count, known, ambiguous) {
            (0, ..) if batch.is_some_and(|(photos, failed)| photos == failed) => "failed",
            (0, ..) => "no_face",
            (_, 1.., _) => "known",
            (.., 1..) => "ambiguous",
            _ => "unknown",
        };
        let mut details = json!({"faces": count, "known": known, "threshold": shown(places.decision.threshold)});
        if let Some(best) = best {
            details["similarity"] = json!(f64::from(best) / 1e4);
        }
        if let Some((photos, failed)) = batch {
            details["photos"] = json!(photos);
            details["failed"] = json!(failed);
        }
        subjects.sort_unstable();
        subjects.dedup();
        let galleries = places.all.iter().map(|place| place.gallery.id);
        let entry = Entry::new(&self.caller.actor(), action).galleries(galleries).subjects(subjects);
        self.parts.audit.gather(entry.model(Some(serving.id())).outcome(outcome).details(details));
    }

    /// Notes whether two photos show one person.
    pub(super) fn note_verified(&self, model: ModelId, same_person: bool, similarity: f32, threshold: f32) {
        let entry = Entry::new(&self.caller.actor(), Action::Verify).model(Some(model));
        let details = json!({"similarity": shown(similarity), "threshold": shown(threshold)});
        self.parts.audit.gather(entry.outcome(matched(same_person)).details(details));
    }

    /// Notes whether a photo shows somebody who is enrolled.
    pub(super) fn note_verified_stored(&self, model: ModelId, gallery: GalleryId, verified: &VerifiedStored) {
        let entry = Entry::new(&self.caller.actor(), Action::VerifyStored).model(Some(model));
        let entry = entry.galleries([gallery]).subjects([verified.subject_id]);
        let mut details = json!({"similarity": shown(verified.similarity), "threshold": shown(verified.threshold)});
        if let Some(face) = verified.face_id {
            details["face"] = json!(face);
        }
        self.parts.audit.gather(entry.outcome(matched(verified.same_person)).details(details));
    }

    /// Notes whether any of some faces is that of a reference, an enrolled one or not.
    pub(super) fn note_compared_each(
        &self,
        model: ModelId,
        known: Option<&Known>,
        (faces, best): (usize, Option<f32>),
        threshold: f32,
    ) {
        let action = if known.is_some() { Action::VerifyStored } else { Action::Verify };
        let mut entry = Entry::new(&self.caller.actor(), action).model(Some(model));
        if let Some(known) = known {
            entry = entry.galleries([known.gallery]).subjects([known.subject_id]);
        }
        let mut details = json!({"faces": faces, "threshold": shown(threshold)});
        if let Some(best) = best {
            details["similarity"] = shown(best);
        }
        let outcome = matched(best.is_some_and(|best| best >= threshold));
        self.parts.audit.gather(entry.outcome(outcome).details(details));
    }

    /// Notes how many of those who came with a photo it shows.
    pub(super) fn note_compared(&self, model: ModelId, compared: &Compared, candidates: usize, failed: usize) {
        let all = || compared.faces.iter().flat_map(|face| &face.matches);
        let same = all().filter(|candidate| candidate.same_person).count();
        let details = json!({
            "faces": compared.faces.len(), "candidates": candidates, "failed": failed, "matches": same,
            "threshold": shown(compared.threshold),
        });
        let entry = Entry::new(&self.caller.actor(), Action::Compare).model(Some(model));
        self.parts.audit.gather(entry.outcome(matched(same > 0)).details(details));
    }
}

fn matched(same_person: bool) -> &'static str {
    if same_person { "match" } else { "non_match" }
}

/// In ten-thousandths.
fn rounded(similarity: f32) -> i32 {
    (similarity * 1e4).round() as i32
}

/// With the four digits that mean something.
fn shown(similarity: f32) -> Value {
    json!(f64::from(rounded(similarity)) / 1e4)
}
