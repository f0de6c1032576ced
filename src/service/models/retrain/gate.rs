//! Whether the candidate is better than the active model: on subjects whom it never saw, and on the protected galleries.

use std::collections::HashMap;

use serde_json::json;

use super::chips::Faces;
use super::run::TrainingPlan;
use super::{GalleryRef, MOST_PROTECTED, RetrainSettings};
use crate::engine::Step;
use crate::evaluation::{EvaluationError, Gate, GateOutcome, GateSet, RatesInUse, Shown, Verdict};
use crate::gallery::{GalleryError, KnownFace, PhotoId, StoredChip};
use crate::registry::GateVerdict;
use crate::service::ServiceError;
use crate::service::models::Models;
use crate::service::recognition::{Loaded, Serving};
use crate::service::work::{Failure, JobReporter, PIECE, patiently};
use crate::types::{Chip, FaceId, GalleryId, SubjectId};
use crate::vision;

/// Faces of the target at most, and of each subject of it: enough for narrow intervals, and done in a minute.
pub(super) const MOST_FACES: usize = 2000;
pub(super) const MOST_OF_ONE: u32 = 10;

/// Subjects of all protected galleries that are looked at, and faces of each: of thirty galleries about ten thousand faces.
const MOST_PEOPLE: u32 = 1900;
const MOST_OF_ONE_PROTECTED: u32 = 5;

/// Of these, subjects that are shown to a training at most: it holds their faces in memory, 37 KB each.
pub(super) const MOST_KEPT: usize = 400;

/// Faces of a gallery to compare on.
pub(super) struct Sample {
    pub gallery: GalleryRef,
    pub faces: Vec<KnownFace>,
}

impl Models {
    /// Compares a candidate with the active model. `held_out` are subjects whom it was not trained on.
    pub(super) async fn judge(
        &self,
        candidate: &Loaded,
        plan: &TrainingPlan,
        held_out: &[SubjectId],
        settings: &RetrainSettings,
        report: &mut JobReporter<'_>,
    ) -> Result<GateVerdict, Failure> {
        let faces = of_subjects(settings.gallery.id, &plan.faces, held_out);
        let target = Sample { gallery: settings.gallery.clone(), faces };
        let mut others = self.protected_faces(&settings.protected).await?;
        let kept = plan.kept.subjects();
        for sample in &mut others {
            sample.faces.retain(|known| !kept.contains(&known.subject));
        }
        self.judge_faces(candidate, &target, &others, settings.by_lot, report).await
    }

    /// Compares a candidate with the active model on faces where it is to be better, and on others where it must not be
    /// worse. `by_lot` says that these are of some galleries of many.
    pub(super) async fn judge_faces(
        &self,
        candidate: &Loaded,
        target: &Sample,
        others: &[Sample],
        by_lot: bool,
        report: &mut JobReporter<'_>,
    ) -> Result<GateVerdict, Failure> {
        let serving = self.recognition().serving();
        let total = target.faces.len() + others.iter().map(|sample| sample.faces.len()).sum::<usize>();
        let (mut sets, mut gone, mut done) = (Vec::new(), Vec::new(), 0);
        for (number, sample) in std::iter::once(target).chain(others).enumerate() {
            let set = self.gate_set(sample, &serving, candidate, (done, total), report).await?;
            done += sample.faces.len();
            match set {
                // Without its faces nobody can tell; of the target, the gate says so.
                None if number > 0 => gone.push(sample.gallery.name.clone()),
                set => sets.push(set.unwrap_or_else(|| {
                    GateSet::new((&sample.gallery.name, RatesInUse::of_fpir(serving.fpir, 1)), &[], vec![], vec![])
                })),
            }
        }
        let decide = move || {
            let sets: Vec<GateSet> = sets.into_iter().collect::<Result<_, EvaluationError>>()?;
            let (target, others) = sets.split_first().ok_or(EvaluationError::NoGenuinePair)?;
            Gate::default().decide(target, others)
        };
        let verdict = tokio::task::spawn_blocking(decide).await.map_err(|error| Failure::Passing(error.to_string()))?;
        told(verdict, serving.name(), by_lot.then_some(others.len()), gone)
    }

    /// Some faces of each protected gallery.
    pub(super) async fn protected_faces(&self, galleries: &[GalleryRef]) -> Result<Vec<Sample>, Failure> {
        let each =
            (MOST_PEOPLE / galleries.len().max(1) as u32).clamp(MOST_PEOPLE / MOST_PROTECTED as u32, MOST_PEOPLE / 3);
        let mut samples = Vec::with_capacity(galleries.len());
        for gallery in galleries {
            let faces = self.galleries().sample_of_faces(gallery.id, each, MOST_OF_ONE_PROTECTED).await;
            samples.push(Sample { gallery: gallery.clone(), faces: faces.map_err(ServiceError::from)? });
        }
        Ok(samples)
    }

