//! Following the database's word on which model is active: every server does, those that promote nothing as well.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Models;
use crate::registry::Model;
use crate::service::ServiceError;
use crate::service::recognition::Secondary;

/// How often the database is asked without being told to.
const INTERVAL: Duration = Duration::from_secs(2);

impl Models {
    /// Serves the model that the database says is active, for as long as the service lives.
    pub(in crate::service) async fn keep_following(self) {
        let mut told = self.parts.registry.subscribe();
        loop {
            told.mark_unchanged();
            if let Err(error) = self.follow().await {
                metrics::counter!("faceid_follow_failures_total").increment(1);
                warn!(%error, model = %self.recognition().model_name(), "cannot follow the active model; still serving the former");
            }
            tokio::select! {
                _ = told.changed() => self.parts.faces_came.notify_one(),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Brings what this server holds ready in line with the database.
    pub(in crate::service) async fn follow(&self) -> Result<(), ServiceError> {
        let _only_one = self.parts.following.lock().await;
        let lineup = self.parts.registry.lineup().await?;
        let serving = self.recognition().serving();
        if lineup.active.id == serving.id() {
            self.recognition().served().describe_anew(&lineup.active, self.recognition().config());
        } else {
            // It is at hand if it was the secondary model here.
            let loaded = self.load(&lineup.active).await?;
            let next = self.prepare(loaded).await;
            info!(former = %serving.name(), model = %next.name(), "another model answers from now on");
            self.recognition().served().replace(next).await;
            self.parts.faces_came.notify_one();
        }
        self.follow_secondary(lineup.secondary).await;
        Ok(())
    }

    /// Without the secondary model, enrolments of this server are embedded later, by their chips.
    async fn follow_secondary(&self, secondary: Option<Model>) {
        let recognition = self.recognition();
        let served = recognition.served();
        let Some(secondary) = secondary else {
            served.set_secondary(None);
            return;
        };
        match self.end_orphaned(&secondary).await {
            Ok(false) => {}
            Ok(true) => {
                served.set_secondary(None);
                return;
            }
            Err(error) => warn!(%error, "cannot look whether a promotion goes on"),
        }
        if served.secondary().is_some_and(|known| known.is(&secondary)) {
            return;
        }
        // It is at hand if it was the secondary model already.
        match self.load(&secondary).await {
            Ok(loaded) => {
                let serving = self.prepare_beside(loaded);
                served.set_secondary(Some(Secondary { serving: Arc::new(serving), shadow: secondary.shadow }));
            }
            Err(error) => {
                served.set_secondary(None);
                warn!(%error, model = %secondary.name, "cannot load the model that faces are to be embedded by as well");
            }
        }
    }
}
