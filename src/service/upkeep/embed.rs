//! The job that embeds the faces that came without an embedding.

use std::time::Duration;

use super::Upkeep;
use super::scheduler::{Progress, Step};
use crate::service::ServiceError;
use crate::service::models::Pass;
use crate::service::recognition::Loaded;
use crate::types::ModelId;

/// How often is looked for faces without an embedding, without being told to.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

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
    pub async fn step(&mut self, upkeep: &Upkeep) -> Result<Step, ServiceError> {
        let recognition = &upkeep.recognition();
        let secondary = recognition.served().secondary().filter(|secondary| secondary.shadow.is_some());
        let shadow = secondary.map(|secondary| secondary.serving);
        let wanted = [Some(recognition.serving()), shadow].into_iter().flatten();
        let wanted: Vec<Loaded> = wanted.map(|serving| serving.loaded.clone()).collect();
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
        match pass.go_on(&upkeep.models()).await? {
            Some(embedded) => {
                if self.total.is_none() && pass.has_missing() {
                    let missing = upkeep.galleries().count_missing_embeddings(pass.loaded.model.id).await?;
                    self.total = Some(self.done + missing);
                }
                self.done += embedded.faces;
            }
            None => {
                self.complete.push(pass.loaded.model.id);
                self.pass = None;
                (self.done, self.total) = (0, None);
                upkeep.recognition().catch_up().await;
            }
        }
        Ok(Step::More(Progress::new("embedding", self.done, self.total)))
    }
}
