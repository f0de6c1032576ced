//! Data sets: an archive with a folder of photos for each person is uploaded, and a job enrolls them into a gallery.

mod archive;
#[cfg(any(test, fuzzing))]
pub mod fuzz_tests;
mod names;
mod run;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use self::archive::Archive;
use crate::blobs::{BlobError, NewUpload};
use crate::gallery::{Gallery, GalleryError};
use crate::jobs::{self, JobKind, NewJob};
use crate::service::ServiceError;
use crate::service::answers::Job;
use crate::service::enrolment::Enrolment;
use crate::service::once::{Once, once};
use crate::service::requests::{DatasetRequest, Expiry};
use crate::service::work::{new_job, submit};
use crate::types::{GalleryId, JobId, Name, RequestKey, UploadId};

/// An archive without a job is forgotten after so long: whoever uploads it may be about to submit the job.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * 3600);

/// An archive that arrives. Dropped before it is submitted, it leaves nothing.
pub struct NewDataset(NewUpload);

impl NewDataset {
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ServiceError> {
        self.0.write(bytes).await.map_err(unstored)
    }
}

/// The settings of a job, as the database keeps them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImportSettings {
    gallery: GalleryId,
    /// Its name, for people.
    gallery_name: String,
    archive: UploadId,
    /// Files of the archive: photos, and what is left out.
    photos: usize,
    /// When people, and faces, expire. A job that is gone on with later than that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Expiry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    face_expires_at: Option<Expiry>,
}

impl Enrolment {
    /// Begins to take in an archive.
    pub async fn begin_dataset(&self) -> Result<NewDataset, ServiceError> {
        Ok(NewDataset(self.uploads().begin_upload().await.map_err(unstored)?))
    }

    /// Submits a job that enrolls the photos of an archive into a gallery, which is created if there is none of the name and the caller
    /// sees all. An archive that holds no data set is refused, and leaves nothing behind.
    pub async fn submit_dataset(
        &self,
        dataset: NewDataset,
        asked: DatasetRequest,
        key: Option<RequestKey>,
    ) -> Result<Once<(Job, bool)>, ServiceError> {
        let enrolment = self.clone();
        // Whoever sent it may be gone before the end, and still there must be a job, or no archive.
        let submitting = tokio::spawn(async move {
            let archive = dataset.0.finish().await.map_err(unstored)?;
            let submitting = enrolment.submit_archive(archive, &asked, key.as_ref());
            let submitted = once(&enrolment.parts.answers, key.as_ref(), submitting).await;
            if !matches!(submitted, Ok(Once { repeated: false, .. })) {
                enrolment.forget_unused(archive).await;
            }
            submitted
        });
        submitting.await.map_err(|error| ServiceError::Internal(error.to_string()))?
    }

    /// Deletes an archive, unless a job works on it: one may have been submitted whose answer was lost on its way from the database.
    async fn forget_unused(&self, archive: UploadId) {
        match self.jobs().unfinished(JobKind::Import, &archive.to_string()).await {
            Ok(None) => self.delete_archive(archive).await,
            Ok(Some(_)) => {}
            Err(error) => warn!(%error, %archive, "cannot tell whether an archive is used; looking again later"),
        }
    }

    async fn submit_archive(
        &self,
        archive: UploadId,
        asked: &DatasetRequest,
        key: Option<&RequestKey>,
    ) -> Result<(Job, bool), ServiceError> {
        let photos = self.check_archive(archive).await?;
        let gallery = self.find_or_create_gallery(&asked.gallery).await?;
        let settings = ImportSettings {
            gallery: gallery.id,
            gallery_name: gallery.name,
            archive,
            photos,
            expires_at: asked.expires_at,
            face_expires_at: asked.face_expires_at,
        };
        let galleries = Some(vec![settings.gallery]);
        let new = new_job(JobKind::Import, archive.to_string(), &settings, self.caller.name())?;
        let new = NewJob { galleries, ..new };
        submit(&self.jobs(), &new, key).await
    }

    /// How many files an archive has to account for, if it is a data set.
    async fn check_archive(&self, archive: UploadId) -> Result<usize, ServiceError> {
        let upload = self.uploads().upload(archive).await.map_err(unstored)?;
        let checked = tokio::task::spawn_blocking(move || {
            let mut archive = Archive::open(upload)?;
            archive.check()?;
            Ok(archive.files().len())
        });
        checked.await.map_err(|error| ServiceError::Internal(error.to_string()))?
    }

    async fn find_or_create_gallery(&self, gallery: &Name) -> Result<Gallery, ServiceError> {
        let galleries = &self.galleries();
        match galleries.find_gallery(gallery.as_str()).await {
            Err(GalleryError::GalleryNotFound(_)) => {}
            found => return Ok(found?),
        }
        match galleries.create_gallery(gallery).await {
            // Somebody else was faster.
            Err(GalleryError::DuplicateGallery(_)) => Ok(galleries.find_gallery(gallery.as_str()).await?),
            created => {
                let created = created?;
                self.recognition().catch_up().await;
                Ok(created)
            }
        }
    }

    /// Deletes the archive of a job, if that is finished.
    pub(in crate::service) async fn forget_finished(&self, job: JobId) {
        match self.jobs().job(job).await {
            Ok(job) if job.state.is_final() => self.forget_dataset(&job).await,
            Ok(_) => {}
            Err(error) => warn!(%error, %job, "cannot delete the archive of a job; trying again later"),
        }
    }

    /// Deletes the archive of a job that is finished.
    pub(in crate::service) async fn forget_dataset(&self, job: &jobs::Job) {
        if job.kind != JobKind::Import {
            return;
        }
        if let Ok(ImportSettings { archive, .. }) = serde_json::from_value(job.settings.clone()) {
            self.delete_archive(archive).await;
        }
    }

    /// Deletes archives that no job works on any more: a server that died left them.
    pub(in crate::service) async fn tidy_datasets(&self) -> Result<(), ServiceError> {
        let uploads = self.uploads();
        for archive in uploads.uploads_older_than(FORGOTTEN_AFTER).await.map_err(unstored)? {
            self.forget_unused(archive).await;
        }
        uploads.delete_broken_uploads(FORGOTTEN_AFTER).await.map_err(unstored)
    }

    async fn delete_archive(&self, archive: UploadId) {
        if let Err(error) = self.uploads().delete_upload(archive).await {
            warn!(%error, %archive, "cannot delete an archive; trying again later");
        }
    }
}

/// The store does not take or give an archive.
fn unstored(error: BlobError) -> ServiceError {
    ServiceError::Internal(error.to_string())
}
