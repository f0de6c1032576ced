//! Retiring models, whether or not somebody waits until all their embeddings are deleted.

use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::answers::Retired;
use super::{ServiceError, Services};
use crate::gallery::Turn;
use crate::registry::{Actor, Model, ModelState};

/// How often is looked for retirements that were broken off.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

impl Services {
    /// Deletes a model's embeddings and its file. `force` takes even the one that a rollback would make active. Goes on if
    /// the caller leaves; if it is broken off all the same, a server finishes it when it starts.
    pub async fn retire_model(&self, model: &str, force: bool, actor: Actor) -> Result<Retired, ServiceError> {
        let model = self.find_model(model).await?;
        let (mut answer, answered) = oneshot::channel();
        let services = self.clone();
        tokio::spawn(async move {
            let mut closing = services.0.closing.subscribe();
            let forsaken = async {
                let _ = closing.wait_for(|closing| *closing).await;
                answer.closed().await;
            };
            let retired = tokio::select! {
                retired = services.retire(&model, force, actor) => retired,
                () = forsaken => return,
            };
            if let Err(Err(error)) = answer.send(retired) {
                warn!(%error, model = %model.name, "cannot retire a model; what was begun is finished later");
            }
        });
        answered.await.map_err(|_| ServiceError::Internal("retiring a model panicked".to_owned()))?
    }

    async fn retire(&self, model: &Model, force: bool, actor: Actor) -> Result<Retired, ServiceError> {
        let retired = self.0.registry.retire(model.id, force, actor).await?;
        self.0.models.delete_unneeded(&model.sha256).await?;
        self.settle().await;
        Ok(Retired { model: model.name.clone(), embeddings: retired.embeddings, lost_faces: retired.lost_faces })
    }

    /// Finishes retirements that were broken off, for as long as the service lives.
    pub(super) async fn keep_retiring(self) {
        loop {
            if let Err(error) = self.finish_retirements().await {
                warn!(%error, "cannot delete what is left of retired models; trying again later");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn finish_retirements(&self) -> Result<(), ServiceError> {
        let Some(_turn) = self.0.galleries.take_turn(Turn::Retirement).await? else { return Ok(()) };
        let models = self.0.registry.list().await?;
        for model in models.into_iter().filter(|model| model.state == ModelState::Retired) {
            let rest = self.0.registry.delete_embeddings(model.id).await?;
            if rest.embeddings > 0 {
                self.0.models.delete_unneeded(&model.sha256).await?;
                info!(model = %model.name, embeddings = rest.embeddings, "deleted what was left of a retired model");
            }
        }
        Ok(())
    }
}
