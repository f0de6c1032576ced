//! Embedding the faces that have no embedding of a model, by their chips: for another model, and those that came without one. Every
//! face keeps its chip, so that no photo is needed again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::Models;
use crate::engine::{EngineError, Step};
use crate::gallery::{ReadChips, SetAsideFrom, SetAsideItem};
use crate::service::ServiceError;
use crate::service::recognition::Loaded;
use crate::service::work::{PIECE, patiently, rest};
use crate::types::{Chip, FaceId};
use crate::vision;

/// A pass through all faces in search of those without an embedding of a model, by id; and another, until one finds nothing.
pub(in crate::service) struct Pass {
    pub loaded: Loaded,
    after: Option<FaceId>,
    missing: VecDeque<FaceId>,
    /// Whether this pass found any.
    found: bool,
}

/// What was done for some faces.
#[derive(Default)]
pub(in crate::service) struct EmbeddedPiece {
    /// Faces that were looked at.
    pub faces: u64,
    /// Those that could not be embedded.
    pub set_aside: u64,
}

impl Pass {
    pub fn new(loaded: Loaded) -> Self {
        Self { loaded, after: None, missing: VecDeque::new(), found: false }
    }

    /// Whether faces are known to be missing that were not embedded yet.
    pub fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Embeds the next few faces, or looks for more. `None`: nothing is left.
    pub async fn go_on(&mut self, models: &Models) -> Result<Option<EmbeddedPiece>, ServiceError> {
        if self.missing.is_empty() {
            let (missing, last) = models.galleries().missing_embeddings(self.loaded.model.id, self.after).await?;
            self.found |= !missing.is_empty();
            (self.missing, self.after) = (missing.into(), last);
            // Faces that came meanwhile may have smaller ids than those that were found.
            let goes_on = last.is_some() || std::mem::take(&mut self.found);
            return Ok(goes_on.then(EmbeddedPiece::default));
        }
        let piece: Vec<FaceId> = self.missing.iter().take(PIECE).copied().collect();
        let embedded = models.embed_faces(&self.loaded, &piece).await?;
        self.missing.drain(..piece.len());
        Ok(Some(embedded))
    }
}

/// How many faces were embedded, and how many could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::service) struct EmbeddedFaces {
    pub embedded: u64,
    pub set_aside: u64,
}

impl std::ops::Add for EmbeddedFaces {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { embedded: self.embedded + more.embedded, set_aside: self.set_aside + more.set_aside }
    }
}

impl Models {
    /// Embeds every face that has a chip but no embedding of the model, for a share of the time. `progress` hears how many
    /// are done of how many. Can be broken off and begun again: what has an embedding is left out.
    pub(in crate::service) async fn embed_missing(
        &self,
        loaded: &Loaded,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<EmbeddedFaces, ServiceError> {
        let total = self.galleries().count_missing_embeddings(loaded.model.id).await?;
        let mut all = EmbeddedFaces::default();
        progress(0, total);
        let mut pass = Pass::new(loaded.clone());
        loop {
            let began = Instant::now();
            let Some(embedded) = pass.go_on(self).await? else { break };
            all.embedded += embedded.faces - embedded.set_aside;
            all.set_aside += embedded.set_aside;
            if embedded.faces > 0 {
                let done = all.embedded + all.set_aside;
                progress(done, total.max(done));
                rest(began, self.parts.config.share).await;
            }
        }
        self.recognition().catch_up().await;
        Ok(all)
    }

    /// Embeds faces by their chips. What cannot be embedded is set aside.
    async fn embed_faces(&self, loaded: &Loaded, faces: &[FaceId]) -> Result<EmbeddedPiece, ServiceError> {
        let ReadChips { chips: jpegs, unreadable } = self.galleries().chips_to_embed(faces).await?;
        let jpegs = Arc::new(jpegs);
        let decoded: Vec<(FaceId, Result<Chip, vision::ChipError>)> = patiently(|| {
            let jpegs = Arc::clone(&jpegs);
            let decode = move || jpegs.iter().map(|(face, jpeg)| (*face, vision::decode_chip(jpeg))).collect();
            async { Ok(self.parts.engine.on_cpu(Step::Chips, decode).await?) }
        })
        .await?;
        let unreadable =
            unreadable.into_iter().map(|(face, error)| (face, format!("its chip cannot be read: {error}")));
        let (mut chips, mut spoiled) = (Vec::new(), unreadable.collect::<Vec<_>>());
        for (face, chip) in decoded {
            match chip {
                Ok(chip) => chips.push((face, chip)),
                Err(error) => spoiled.push((face, format!("its chip cannot be decoded: {error}"))),
            }
        }
        let recognition = self.recognition();
        let pixels = || chips.iter().map(|(_, chip)| chip.clone()).collect::<Vec<_>>();
        match patiently(|| recognition.embeddings(loaded, pixels())).await {
            Ok(embeddings) => {
                let stored: Vec<_> = chips.iter().map(|(face, _)| *face).zip(embeddings).collect();
                self.galleries().store_embeddings(loaded.model.id, &stored).await?;
            }
            Err(error) if is_of_input(&error) => spoiled.extend(self.embed_one_by_one(loaded, chips).await?),
            Err(error) => return Err(error),
        }
        for (face, reason) in &spoiled {
            warn!(%face, %reason, model = %loaded.model.name, "a face cannot be embedded; it is set aside");
            self.galleries().set_aside(SetAsideFrom::Embed, loaded.model.id, SetAsideItem::Face(*face), reason).await?;
        }
        Ok(EmbeddedPiece { faces: faces.len() as u64, set_aside: spoiled.len() as u64 })
    }

    /// Which of these cannot be embedded, and why. Fails if a face that is always the same cannot be embedded either.
    async fn embed_one_by_one(
        &self,
        loaded: &Loaded,
        chips: Vec<(FaceId, Chip)>,
    ) -> Result<Vec<(FaceId, String)>, ServiceError> {
        let (recognition, mut spoiled) = (self.recognition(), Vec::new());
        for (face, chip) in chips {
            match patiently(|| recognition.embedding(loaded, chip.clone())).await {
                Ok(embedding) => _ = self.galleries().store_embeddings(loaded.model.id, &[(face, embedding)]).await?,
                Err(error) if is_of_input(&error) => {
                    recognition.try_embedder(loaded).await?;
                    spoiled.push((face, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(spoiled)
    }
}

/// Whether what was to be embedded may be to blame.
fn is_of_input(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Engine(EngineError::Inference(_) | EngineError::Embedding(_) | EngineError::Panicked))
}
