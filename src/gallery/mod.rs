//! Galleries, their subjects and faces, enrolment, search and erasure: all SQL about them is here.
//!
//! A gallery and a subject are addressed by id or by name; where a text could be either, the id wins.

mod approximate;
mod changes;
mod chip_keys;
mod chips;
mod embeddings;
mod enroll;
mod erasure;
mod error;
mod faces;
mod findings;
mod galleries;
mod metadata;
mod noting;
mod numbered;
mod person;
mod policy;
mod quarantine;
mod quota;
mod rates;
mod retention;
mod retirement;
mod review;
mod revision;
mod search;
mod stored;
mod subjects;
#[cfg(test)]
mod tests;
mod training;
mod transfer;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::db::{Notifications, Pool, Pools};
use crate::sealing::Keyring;
use crate::types::{Actor, Caller, GalleryId, ModelId, Scope, SubjectId, nfc};

pub use approximate::{IndexDue, SearchIndex};
pub use changes::{CHANGES_KEPT, Changes, Feed, Template};
pub use chip_keys::{ChipsDone, KeysUnder};
pub use chips::ReadChips;
pub use enroll::{Duplicate, Enrolled, Enrolment, Mismatch, NewFace, OnDoubt};
pub use erasure::{
    Erased, ErasedFaces, Erasure, Hidden, HiddenSubjects, LastReclaim, Many, Matching, Piece, Place, Reclaim,
    ReclaimState,
};
pub use error::GalleryError;
pub use faces::{Face, FoundIn};
pub use findings::{Finding, FindingKind, FindingsRequest, NewFinding};
pub use galleries::{DEFAULT_GALLERY, DEFAULT_GALLERY_NAME, Gallery, GalleryChange, GalleryContents};
pub use metadata::Metadata;
pub use numbered::NumberedPage;
pub use person::{FaceEmbedding, FindingAbout, SetAsideAbout, SubjectTemplate};
pub use policy::Policy;
pub use quarantine::{SetAside, SetAsideFrom, SetAsideItem};
pub use rates::{GallerySize, MeasuredRates};
pub use retention::{Expired, Kept, Overdue, Retention};
pub use retirement::{Retirement, RetirementPlace};
pub use review::{DueSubject, FaceToReview, ReviewBatch, ReviewProgress};
pub use revision::{Expected, Revision};
pub use stored::Known;
pub use subjects::{Subject, SubjectChange, SubjectFilter};
pub use training::{KnownFace, PhotoId, StoredChip, TrainingStock};
pub use transfer::{FaceRecord, Ids, Intake, IntakeError, Record, Snapshot, Stored, SubjectRecord};

/// Everything about the galleries of a scope in one database. Cheap to clone.
///
/// Whoever resolves a name or an id of a gallery, subject or face here finds those of the scope alone; others are not there. What
/// takes the id of a gallery has it from such a look-up.
#[derive(Debug, Clone)]
pub struct Galleries {
    scope: Scope,
    /// Whom the audit names.
    actor: Actor,
    pool: Pool,
    /// For what follows changes, and for work in the background.
    beside: PgPool,
    notifications: Notifications,
    /// Of the models that were asked for; a model never changes its dimension.
    dimensions: Arc<Mutex<HashMap<ModelId, usize>>>,
    /// The master keys that wrap the keys of chips.
    keyring: Keyring,
}

impl Galleries {
    /// Without a master key: for what neither reads nor stores chips. Whatever does is given them by [`Self::open`].
    pub fn new(pools: &Pools) -> Self {
        let Pools { requests: pool, beside, notifications } = pools.clone();
        let actor = Caller::server().actor();
        let (dimensions, keyring) = (Arc::default(), Keyring::default());
        Self { scope: Scope::All, actor, pool, beside, notifications, dimensions, keyring }
    }

    /// As somebody sees and changes them.
    pub fn for_caller(&self, caller: &Caller) -> Self {
        Self { scope: caller.scope().clone(), actor: caller.actor(), ..self.clone() }
    }

    /// The ids of the scope, for a statement; null: of all galleries.
    fn scope(&self) -> Option<Vec<Uuid>> {
        ids_of(&self.scope)
    }

    /// Whether the database answers at all.
    pub async fn ping(&self) -> Result<(), GalleryError> {
        Ok(crate::db::ping(&self.pool).await?)
    }

    /// [`dimension_of`], asked once for each model.
    async fn known_dimension(&self, connection: &mut PgConnection, model: ModelId) -> Result<usize, GalleryError> {
        let known = || self.dimensions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dimension) = known().get(&model).copied() {
            return Ok(dimension);
        }
        let dimension = dimension_of(connection, model).await?;
        known().insert(model, dimension);
        Ok(dimension)
    }

    /// The id of a gallery given by id or name.
    pub async fn gallery_id(&self, gallery: &str) -> Result<GalleryId, GalleryError> {
        Ok(self.find_gallery(gallery).await?.id)
    }

    /// The ids of a subject, given by id or name, and of its gallery.
    async fn subject_id(&self, gallery: &str, subject: &str) -> Result<(GalleryId, SubjectId), GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        Ok((gallery, subjects::find_subject(&self.pool, gallery, subject).await?))
    }
}

/// The ids of a scope, for a statement; null: of all galleries.
fn ids_of(scope: &Scope) -> Option<Vec<Uuid>> {
    scope.galleries().map(|galleries| galleries.iter().map(|gallery| gallery.0).collect())
}

/// The number of dimensions of a registered model's embeddings.
async fn dimension_of(connection: &mut PgConnection, model: ModelId) -> Result<usize, GalleryError> {
    let dimension: Option<i32> = sqlx::query_scalar("select dimension from models where id = $1")
        .bind(model.0)
        .fetch_optional(connection)
        .await?;
    // A constraint keeps it positive.
    dimension.map(|dimension| dimension.unsigned_abs() as usize).ok_or(GalleryError::ModelNotFound(model))
}

fn check_dimension(expected: usize, found: usize) -> Result<(), GalleryError> {
    if expected == found { Ok(()) } else { Err(GalleryError::Dimension { expected, found }) }
}

fn as_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}

/// The name that is looked for where a text could be one. Postgres text cannot hold NUL, so nothing has such a name.
fn as_name(text: &str) -> Option<Cow<'_, str>> {
    (!text.contains('\0')).then(|| nfc(text))
}
