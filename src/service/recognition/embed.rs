//! Detection and embedding without a gallery.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tracing::{Instrument, debug_span};

use super::{Loaded, Recognition, Serving};
use crate::service::ServiceError;
use crate::service::answers::{Detected, DetectedFace, Embedded, EmbeddedFace};
use crate::service::requests::{DetectRequest, EmbedBatchRequest, Extra, FileBytes};
use crate::types::{Chip, Embedding, Landmarks, Point};
use crate::vision::{self, Wanted};

impl Recognition {
    /// Finds the faces of a photo; none is an empty list.
    pub async fn detect(&self, request: DetectRequest) -> Result<Detected, ServiceError> {
        let _admitted = self.admit()?;
        let wanted = request.wanted();
        let photo = self.parts.photos.read("image", request.image.0, wanted, wanted.faces, &self.bill()).await?;
        let chips = self.shown_chips(&photo.faces, &request.returned).await?;
        let embeddings = match request.returned.contains(&Extra::Embedding) {
            true => {
                self.embeddings(&self.serving().loaded, photo.faces.iter().map(|face| face.chip.clone()).collect())
                    .await?
            }
            false => Vec::new(),
        };
        let mut embeddings = embeddings.iter().map(|embedding| embedding.as_slice().to_vec());
        let faces = photo.faces.iter().zip(chips).map(|(face, chip)| DetectedFace {
            face: face.found(),
            chip,
            embedding: embeddings.next(),
        });
        let faces = faces.collect();
        Ok(Detected { width: photo.width, height: photo.height, searched: photo.searched.into(), faces })
    }

    /// Embeds the faces of a photo; none is an error.
    pub async fn embed(&self, request: DetectRequest) -> Result<Embedded, ServiceError> {
        let _admitted = self.admit()?;
        let wanted = request.wanted();
        self.embed_photo(&self.serving(), "image", request.image.0, wanted, &request.returned).await
    }

    /// Embeds the faces of several photos, all by one model; one that fails does not fail the rest.
    pub async fn embed_batch(
        &self,
        request: EmbedBatchRequest,
    ) -> Result<Vec<Result<Embedded, ServiceError>>, ServiceError> {
        let admitted = self.admit_batch(request.images.0.len())?;
        let (serving, wanted) = (self.serving(), request.wanted());
        let each = |image: FileBytes| self.embed_photo(&serving, "images", image.0, wanted, &request.returned);
        Ok(stream::iter(request.images.0).map(each).buffered(admitted.num_permits()).collect().await)
    }

    async fn embed_photo(
        &self,
        serving: &Serving,
        field: &'static str,
        image: Bytes,
        wanted: Wanted,
        returned: &[Extra],
    ) -> Result<Embedded, ServiceError> {
        let photo = self.parts.photos.read(field, image, wanted, wanted.faces, &self.bill()).await?.not_empty()?;
        let embeddings =
            self.embeddings(&serving.loaded, photo.faces.iter().map(|face| face.chip.clone()).collect()).await?;
        let chips = self.shown_chips(&photo.faces, returned).await?;
        let faces = photo.faces.iter().zip(embeddings).zip(chips);
        let threshold = serving.calibration().threshold.get();
        Ok(Embedded {
            model: serving.name().to_owned(),
            dimension: serving.loaded.embedder.dimension(),
            searched: photo.searched.into(),
            faces: faces
                .map(|((face, embedding), chip)| EmbeddedFace {
                    face: face.found(),
                    usability: serving.usability(face, &embedding, threshold),
                    embedding: embedding.as_slice().to_vec(),
                    chip,
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
        Ok(self.parts.engine.embed(&loaded.embedder, chips).instrument(debug_span!("embed")).await?)
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
