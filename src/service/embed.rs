//! Detection and embedding without a gallery.

use tracing::{Instrument, debug_span};

use super::answers::{Detected, Embedded, EmbeddedFace};
use super::{PhotoBytes, PhotoFace, ServiceError, Services};
use crate::types::{Chip, Embedding};

/// A photo to look at, without a gallery.
pub struct PhotoRequest {
    pub image: PhotoBytes,
    /// Only so many faces, the largest.
    pub most_faces: usize,
}

impl Services {
    /// Finds the faces of a photo; none is an empty list.
    pub async fn detect(&self, request: PhotoRequest) -> Result<Detected, ServiceError> {
        let _admitted = self.admit()?;
        let photo = self.0.photos.read(request.image, request.most_faces).await?;
        let faces = photo.faces.iter().map(PhotoFace::found).collect();
        Ok(Detected { width: photo.width, height: photo.height, faces })
    }

    /// Embeds the faces of a photo; none is an error.
    pub async fn embed(&self, request: PhotoRequest) -> Result<Embedded, ServiceError> {
        let _admitted = self.admit()?;
        let photo = self.0.photos.read(request.image, request.most_faces).await?.not_empty()?;
        let embeddings = self.embeddings(photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;
        let faces = photo.faces.iter().zip(embeddings);
        Ok(Embedded {
            model: self.model_name().to_owned(),
            dimension: self.0.engine.dimension(),
            faces: faces
                .map(|(face, embedding)| EmbeddedFace { face: face.found(), embedding: embedding.as_slice().to_vec() })
                .collect(),
        })
    }

    /// One embedding per chip, in order.
    pub(super) async fn embeddings(&self, chips: Vec<Chip>) -> Result<Vec<Embedding>, ServiceError> {
        Ok(self.0.engine.embed(chips).instrument(debug_span!("embed")).await?)
    }

    /// The embedding of one chip.
    pub(super) async fn embedding(&self, chip: Chip) -> Result<Embedding, ServiceError> {
        let embedding = self.embeddings(vec![chip]).await?.pop();
        embedding.ok_or_else(|| ServiceError::Internal("the engine gave no embedding for a chip".to_owned()))
    }
}
