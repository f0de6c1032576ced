//! Following the database's word on which model is active: every server does, those that promote nothing as well.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::serving::{Serving, Target};
use super::{ServiceError, Services};
use crate::registry::Model;

/// How often the database is asked without being told to.
const INTERVAL: Duration = Duration::from_secs(2);

impl Services {
    /// Serves the model that the database says is active, for as long as the service lives.
    pub(super) async fn keep_following(self) {
        let mut told = self.0.registry.subscribe();
        loop {
            told.mark_unchanged();
            if let Err(error) = self.follow().await {
                metrics::counter!("faceid_follow_failures_total").increment(1);
                warn!(%error, model = %self.model_name(), "cannot follow the active model; still serving the former");
            }
            tokio::select! {
                _ = told.changed() => self.0.faces_came.notify_one(),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Brings what this server holds ready in line with the database.
    pub(super) async fn follow(&self) -> Result<(), ServiceError> {
        let _only_one = self.0.following.lock().await;
        let lineup = self.0.registry.lineup().await?;
        let serving = self.serving();
        if lineup.active.id == serving.id() {
            self.0.stage.describe_anew(&lineup.active, &self.0.recognition);
        } else {
            // It is at hand if it was the target here.
            let loaded = self.load(&lineup.active).await?;
            let next = self.prepare(loaded).await;
            info!(former = %serving.name(), model = %next.name(), "another model answers from now on");
            self.0.stage.replace(next).await;
            self.0.faces_came.notify_one();
        }
        self.follow_target(lineup.target).await;
        Ok(())
    }

    /// Without the target, enrolments of this server are embedded later, by their chips.
    async fn follow_target(&self, target: Option<Model>) {
        let known = self.0.stage.target();
        let Some(target) = target else {
            self.0.stage.set_target(None);
            return;
        };
        match self.end_orphaned(&target).await {
            Ok(false) => {}
            Ok(true) => {
                self.0.stage.set_target(None);
                return;
            }
            Err(error) => warn!(%error, "cannot look whether a promotion goes on"),
        }
        if known.is_some_and(|known| known.is(&target)) {
            return;
        }
        // It is at hand if it was the target already.
        match self.load(&target).await {
            Ok(loaded) => {
                let serving = Serving::without_memory(&self.0.galleries, loaded, &self.0.recognition);
                self.0.stage.set_target(Some(Target { serving: Arc::new(serving), shadow: target.shadow }));
            }
            Err(error) => {
                self.0.stage.set_target(None);
                warn!(%error, model = %target.name, "cannot load the model that faces are to be embedded by as well");
            }
        }
    }
}
