//! Erasing galleries and subjects, and giving the faces of one subject to another: at once where that is short, else as a job. The
//! answer comes when nobody can find what is to go, at any server.

mod due;
mod many;
mod receipts;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::Enrolment;
use crate::db::Transaction;
use crate::gallery::{self, ErasedFaces, Expected, GalleryError, Hidden};
use crate::jobs::{self, JobKind, NewJob};
use crate::service::ServiceError;
use crate::service::answers::{self, Job, Revised};
use crate::service::work::new_job;
use crate::types::{ErasureId, FaceId, GalleryId, Name, SubjectId};

pub(super) use many::Done;

/// How long other servers may take to forget what was erased before the answer comes without them.
const ERASED_WITHIN: Duration = Duration::from_secs(1);

/// The same for many, about each of whom they have to hear.
const MANY_ERASED_WITHIN: Duration = Duration::from_secs(5);

/// What came of a deletion: it was done, or a job does it.
pub enum Deleted<T> {
    Done(T),
    Job(Box<Job>),
}

/// The settings of a job, as the database keeps them: ids alone, as names are to be forgotten.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::service) struct ErasureSettings {
    pub gallery: GalleryId,
    /// `None`: the whole gallery, or what is marked `together`.
    pub subject: Option<SubjectId>,
    /// Who gets the faces of the subject, if they are not erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<SubjectId>,
    /// By what subjects are found that were marked together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Uuid>,
    /// The receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<ErasureId>,
}

impl Enrolment {
    /// Erases a gallery with everything in it, if it is as expected.
    pub async fn delete_gallery(
        &self,
        gallery: &str,
        expected: &Expected,
    ) -> Result<Deleted<answers::Erased>, ServiceError> {
        let galleries = &self.galleries();
        if let Some((hidden, erased)) = galleries.erase_small_gallery(gallery, expected).await? {
            self.forget(&hidden).await?;
            return Ok(Deleted::Done(erased_for_good(erased, hidden.erasure)?));
        }
        let mut transaction = galleries.begin().await?;
        let hidden = galleries.hide_gallery(&mut transaction, gallery, expected).await?;
        self.leave_to_job(transaction, JobKind::Erase, hidden, None).await
    }

    /// Erases a subject, given by name or id, with all its faces, if it is as expected.
    pub async fn delete_subject(
        &self,
        gallery: &Name,
        subject: &str,
        expected: &Expected,
    ) -> Result<Deleted<answers::Erased>, ServiceError> {
        let galleries = &self.galleries();
        if let Some((hidden, erased)) = galleries.erase_small_subject(gallery.as_str(), subject, expected).await? {
            self.forget(&hidden).await?;
            return Ok(Deleted::Done(erased_for_good(erased, hidden.erasure)?));
        }
        let mut transaction = galleries.begin().await?;
        let hidden = galleries.hide_subject(&mut transaction, gallery.as_str(), subject, expected).await?;
        self.leave_to_job(transaction, JobKind::Erase, hidden, None).await
    }

    /// Gives the faces of `from` to `into`, both given by name or id, and erases `from`, if `into` is as expected.
    pub async fn merge_subjects(
        &self,
        gallery: &Name,
        (into, from): (&str, &str),
        expected: &Expected,
    ) -> Result<Deleted<Revised<answers::Subject>>, ServiceError> {
        let galleries = &self.galleries();
        if let Some((hidden, into)) = galleries.merge_small_subject(gallery.as_str(), into, from, expected).await? {
            self.forget(&hidden).await?;
            return Ok(Deleted::Done(galleries.subject_by_id(into).await?.into()));
        }
        let mut transaction = galleries.begin().await?;
        let (hidden, _, into) =
            galleries.hide_merged(&mut transaction, gallery.as_str(), (into, from), expected).await?;
        self.leave_to_job(transaction, JobKind::Merge, hidden, Some(into)).await
    }

    pub async fn delete_face(&self, face: FaceId) -> Result<answers::Erased, ServiceError> {
        let ErasedFaces { erased, erasures, transaction, .. } = self.galleries().delete_face(face).await?;
        if let Some(transaction) = transaction {
            self.await_servers(transaction, ERASED_WITHIN).await?;
        }
        erased_for_good(erased, erasures.first().copied())
    }

    /// Commits what hides something together with the job that does the rest.
    async fn leave_to_job<T>(
        &self,
        mut transaction: Transaction,
        kind: JobKind,
        hidden: Hidden,
        into: Option<SubjectId>,
    ) -> Result<Deleted<T>, ServiceError> {
        let Hidden { gallery, subject, erasure, .. } = hidden;
        let settings = ErasureSettings { gallery, subject, into, together: None, erasure };
        let key = hidden.subject.map_or(hidden.gallery.to_string(), |subject| subject.to_string());
        let job = self.submit(&mut transaction, kind, key, &settings).await?;
        transaction.commit().await.map_err(GalleryError::from)?;
        self.forget(&hidden).await?;
        Ok(Deleted::Job(Box::new(job.into())))
    }

    /// Adds the job that erases what was hidden in a transaction, and so has none yet.
    async fn submit(
        &self,
        transaction: &mut Transaction,
        kind: JobKind,
        key: String,
        settings: &ErasureSettings,
    ) -> Result<jobs::Job, ServiceError> {
        let galleries = Some(vec![settings.gallery]);
        let new = NewJob { galleries, ..new_job(kind, key, settings, self.caller.name())? };
        let job = self.jobs().submit_within(transaction, &new).await?;
        job.ok_or_else(|| ServiceError::Internal("there is a job for this already".to_owned()))
    }

    /// Waits until nobody finds any more what was hidden.
    async fn forget(&self, hidden: &Hidden) -> Result<(), ServiceError> {
        match hidden.subject {
            Some(subject) => self.recognition().served().forget_subject(hidden.gallery, subject),
            None => self.recognition().served().forget_gallery(hidden.gallery),
        }
        self.await_servers(hidden.transaction, ERASED_WITHIN).await
    }

    /// Waits until what a transaction erased is in no server's memory any more. It is erased all the same if a server that was cut
    /// off from the database, or killed, does not say so.
    async fn await_servers(&self, transaction: u64, within: Duration) -> Result<(), ServiceError> {
        let (recognition, galleries) = (self.recognition(), self.galleries());
        let ((), behind) = tokio::join!(recognition.catch_up(), galleries.await_readers(transaction, within));
        let behind = behind?;
        if behind > 0 {
            metrics::counter!("faceid_erasures_behind_total").increment(1);
            warn!(
                servers = behind,
                "a server that cannot be reached may still find what was erased, for max_staleness at most"
            );
        }
        Ok(())
    }
}

/// There is a receipt for all that is erased.
fn erased_for_good(erased: gallery::Erased, erasure: Option<ErasureId>) -> Result<answers::Erased, ServiceError> {
    let erasure = erasure.ok_or_else(|| ServiceError::Internal("an erasure without a receipt".to_owned()))?;
    let gallery::Erased { subjects, faces, embeddings } = erased;
    Ok(answers::Erased { subjects, faces, embeddings, erasure })
}
