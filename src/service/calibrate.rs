//! What the similarities of a model mean that came without figures: measured on enrolled faces, before it answers.

use serde_json::json;
use tracing::{info, warn};

use super::{ServiceError, Services};
use crate::evaluation::{Comparisons, EvaluationError, Faces, Plan, Resampling, Verification, verify};
use crate::registry::Actor;
use crate::types::{GalleryId, ModelId, StoredEmbedding};

/// Subjects with two faces from which on there is something to measure on.
const LEAST_SUBJECTS: usize = 10;

/// Subjects that are looked at, of all galleries together, and faces of each.
const MOST_SUBJECTS: u32 = 400;
const MOST_OF_ONE: u32 = 5;

/// Impostor pairs that are looked at; of more, as many are chosen at random.
const MOST_IMPOSTORS: usize = 200_000;

/// False match rates, as many of them as there are pairs for.
const RATES: [f64; 6] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];

const RESAMPLING: Resampling = Resampling { draws: 200, seed: 1 };

impl Services {
    /// Gives a model that has no rates those that enrolled faces show, which must be embedded by it; its threshold stays.
    /// With too few people it stays as it is. Who is enrolled under two names makes thresholds too high rather than too low.
    pub(super) async fn calibrate(&self, id: ModelId, actor: Actor) -> Result<(), ServiceError> {
        let model = self.0.registry.model(id).await?;
        let Some(manifest) = model.manifest.as_ref().filter(|manifest| !manifest.has_rates()) else { return Ok(()) };
        let faces = self.some_of_all_galleries(model.id).await?;
        let threshold = manifest.calibration().threshold.get();
        let measured = tokio::task::spawn_blocking(move || measure(&faces, threshold)).await;
        let figures = match measured.map_err(|panic| ServiceError::Internal(panic.to_string()))? {
            Ok(Some(figures)) if !figures.thresholds.is_empty() => figures,
            Ok(_) => return Ok(()),
            Err(error) => {
                warn!(%error, model = %model.name, "enrolled faces do not tell what the model's similarities mean");
                return Ok(());
            }
        };
        let manifest = manifest.measured(threshold.into(), &figures);
        let manifest = manifest.map_err(|error| ServiceError::Internal(error.to_string()))?;
        let details = json!({"genuine_pairs": figures.genuine_pairs, "impostor_pairs": figures.impostor_pairs});
        info!(model = %model.name, %details, "measured what the model's similarities mean");
        Ok(self.0.registry.calibrate(model.id, &manifest, actor, details).await?)
    }

    /// Faces of some subjects, by gallery and subject.
    async fn some_of_all_galleries(
        &self,
        model: ModelId,
    ) -> Result<Vec<(GalleryId, Vec<StoredEmbedding>)>, ServiceError> {
        let galleries = self.0.galleries.galleries_with_mated(2).await?;
        let each = (MOST_SUBJECTS / galleries.len().max(1) as u32).max(2);
        let mut subjects = Vec::new();
        for gallery in galleries {
            let sample = self.0.galleries.sample_of_embeddings(gallery.id, model, each, MOST_OF_ONE).await?;
            subjects.extend(sample.into_iter().map(|faces| (gallery.id, faces)));
        }
        Ok(subjects)
    }
}

/// `None` with too few people. Only faces of one gallery are compared, for nobody knows whether subjects of different ones are
/// one person.
fn measure(
    subjects: &[(GalleryId, Vec<StoredEmbedding>)],
    threshold: f32,
) -> Result<Option<Verification>, EvaluationError> {
    if subjects.iter().filter(|(_, faces)| faces.len() > 1).count() < LEAST_SUBJECTS {
        return Ok(None);
    }
    let (mut vectors, mut shown, mut galleries) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (gallery, faces)) in subjects.iter().enumerate() {
        for face in faces {
            vectors.push(face.as_slice().iter().map(|value| value.to_f32()).collect());
            shown.push(number);
            galleries.push(*gallery);
        }
    }
    let faces = Faces::new(vectors, shown)?;
    let same_gallery = |a: usize, b: usize| galleries[a] == galleries[b];
    let comparisons = Comparisons::of_faces_where(&faces, MOST_IMPOSTORS, RESAMPLING.seed, same_gallery)?;
    let plan = Plan {
        fars: Vec::new(),
        fmrs: RATES.to_vec(),
        fpirs: Vec::new(),
        ranks: Vec::new(),
        photos: 1,
        splits: 0,
        threshold,
        resampling: RESAMPLING,
    };
    Ok(Some(verify(&comparisons, &plan)))
}
