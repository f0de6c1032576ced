//! Detection and embedding without a gallery.

use tracing::{Instrument, debug_span};

use super::{Loaded, PhotoBytes, PhotoFace, Recognition};
use crate::service::ServiceError;
use crate::service::answers::{Detected, Embedded, EmbeddedFace};
use crate::types::{Chip, Embedding, Landmarks, Point};
use crate::vision::{self, Wanted};

/// A photo to look at, without a gallery.
pub struct PhotoRequest {
    pub image: PhotoBytes,
    /// Only so many faces are wanted, the largest.
    pub wanted: Wanted,
}

impl Recognition {
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
    pub(in crate::service) async fn embeddings(
        &self,
        loaded: &Loaded,
        chips: Vec<Chip>,
    ) -> Result<Vec<Embedding>, ServiceError> {
        Ok(self.0.engine.embed(&loaded.embedder, chips).instrument(debug_span!("embed")).await?)
    }

    /// The embedding of one chip.
    pub(in crate::service) async fn embedding(&self, loaded: &Loaded, chip: Chip) -> Result<Embedding, ServiceError> {
        let embedding = self.embeddings(loaded, vec![chip]).await?.pop();
        embedding.ok_or_else(|| ServiceError::Internal("the engine gave no embedding for a chip".to_owned()))
    }

    /// Aligns and embeds a face that is always the same.
    pub(in crate::service) async fn try_embedder(&self, loaded: &Loaded) -> Result<(), ServiceError> {
        self.embedding(loaded, fixed_chip()?).await.map(drop)
    }
}

/// Cut out of a picture with some structure; any would do.
fn fixed_chip() -> Result<Chip, ServiceError> {
    let side = 2 * Chip::SIDE;
    let image = image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let landmarks = [(84.0, 104.0), (138.0, 102.0), (112.0, 136.0), (88.0, 164.0), (134.0, 162.0)];
    let landmarks = Landmarks::from(landmarks.map(|(x, y)| Point { x, y }));
    vision::align(&image, &landmarks).map_err(|error| ServiceError::Internal(error.to_string()))
}
