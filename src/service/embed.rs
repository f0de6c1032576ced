//! Detection and embedding without a gallery.

use tracing::{Instrument, debug_span};

use super::answers::{Detected, Embedded, EmbeddedFace};
use super::{Loaded, PhotoBytes, PhotoFace, ServiceError, Services};
use crate::types::{Chip, Embedding};
use crate::vision::Wanted;

/// A photo to look at, without a gallery.
pub struct PhotoRequest {
    pub image: PhotoBytes,
    /// Only so many faces are wanted, the largest.
    pub wanted: Wanted,
}

impl Services {
    /// Finds the faces of a photo; none is an empty list.
    pub async fn detect(&self, request: PhotoRequest) -> Result<Detected, ServiceError> {
        let _admitted = self.admit()?;
        let photo = self.0.photos.read(request.image, request.wanted, request.wanted.faces).await?;
        let faces = photo.faces.iter().map(PhotoFace::found).collect();
        Ok(Detected { width: photo.width, height: photo.height, searched: photo.searched.into(), faces })
    }

    /// Embeds the faces of a photo; none is an error.
    pub async fn embed(&self, request: PhotoRequest) -> Result<Embedded, ServiceError> {
        let _admitted = self.admit()?;
        let serving = self.serving();
        let photo = self.0.photos.read(request.image, request.wanted, request.wanted.faces).await?.not_empty()?;
        let embeddings =
            self.embeddings(&serving.loaded, photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;
        let faces = photo.faces.iter().zip(embeddings);
        let threshold = serving.calibration().threshold.get();
        Ok(Embedded {
            model: serving.name().to_owned(),
            dimension: serving.loaded.embedder.dimension(),
            searched: photo.searched.into(),
            faces: faces
                .map(|(face, embedding)| EmbeddedFace {
                    face: face.found(),
                    usability: serving.usability(face, &embedding, threshold),
                    embedding: embedding.as_slice().to_vec(),
                })
                .collect(),
        })
    }

    /// One embedding of a model per chip, in order.
    pub(super) async fn embeddings(&self, loaded: &Loaded, chips: Vec<Chip>) -> Result<Vec<Embedding>, ServiceError> {
        Ok(self.0.engine.embed(&loaded.embedder, chips).instrument(debug_span!("embed")).await?)
    }

    /// The embedding of one chip.
    pub(super) async fn embedding(&self, loaded: &Loaded, chip: Chip) -> Result<Embedding, ServiceError> {
        let embedding = self.embeddings(loaded, vec![chip]).await?.pop();
        embedding.ok_or_else(|| ServiceError::Internal("the engine gave no embedding for a chip".to_owned()))
    }
}
