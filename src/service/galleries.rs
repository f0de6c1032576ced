//! Galleries, subjects and faces as collections; and the models.

use super::answers::{Duplicate, EnrolledFace, Erased, FoundFace, Gallery, GalleryEntry, ModelEntry, Page, Subject};
use super::{ServiceError, Services};
use crate::gallery::{self, Metadata, PageRequest, SubjectChange};
use crate::registry::ModelState;
use crate::types::{FaceId, Name};

/// A subject to create without a photo.
pub struct NewSubject {
    pub gallery: Name,
    pub name: Name,
    pub metadata: Metadata,
}

impl Services {
    pub async fn create_gallery(&self, name: &Name) -> Result<GalleryEntry, ServiceError> {
        Ok(self.0.galleries.create_gallery(name).await?.into())
    }

    pub async fn list_galleries(&self, page: PageRequest) -> Result<Page<GalleryEntry>, ServiceError> {
        Ok(self.0.galleries.list_galleries(page).await?.into())
    }

    pub async fn get_gallery(&self, gallery: &str) -> Result<Gallery, ServiceError> {
        let gallery::GalleryContents { gallery, subjects, faces } = self.0.galleries.gallery(gallery).await?;
        Ok(Gallery { entry: gallery.into(), subjects, faces })
    }

    pub async fn rename_gallery(&self, gallery: &str, name: &Name) -> Result<GalleryEntry, ServiceError> {
        Ok(self.0.galleries.rename_gallery(gallery, name).await?.into())
    }

    /// Erases the gallery with everything in it.
    pub async fn delete_gallery(&self, gallery: &str) -> Result<Erased, ServiceError> {
        Ok(self.0.galleries.delete_gallery(gallery).await?.into())
    }

    pub async fn create_subject(&self, new: NewSubject) -> Result<Subject, ServiceError> {
        let NewSubject { gallery, name, metadata } = new;
        Ok(self.0.galleries.create_subject(gallery.as_str(), &name, &metadata).await?.into())
    }

    pub async fn list_subjects(&self, gallery: &Name, page: PageRequest) -> Result<Page<Subject>, ServiceError> {
        Ok(self.0.galleries.list_subjects(gallery.as_str(), page).await?.into())
    }

    /// `subject` is a name or an id, here and below.
    pub async fn get_subject(&self, gallery: &Name, subject: &str) -> Result<Subject, ServiceError> {
        Ok(self.0.galleries.subject(gallery.as_str(), subject).await?.into())
    }

    pub async fn change_subject(
        &self,
        gallery: &Name,
        subject: &str,
        change: &SubjectChange,
    ) -> Result<Subject, ServiceError> {
        Ok(self.0.galleries.update_subject(gallery.as_str(), subject, change).await?.into())
    }

    /// Erases the subject with all its faces.
    pub async fn delete_subject(&self, gallery: &Name, subject: &str) -> Result<Erased, ServiceError> {
        Ok(self.0.galleries.delete_subject(gallery.as_str(), subject).await?.into())
    }

    pub async fn list_faces(&self, gallery: &Name, page: PageRequest) -> Result<Page<EnrolledFace>, ServiceError> {
        Ok(self.0.galleries.list_faces(gallery.as_str(), page).await?.into())
    }

    pub async fn list_faces_of(
        &self,
        gallery: &Name,
        subject: &str,
        page: PageRequest,
    ) -> Result<Page<EnrolledFace>, ServiceError> {
        Ok(self.0.galleries.list_faces_of(gallery.as_str(), subject, page).await?.into())
    }

    pub async fn get_face(&self, face: FaceId) -> Result<EnrolledFace, ServiceError> {
        Ok(self.0.galleries.face(face).await?.into())
    }

    /// The chip of a face as a JPEG.
    pub async fn get_chip(&self, face: FaceId) -> Result<Vec<u8>, ServiceError> {
        Ok(self.0.galleries.chip(face).await?)
    }

    pub async fn delete_face(&self, face: FaceId) -> Result<Erased, ServiceError> {
        Ok(self.0.galleries.delete_face(face).await?.into())
    }

    /// The embedders that the database knows, oldest first.
    pub async fn list_models(&self) -> Result<Vec<ModelEntry>, ServiceError> {
        let models = self.0.registry.list().await?.into_iter();
        Ok(models
            .map(|model| ModelEntry {
                id: model.id.0,
                name: model.name,
                sha256: model.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
                dimension: model.dimension,
                state: match model.state {
                    ModelState::Active => "active",
                    ModelState::Candidate => "candidate",
                    ModelState::Retired => "retired",
                }
                .to_owned(),
                created_at: model.created_at,
            })
            .collect())
    }
}

impl<T, U: From<T>> From<gallery::Page<T>> for Page<U> {
    fn from(page: gallery::Page<T>) -> Self {
        Self { items: page.items.into_iter().map(U::from).collect(), next_cursor: page.next_cursor }
    }
}

impl From<gallery::Gallery> for GalleryEntry {
    fn from(gallery: gallery::Gallery) -> Self {
        Self { id: gallery.id, name: gallery.name, created_at: gallery.created_at }
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
            face: FoundFace {
                bounding_box: face.bounding_box,
                landmarks: face.landmarks,
                detection_score: face.detection_score,
                quality: face.quality,
            },
            metadata: face.metadata,
            created_at: face.created_at,
        }
    }
}

impl From<gallery::Duplicate> for Duplicate {
    fn from(duplicate: gallery::Duplicate) -> Self {
        Self { subject: duplicate.subject, subject_id: duplicate.subject_id, similarity: duplicate.similarity }
    }
}

impl From<gallery::Erased> for Erased {
    fn from(erased: gallery::Erased) -> Self {
        Self { subjects: erased.subjects, faces: erased.faces, embeddings: erased.embeddings }
    }
}
