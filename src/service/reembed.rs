//! Bringing a gallery to another embedder: every face keeps its chip, so no photo is needed again.

use tracing::info;

use super::{ServiceError, Services};
use crate::engine::Step;
use crate::vision;

/// Chips per round trip to the database.
const CHUNK: u32 = 256;

impl Services {
    /// Embeds every face that has no embedding of the embedder in use. Can be stopped and started again.
    pub async fn embed_missing_faces(&self) -> Result<u64, ServiceError> {
        let total = self.0.galleries.count_missing_embeddings(self.0.model.id).await?;
        let mut done = 0;
        loop {
            let missing = self.0.galleries.missing_embeddings(self.0.model.id, None, CHUNK).await?;
            if missing.is_empty() {
                break;
            }
            let (faces, jpegs): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
            let chips =
                self.0.engine.on_cpu(Step::Chips, move || jpegs.iter().map(|jpeg| vision::decode_chip(jpeg)).collect());
            let chips: Result<Vec<_>, _> = chips.await?;
            let chips = chips.map_err(|error| ServiceError::Internal(format!("a stored chip: {error}")))?;
            let embeddings = self.embeddings(chips).await?;
            done += faces.len() as u64;
            let stored: Vec<_> = faces.into_iter().zip(embeddings).collect();
            self.0.galleries.store_embeddings(self.0.model.id, &stored).await?;
            info!(done, total, model = %self.model_name(), "embedding the faces that this embedder has not seen");
        }
        self.settle().await;
        Ok(done)
    }
}
