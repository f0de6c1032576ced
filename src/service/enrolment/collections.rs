//! Galleries, subjects and faces as collections.

use super::Enrolment;
use crate::db::{self, PageRequest};
use crate::gallery::{self, Expected, GalleryChange, GalleryError, SubjectChange, SubjectFilter};
use crate::service::ServiceError;
use crate::service::answers::{
    ChangedGallery, DueNow, Duplicate, EnrolledFace, Expired, FoundFace, Gallery, GalleryEntry, GallerySearch, KeptFor,
    Page, Revised, SearchPlace, Subject,
};
use crate::service::once::{Once, keep, once};
use crate::service::recognition::Serving;
use crate::service::requests::{Expiry, NewSubject};
use crate::types::{FaceId, GalleryId, Name, Permission, RequestKey};

impl Enrolment {
    pub async fn create_gallery(&self, name: &Name) -> Result<Revised<GalleryEntry>, ServiceError> {
        let created = self.galleries().create_gallery(name).await?;
        self.recognition().catch_up().await;
        Ok(created.into())
    }

    pub async fn list_galleries(&self, page: PageRequest) -> Result<Page<GalleryEntry>, ServiceError> {
        Ok(self.galleries().list_galleries(page).await?.into())
    }

    pub async fn get_gallery(&self, gallery: &str) -> Result<Revised<Gallery>, ServiceError> {
        let gallery::GalleryContents { gallery, subjects, faces } = self.galleries().gallery(gallery).await?;
        let serving = self.recognition().serving();
        let review = self.review_state(&serving, gallery.id).await?;
        let search = self.search_of(&serving, gallery.id, review.total).await?;
        let strangers = self.recognition().authority(&serving, gallery.id).await?.strangers();
        let revision = gallery.revision;
        let due_now = self.due_now(&gallery).await?;
        let gallery::Expired { subjects: expired, faces: expired_faces, last_at } = gallery.expired;
        let expired = Expired { subjects: expired, faces: expired_faces, last_at };
        let answer = Gallery { entry: gallery.into(), due_now, expired, subjects, faces, search, review, strangers };
        Ok(Revised { revision, answer })
    }

    /// What a gallery's retention would erase now, if it has one.
    async fn due_now(&self, gallery: &gallery::Gallery) -> Result<Option<DueNow>, ServiceError> {
        if gallery.kept.is_none() {
            return Ok(None);
        }
        let gallery::Overdue { subjects, faces } = self.galleries().overdue(gallery.id).await?;
        Ok(Some(DueNow { subjects, faces }))
    }

    async fn search_of(
        &self,
        serving: &Serving,
        gallery: GalleryId,
        templates: u64,
    ) -> Result<GallerySearch, ServiceError> {
        let (mut ef_search, mut recall) = (None, None);
        let place = if serving.resident.current().is_some() {
            SearchPlace::Resident
        } else {
            match self.galleries().search_index(gallery, serving.id()).await? {
                Some(index) if index.is_used() => {
                    (ef_search, recall) = (Some(index.ef_search), Some(index.recall));
                    SearchPlace::Index
                }
                _ => SearchPlace::Exact,
            }
        };
        Ok(GallerySearch { place, templates, ef_search, recall })
    }

    /// Changes a gallery, if it is as expected. How large it may become is not for those to say who see but some galleries.
    pub async fn change_gallery(
        &self,
        gallery: &str,
        change: &GalleryChange,
        expected: &Expected,
    ) -> Result<Revised<ChangedGallery>, ServiceError> {
        if change.max_subjects.is_some() && !self.caller.may(Permission::Create) {
            let reason = "this key may not say how many subjects a gallery may have; it is not for all galleries";
            return Err(ServiceError::Forbidden(reason.to_owned()));
        }
        if let Some(policy) = change.policy.flatten() {
            // What would be refused at every request is refused now.
            let (serving, gallery) = (self.recognition().serving(), self.galleries().gallery_id(gallery).await?);
            self.recognition().authority(&serving, gallery).await?.identify(policy)?;
        }
        let changed = self.galleries().update_gallery(gallery, change, expected).await?;
        self.recognition().catch_up().await;
        let (revision, due_now) = (changed.revision, self.due_now(&changed).await?);
        Ok(Revised { revision, answer: ChangedGallery { entry: changed.into(), due_now } })
    }

    pub async fn create_subject(
        &self,
        new: NewSubject,
        key: Option<&RequestKey>,
    ) -> Result<Once<Revised<Subject>>, ServiceError> {
        once(&self.parts.answers, key, async {
            let NewSubject { gallery, name, metadata, expires_at } = new;
            let expires_at = expires_at.map(Expiry::get);
            let created = self.galleries().begin_subject(gallery.as_str(), &name, &metadata, expires_at).await?;
            let (subject, mut transaction): (Revised<Subject>, _) = (created.0.into(), created.1);
            keep(&mut transaction, key, &subject, &[subject.answer.id]).await?;
            transaction.commit().await.map_err(GalleryError::from)?;
            Ok(subject)
        })
        .await
    }

