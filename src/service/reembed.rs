//! Bringing a gallery to another embedder: every face keeps its chip, so no photo is needed again.

use std::time::Instant;

use super::background::{PIECE, patiently, rest};
use super::serving::Loaded;
use super::{ServiceError, Services};
use crate::engine::Step;
use crate::types::FaceId;
use crate::vision;

/// Chips per round trip to the database.
const CHUNK: u32 = 128;

impl Services {
    /// Embeds every face that has a chip but no embedding of the model, for a share of the time. `progress` hears how many
    /// are done of how many. Can be broken off and begun again: what has an embedding is left out.
    pub(super) async fn embed_missing(
        &self,
        loaded: &Loaded,
        share: f64,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<u64, ServiceError> {
        let model = loaded.model.id;
        let total = self.0.galleries.count_missing_embeddings(model).await?;
        let mut done = 0;
        // Of a pass from the start; faces that come meanwhile may have smaller ids.
        let mut after: Option<FaceId> = None;
        progress(done, total);
        loop {
            let missing = self.0.galleries.missing_embeddings(model, after, CHUNK).await?;
            let Some((last, _)) = missing.last() else {
                match after.take() {
                    Some(_) => continue,
                    None => break,
                }
            };
            after = Some(*last);
            for piece in missing.chunks(PIECE) {
                let began = Instant::now();
                patiently(|| self.embed_piece(loaded, piece)).await?;
                done += piece.len() as u64;
                progress(done, total.max(done));
                rest(began, share).await;
            }
        }
        self.settle().await;
        Ok(done)
    }

    async fn embed_piece(&self, loaded: &Loaded, piece: &[(FaceId, Vec<u8>)]) -> Result<(), ServiceError> {
        let (faces, jpegs): (Vec<FaceId>, Vec<Vec<u8>>) = piece.iter().cloned().unzip();
        let decode = move || jpegs.iter().map(|jpeg| vision::decode_chip(jpeg)).collect();
        let chips: Result<Vec<_>, _> = self.0.engine.on_cpu(Step::Chips, decode).await?;
        let chips = chips.map_err(|error| ServiceError::Internal(format!("a stored chip: {error}")))?;
        let embeddings = self.embeddings(loaded, chips).await?;
        let stored: Vec<_> = faces.into_iter().zip(embeddings).collect();
        self.0.galleries.store_embeddings(loaded.model.id, &stored).await?;
        Ok(())
    }
}
