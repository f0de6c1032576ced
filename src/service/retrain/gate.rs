//! Whether the candidate is better than the active model: on subjects whom it never saw, and on the protected galleries.

use std::collections::HashMap;

use chrono::Utc;
use serde_json::{Value, json};

use super::super::background::{PIECE, patiently};
use super::super::report::Report;
use super::super::work::Failure;
use super::super::{Loaded, ServiceError, Services};
use super::chips::Faces;
use super::run::Plan;
use super::{GalleryRef, LEAST_KEPT, RetrainSettings};
use crate::engine::Step;
use crate::evaluation::{EvaluationError, Gate, GateSet, Shown};
use crate::gallery::{KnownFace, PhotoId, StoredChip};
use crate::registry::GateVerdict;
use crate::types::{Chip, FaceId, GalleryId, SubjectId};
use crate::vision;

/// Faces of a set at most, and of each subject of a protected gallery: enough for narrow intervals, and done in a minute.
pub(super) const MOST_FACES: usize = 2000;
pub(super) const MOST_OF_ONE: u32 = 10;

impl Services {
    /// Compares a candidate with the active model. `held_out` are subjects whom it was not trained on.
    pub(super) async fn judge(
        &self,
        candidate: &Loaded,
        plan: &Plan,
        held_out: &[SubjectId],
        settings: &RetrainSettings,
        report: &mut Report<'_>,
    ) -> Result<GateVerdict, Failure> {
        let target = of_subjects(settings.gallery.id, &plan.faces, held_out);
        let mut others = self.protected_faces(&settings.protected).await?;
        let kept = plan.kept.subjects();
        others.retain(|known| !kept.contains(&known.subject));
        self.judge_faces(candidate, &target, &others, report).await
    }

    /// Compares a candidate with the active model on faces where it is to be better, and on others where it must not be
    /// worse.
    pub(super) async fn judge_faces(
        &self,
        candidate: &Loaded,
        target: &[KnownFace],
        others: &[KnownFace],
        report: &mut Report<'_>,
    ) -> Result<GateVerdict, Failure> {
        let active = self.serving().loaded.clone();
        let total = target.len() + others.len();
        let target = self.gate_set(target, [&active, candidate], 0, total, report).await?;
        let done = total - others.len();
        let others = match others.is_empty() {
            true => None,
            false => Some(self.gate_set(others, [&active, candidate], done, total, report).await?),
        };
        let decide = move || {
            let (target, others) = (target?, others.transpose()?);
            Gate::default().decide(&target, others.as_ref())
        };
        let verdict = tokio::task::spawn_blocking(decide).await.map_err(|error| Failure::Passing(error.to_string()))?;
        Ok(match verdict {
            Ok(verdict) => {
                let figures = serde_json::to_value(&verdict).map_err(|error| Failure::Final(error.to_string()))?;
                let figures = with_active(figures, &active.model.name);
                GateVerdict { passed: verdict.promote, reasons: verdict.reasons, figures, at: Utc::now() }
            }
            Err(error) => {
                let reasons = vec![format!("the candidate cannot be compared with the active model: {error}")];
                let figures = with_active(json!({}), &active.model.name);
                GateVerdict { passed: false, reasons, figures, at: Utc::now() }
            }
        })
    }

    /// Some faces of each protected gallery that is still there.
    pub(super) async fn protected_faces(&self, galleries: &[GalleryRef]) -> Result<Vec<KnownFace>, Failure> {
        let each = (MOST_FACES / MOST_OF_ONE as usize / galleries.len().max(1)) as u32;
        let mut faces = Vec::new();
        for gallery in galleries {
            let subjects = each.max(LEAST_KEPT);
            let sample = self.0.galleries.sample_of_faces(gallery.id, subjects, MOST_OF_ONE).await;
            faces.extend(sample.map_err(ServiceError::from)?);
        }
        Ok(faces)
    }

    /// Embeds faces by both models.
    async fn gate_set(
        &self,
        faces: &[KnownFace],
        models: [&Loaded; 2],
        done: usize,
        total: usize,
        report: &mut Report<'_>,
    ) -> Result<Result<GateSet, EvaluationError>, Failure> {
        let (mut galleries, mut subjects, mut photos) = (Numbers::default(), Numbers::default(), Numbers::default());
        let (mut shown, mut vectors) = (Vec::new(), [Vec::new(), Vec::new()]);
        for (number, piece) in faces.chunks(PIECE).enumerate() {
            // Erased faces are left out.
            let (known, chips): (Vec<(KnownFace, PhotoId)>, Vec<Chip>) =
                self.chips_of(piece).await?.into_iter().unzip();
            for (vectors, model) in vectors.iter_mut().zip(models) {
                vectors.extend(self.vectors(model, &chips).await?);
            }
            shown.extend(known.iter().map(|(face, photo)| Shown {
                gallery: galleries.of(face.gallery),
                subject: subjects.of(face.subject),
                photo: photos.of(*photo),
            }));
            report.check()?;
            let done = done + number * PIECE + piece.len();
            report.progress(json!({"stage": "gate", "done": done, "total": total})).await?;
        }
        let [active, candidate] = vectors;
        Ok(GateSet::new(shown, active, candidate))
    }

    async fn chips_of(&self, faces: &[KnownFace]) -> Result<Vec<((KnownFace, PhotoId), Chip)>, Failure> {
        let ids: Vec<FaceId> = faces.iter().map(|face| face.face).collect();
        let stored = self.0.galleries.chips_of(&ids).await.map_err(ServiceError::from)?.into_iter();
        let mut stored: HashMap<FaceId, StoredChip> = stored.map(|chip| (chip.face, chip)).collect();
        let found: Vec<((KnownFace, PhotoId), Vec<u8>)> = faces
            .iter()
            .filter_map(|face| stored.remove(&face.face).map(|chip| ((*face, chip.photo), chip.jpeg)))
            .collect();
        let chips: Result<Vec<_>, vision::ChipError> = patiently(|| {
            let jpegs = found.clone();
            let decode = move || jpegs.iter().map(|(face, jpeg)| Ok((*face, vision::decode_chip(jpeg)?))).collect();
            async { Ok(self.0.engine.on_cpu(Step::Chips, decode).await?) }
        })
        .await?;
        chips.map_err(|error| Failure::Final(format!("a stored chip: {error}")))
    }

    async fn vectors(&self, model: &Loaded, chips: &[Chip]) -> Result<Vec<Vec<f32>>, Failure> {
        let embeddings = patiently(|| self.embeddings(model, chips.to_vec())).await?;
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

fn with_active(mut figures: Value, active: &str) -> Value {
    figures["compared_with"] = active.into();
    figures
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
