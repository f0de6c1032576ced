//! The record of all that was asked and changed: read by those who may, written and sealed in the background.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::audit::{self, Entry, Filter};
use crate::config::AuditConfig;
use crate::db::PageRequest;
use crate::gallery::Galleries;
use crate::registry::Registry;
use crate::service::ServiceError;
use crate::service::answers::{AuditEntry, AuditHead, Page};
use crate::service::requests::AuditRequest;
use crate::types::{Caller, GalleryId, ModelId, Name, SubjectId, hex};

/// How often what came is sealed, by one of all servers.
const SEALED_EVERY: Duration = Duration::from_secs(1);

/// How often old entries are looked for.
const DROPPED_EVERY: Duration = Duration::from_secs(60);

/// The record, as a caller sees it. Cloning is cheap.
#[derive(Clone)]
pub struct Audit {
    parts: Arc<Parts>,
    caller: Caller,
}

struct Parts {
    audit: audit::Audit,
    all_galleries: Galleries,
    registry: Registry,
    /// `None`: entries are kept for ever.
    retention: Option<TimeDelta>,
}

impl Audit {
    pub fn new(audit: &audit::Audit, galleries: &Galleries, registry: &Registry, config: &AuditConfig) -> Self {
        let parts = Parts {
            audit: audit.clone(),
            all_galleries: galleries.clone(),
            registry: registry.clone(),
            retention: config.retention,
        };
        Self { parts: Arc::new(parts), caller: Caller::server() }
    }

    /// As it is for somebody.
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { parts: Arc::clone(&self.parts), caller }
    }

    /// What was asked and changed, latest first: what concerns the caller's galleries alone.
    pub async fn list(&self, request: &AuditRequest, page: PageRequest) -> Result<Page<AuditEntry>, ServiceError> {
        let filter = self.filter(request).await?;
        let page = self.parts.audit.within(self.caller.scope()).list(&filter, page).await?;
        Ok(page.into())
    }

    /// What is erased can still be asked for, by its id.
    pub async fn filter(&self, request: &AuditRequest) -> Result<Filter, ServiceError> {
        let id = |text: &str| Uuid::try_parse(text).ok();
        let gallery = match &request.gallery {
            None => None,
            Some(gallery) => Some(match id(gallery.as_str()) {
                Some(id) => GalleryId(id),
                None => self.parts.all_galleries.for_caller(&self.caller).gallery_id(gallery.as_str()).await?,
            }),
        };
        let model = match &request.model {
            None => None,
            Some(model) => Some(match id(model) {
                Some(id) => ModelId(id),
                None => self.parts.registry.find(model).await?.id,
            }),
        };
        let text = |name: &Option<Name>| name.as_ref().map(|name| name.as_str().to_owned());
        Ok(Filter {
            actor: text(&request.actor),
            action: text(&request.action),
            gallery,
            subject: request.subject.map(SubjectId),
            model,
            from: request.from,
            to: request.to,
        })
    }

    /// Where the chain ends.
    pub async fn head(&self) -> Result<AuditHead, ServiceError> {
        Ok(self.parts.audit.head().await?.into())
    }

    /// Notes that a request of the caller was refused, soon.
    pub fn note_refusal(&self, action: audit::Action, code: String) {
        self.parts.audit.gather_refusal(Entry::new(&self.caller.actor(), action).outcome(code));
    }

    /// Writes, seals and drops entries for as long as it is polled.
    pub async fn keep_up(self) {
        tokio::join!(self.parts.audit.clone().keep_writing(), self.keep_sealing());
    }

    async fn keep_sealing(&self) {
        let mut next_drop = Instant::now();
        loop {
            tokio::time::sleep(SEALED_EVERY).await;
            if let Err(error) = self.parts.audit.seal().await {
                warn!(%error, "cannot seal the audit; it is tried again");
                continue;
            }
            let Some(retention) = self.parts.retention.filter(|_| Instant::now() >= next_drop) else { continue };
            match self.parts.audit.drop_before(Utc::now() - retention).await {
                // A piece at a time, until all that is old is gone.
                Ok(true) => {}
                Ok(false) => next_drop = Instant::now() + DROPPED_EVERY,
                Err(error) => warn!(%error, "cannot drop old entries of the audit; it is tried again"),
            }
        }
    }

    /// Writes what was gathered: the server stops.
    pub async fn write_gathered(&self) {
        if let Err(error) = self.parts.audit.write_gathered().await {
            warn!(%error, "the last answers are not in the audit");
        }
    }
}

impl From<audit::Listed> for AuditEntry {
    fn from(audit::Listed { record, is_sealed, model, details }: audit::Listed) -> Self {
        Self {
            id: record.id,
            position: is_sealed.then_some(record.position),
            at: record.at,
            actor: record.actor,
            key_id: record.key_id,
            request_id: record.request_id,
            action: record.action,
            outcome: record.outcome,
            galleries: record.galleries,
            subjects: record.subjects,
            model_id: record.model_id,
            model,
            details,
            hash: is_sealed.then(|| hex(&record.hash.0)),
        }
    }
}

impl From<audit::Head> for AuditHead {
    fn from(head: audit::Head) -> Self {
        Self { position: head.position, hash: hex(&head.hash.0), at: head.at }
    }
}
