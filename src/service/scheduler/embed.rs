//! Embedding faces by their chips: for another embedder, and those that came without an embedding. Every face keeps its chip, so
//! that no photo is needed again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::super::serving::Loaded;
use super::super::{ServiceError, Services};
use super::steps::{Progress, Step};
use super::{PIECE, patiently, rest};
use crate::engine::{EngineError, Step as EngineStep};
use crate::gallery::{Item, Work};
use crate::types::{Chip, FaceId, ModelId};
use crate::vision;

/// How often is looked for faces without an embedding, without being told to.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// A pass through all faces in search of those without an embedding of a model, by id; and another, until one finds nothing.
struct Pass {
    loaded: Loaded,
    after: Option<FaceId>,
    missing: VecDeque<FaceId>,
    /// Whether this pass found any.
    found: bool,
}

/// What was done for some faces.
#[derive(Default)]
struct Embedded {
    /// Faces that were looked at.
    faces: u64,
    /// Those that could not be embedded.
    set_aside: u64,
}

impl Pass {
    fn new(loaded: Loaded) -> Self {
        Self { loaded, after: None, missing: VecDeque::new(), found: false }
    }

    /// Embeds the next few faces, or looks for more. `None`: nothing is left.
    async fn go_on(&mut self, services: &Services) -> Result<Option<Embedded>, ServiceError> {
        if self.missing.is_empty() {
            let (missing, last) = services.0.galleries.missing_embeddings(self.loaded.model.id, self.after).await?;
            self.found |= !missing.is_empty();
            (self.missing, self.after) = (missing.into(), last);
            // Faces that came meanwhile may have smaller ids than those that were found.
            let goes_on = last.is_some() || std::mem::take(&mut self.found);
            return Ok(goes_on.then(Embedded::default));
        }
        let piece: Vec<FaceId> = self.missing.iter().take(PIECE).copied().collect();
        let embedded = services.embed_faces(&self.loaded, &piece).await?;
        self.missing.drain(..piece.len());
        Ok(Some(embedded))
    }
}

/// The job that embeds what came without an embedding of the active model, or of the one in the shadow.
#[derive(Default)]
pub(super) struct Embedding {
    pass: Option<Pass>,
    /// Models that were seen to the end since the last look.
    complete: Vec<ModelId>,
    done: u64,
    total: Option<u64>,
}

impl Embedding {
    pub async fn step(&mut self, services: &Services) -> Result<Step, ServiceError> {
        let shadow = services.0.stage.target().filter(|target| target.shadow.is_some()).map(|target| target.serving);
        let wanted: Vec<Loaded> =
            [Some(services.serving()), shadow].into_iter().flatten().map(|serving| serving.loaded.clone()).collect();
        // Another model may answer by now.
        self.pass.take_if(|pass| wanted.iter().all(|loaded| loaded.model.id != pass.loaded.model.id));
        let next = wanted.into_iter().find(|loaded| !self.complete.contains(&loaded.model.id));
        let Some(pass) = &mut self.pass else {
            let Some(loaded) = next else {
                *self = Self::default();
                return Ok(Step::Idle(LOOK_INTERVAL));
            };
            self.pass = Some(Pass::new(loaded));
            return Ok(Step::More(Progress::new("looking", self.done, self.total)));
        };
        match pass.go_on(services).await? {
            Some(embedded) => {
                if self.total.is_none() && !pass.missing.is_empty() {
                    let missing = services.0.galleries.count_missing_embeddings(pass.loaded.model.id).await?;
                    self.total = Some(self.done + missing);
                }
                self.done += embedded.faces;
            }
            None => {
                self.complete.push(pass.loaded.model.id);
                self.pass = None;
                (self.done, self.total) = (0, None);
                services.settle().await;
            }
        }
        Ok(Step::More(Progress::new("embedding", self.done, self.total)))
    }
}

/// How many faces were embedded, and how many could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct EmbeddedAll {
    pub embedded: u64,
    pub set_aside: u64,
}

impl std::ops::Add for EmbeddedAll {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { embedded: self.embedded + more.embedded, set_aside: self.set_aside + more.set_aside }
    }
}

impl Services {
    /// Embeds every face that has a chip but no embedding of the model, for a share of the time. `progress` hears how many
    /// are done of how many. Can be broken off and begun again: what has an embedding is left out.
    pub(in super::super) async fn embed_missing(
        &self,
        loaded: &Loaded,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<EmbeddedAll, ServiceError> {
        let total = self.0.galleries.count_missing_embeddings(loaded.model.id).await?;
        let mut all = EmbeddedAll::default();
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
                rest(began, self.0.work.share).await;
            }
        }
        self.settle().await;
        Ok(all)
    }

    /// Embeds faces by their chips. What cannot be embedded is set aside.
    async fn embed_faces(&self, loaded: &Loaded, faces: &[FaceId]) -> Result<Embedded, ServiceError> {
        let jpegs = Arc::new(self.0.galleries.chips_to_embed(faces).await?);
        let decoded: Vec<(FaceId, Result<Chip, vision::ChipError>)> = patiently(|| {
            let jpegs = Arc::clone(&jpegs);
            let decode = move || jpegs.iter().map(|(face, jpeg)| (*face, vision::decode_chip(jpeg))).collect();
            async { Ok(self.0.engine.on_cpu(EngineStep::Chips, decode).await?) }
        })
        .await?;
        let (mut chips, mut spoiled) = (Vec::new(), Vec::new());
        for (face, chip) in decoded {
            match chip {
                Ok(chip) => chips.push((face, chip)),
                Err(error) => spoiled.push((face, format!("its chip cannot be decoded: {error}"))),
            }
        }
        let pixels = || chips.iter().map(|(_, chip)| chip.clone()).collect::<Vec<_>>();
        match patiently(|| self.embeddings(loaded, pixels())).await {
            Ok(embeddings) => {
                let stored: Vec<_> = chips.iter().map(|(face, _)| *face).zip(embeddings).collect();
                self.0.galleries.store_embeddings(loaded.model.id, &stored).await?;
            }
            Err(error) if is_of_input(&error) => spoiled.extend(self.embed_one_by_one(loaded, chips).await?),
            Err(error) => return Err(error),
        }
        for (face, reason) in &spoiled {
            warn!(%face, %reason, model = %loaded.model.name, "a face cannot be embedded; it is set aside");
            self.0.galleries.set_aside(Work::Embed, loaded.model.id, Item::Face(*face), reason).await?;
        }
        Ok(Embedded { faces: faces.len() as u64, set_aside: spoiled.len() as u64 })
    }

    /// Which of these cannot be embedded, and why. Fails if a face that is always the same cannot be embedded either.
    async fn embed_one_by_one(
        &self,
        loaded: &Loaded,
        chips: Vec<(FaceId, Chip)>,
    ) -> Result<Vec<(FaceId, String)>, ServiceError> {
        let mut spoiled = Vec::new();
        for (face, chip) in chips {
            match patiently(|| self.embedding(loaded, chip.clone())).await {
                Ok(embedding) => _ = self.0.galleries.store_embeddings(loaded.model.id, &[(face, embedding)]).await?,
                Err(error) if is_of_input(&error) => {
                    self.try_embedder(loaded).await?;
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