    /// Embeds the faces of a gallery by both models, if it is still there.
    async fn gate_set(
        &self,
        sample: &Sample,
        serving: &Serving,
        candidate: &Loaded,
        (done, total): (usize, usize),
        report: &mut JobReporter<'_>,
    ) -> Result<Option<Result<GateSet, EvaluationError>>, Failure> {
        let gallery = match self.galleries().find_gallery(&sample.gallery.id.to_string()).await {
            Ok(gallery) => gallery,
            Err(GalleryError::GalleryNotFound(_)) => return Ok(None),
            Err(error) => return Err(ServiceError::from(error).into()),
        };
        let rates = self.recognition().rates_in_use(serving, &gallery).await?;
        let (mut subjects, mut photos) = (Numbers::default(), Numbers::default());
        let (mut shown, mut vectors) = (Vec::new(), [Vec::new(), Vec::new()]);
        for (number, piece) in sample.faces.chunks(PIECE).enumerate() {
            // Erased faces are left out.
            let (known, chips): (Vec<(KnownFace, PhotoId)>, Vec<Chip>) =
                self.chips_of(piece).await?.into_iter().unzip();
            for (vectors, model) in vectors.iter_mut().zip([&serving.loaded, candidate]) {
                vectors.extend(self.vectors(model, &chips).await?);
            }
            let of = |(face, photo): &(KnownFace, PhotoId)| Shown {
                subject: subjects.of(face.subject),
                photo: photos.of(*photo),
            };
            shown.extend(known.iter().map(of));
            report.check()?;
            let done = done + number * PIECE + piece.len();
            report.progress(json!({"stage": "gate", "done": done, "total": total})).await?;
        }
        let [active, candidate] = vectors;
        Ok(Some(GateSet::new((&sample.gallery.name, rates), &shown, active, candidate)))
    }

    async fn chips_of(&self, faces: &[KnownFace]) -> Result<Vec<((KnownFace, PhotoId), Chip)>, Failure> {
        let ids: Vec<FaceId> = faces.iter().map(|face| face.face).collect();
        let stored = self.galleries().chips_of(&ids).await.map_err(ServiceError::from)?.into_iter();
        let mut stored: HashMap<FaceId, StoredChip> = stored.map(|chip| (chip.face, chip)).collect();
        let found: Vec<((KnownFace, PhotoId), Vec<u8>)> = faces
            .iter()
            .filter_map(|face| stored.remove(&face.face).map(|chip| ((*face, chip.photo), chip.jpeg)))
            .collect();
        let chips: Result<Vec<_>, vision::ChipError> = patiently(|| {
            let jpegs = found.clone();
            let decode = move || jpegs.iter().map(|(face, jpeg)| Ok((*face, vision::decode_chip(jpeg)?))).collect();
            async { Ok(self.parts.engine.on_cpu(Step::Chips, decode).await?) }
        })
        .await?;
        chips.map_err(|error| Failure::Final(format!("a stored chip: {error}")))
    }

    async fn vectors(&self, model: &Loaded, chips: &[Chip]) -> Result<Vec<Vec<f32>>, Failure> {
        let recognition = self.recognition();
        let embeddings = patiently(|| recognition.embeddings(model, chips.to_vec())).await?;
        Ok(embeddings.iter().map(|embedding| embedding.as_slice().to_vec()).collect())
    }
}

/// The faces of some subjects of a gallery, of as many subjects as there is room for.
fn of_subjects(gallery: GalleryId, faces: &Faces, subjects: &[SubjectId]) -> Vec<KnownFace> {
    let mut chosen = Vec::new();
    let subjects = subjects.iter().copied().collect();
    for (subject, faces) in faces.of(&subjects) {
        if chosen.len() + faces.len() <= MOST_FACES {
            chosen.extend(faces.iter().map(|face| KnownFace { gallery, subject, face: *face }));
        }
    }
    chosen
}

/// What the gate said, for the database. `of_many`: so many protected galleries were chosen of more.
fn told(
    verdict: Result<Verdict, EvaluationError>,
    active: &str,
    of_many: Option<usize>,
    gone: Vec<String>,
) -> Result<GateVerdict, Failure> {
    let mut verdict = match verdict {
        Ok(verdict) => verdict,
        Err(error) => {
            let reasons = vec![format!("the candidate cannot be compared with the active model: {error}")];
            return Ok(GateVerdict::new(GateOutcome::Refused, reasons, json!({"compared_with": active})));
        }
    };
    if let Some(galleries) = of_many {
        verdict.notes.push(format!(
            "{galleries} protected galleries were looked at: the largest, and others by lot; there are more"
        ));
    }
    verdict
        .notes
        .extend(gone.iter().map(|name| format!("the gallery {name:?} is gone, and protects nothing any more")));
    let mut figures = serde_json::to_value(&verdict).map_err(|error| Failure::Final(error.to_string()))?;
    figures["compared_with"] = active.into();
    Ok(GateVerdict::new(verdict.outcome, verdict.reasons, figures))
}

/// Numbers ids from 0 as they come.
struct Numbers<T>(HashMap<T, usize>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + std::hash::Hash> Numbers<T> {
    fn of(&mut self, id: T) -> usize {
        let next = self.0.len();
        *self.0.entry(id).or_insert(next)
    }
}