    /// Forgets answers that are kept no longer.
    pub(in crate::service) async fn tidy_answers(&self) -> Result<(), ServiceError> {
        Ok(self.parts.answers.prune().await?)
    }

    pub async fn list_subjects(
        &self,
        gallery: &Name,
        filter: &SubjectFilter,
        page: PageRequest,
    ) -> Result<Page<Subject>, ServiceError> {
        Ok(self.galleries().list_subjects(gallery.as_str(), filter, page).await?.into())
    }

    /// `subject` is a name or an id, here and below.
    pub async fn get_subject(&self, gallery: &Name, subject: &str) -> Result<Revised<Subject>, ServiceError> {
        Ok(self.galleries().subject(gallery.as_str(), subject).await?.into())
    }

    pub async fn change_subject(
        &self,
        gallery: &Name,
        subject: &str,
        change: &SubjectChange,
        expected: &Expected,
    ) -> Result<Revised<Subject>, ServiceError> {
        let changed = self.galleries().update_subject(gallery.as_str(), subject, change, expected).await?;
        self.recognition().catch_up().await;
        Ok(changed.into())
    }

    pub async fn list_faces(&self, gallery: &Name, page: PageRequest) -> Result<Page<EnrolledFace>, ServiceError> {
        Ok(self.galleries().list_faces(gallery.as_str(), page).await?.into())
    }

    pub async fn list_faces_of(
        &self,
        gallery: &Name,
        subject: &str,
        page: PageRequest,
    ) -> Result<Page<EnrolledFace>, ServiceError> {
        Ok(self.galleries().list_faces_of(gallery.as_str(), subject, page).await?.into())
    }

    pub async fn get_face(&self, face: FaceId) -> Result<EnrolledFace, ServiceError> {
        Ok(self.galleries().face(face).await?.into())
    }

    /// The chip of a face as a JPEG.
    pub async fn get_chip(&self, face: FaceId) -> Result<Vec<u8>, ServiceError> {
        Ok(self.galleries().chip(face).await?)
    }

    /// Gives a face to another subject of its gallery, who is created if there is none of that name.
    pub async fn move_face(&self, face: FaceId, subject: &Name) -> Result<EnrolledFace, ServiceError> {
        let moved = self.galleries().move_face(face, subject).await?;
        self.recognition().catch_up().await;
        Ok(moved.into())
    }
}

impl<T, U: From<T>> From<db::Page<T>> for Page<U> {
    fn from(page: db::Page<T>) -> Self {
        Self { items: page.items.into_iter().map(U::from).collect(), next_cursor: page.next_cursor }
    }
}

impl From<gallery::Gallery> for Revised<GalleryEntry> {
    fn from(gallery: gallery::Gallery) -> Self {
        Self { revision: gallery.revision, answer: gallery.into() }
    }
}

impl From<gallery::Subject> for Revised<Subject> {
    fn from(subject: gallery::Subject) -> Self {
        Self { revision: subject.revision, answer: subject.into() }
    }
}

impl From<gallery::Gallery> for GalleryEntry {
    fn from(gallery: gallery::Gallery) -> Self {
        let retention = gallery.kept.map(|gallery::Kept { retention, from }| KeptFor {
            faces_days: retention.faces_days,
            subjects_days: retention.subjects_days,
            holds_from: from,
        });
        let gallery::Gallery { id, name, policy, max_subjects, created_at, .. } = gallery;
        Self { id, name, policy, max_subjects, retention, created_at }
    }
}

impl From<gallery::Subject> for Subject {
    fn from(subject: gallery::Subject) -> Self {
        Self {
            id: subject.id,
            name: subject.name,
            gallery: subject.gallery,
            metadata: subject.metadata,
            created_at: subject.created_at,
            expires_at: subject.expires_at,
            faces: subject.faces,
        }
    }
}

impl From<gallery::Face> for EnrolledFace {
    fn from(face: gallery::Face) -> Self {
        Self {
            id: face.id,
            subject: face.subject,
            subject_id: face.subject_id,
            gallery: face.gallery,
            face: face
                .found
                .map(|found| FoundFace::new(found.bounding_box, found.landmarks, found.detection_score, found.quality)),
            metadata: face.metadata,
            created_at: face.created_at,
            expires_at: face.expires_at,
        }
    }
}

impl From<gallery::Duplicate> for Duplicate {
    fn from(duplicate: gallery::Duplicate) -> Self {
        Self {
            subject: duplicate.subject,
            subject_id: duplicate.subject_id,
            similarity: duplicate.similarity,
            same_image: duplicate.same_image,
        }
    }
}
