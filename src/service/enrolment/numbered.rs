//! What clients of CompreFace ask of collections: subjects in any letter case, lists as a whole and by numbered pages, and everybody
//! to go.

use super::Enrolment;
use super::erasure::Done;
use crate::gallery::{NumberedPage, SubjectFilter};
use crate::service::ServiceError;
use crate::service::answers::ErasedMany;
use crate::types::{FaceId, Name, SubjectId};

impl Enrolment {
    /// The subject that has this name, in whatever letter case.
    pub async fn find_subject_in_any_case(
        &self,
        gallery: &Name,
        name: &str,
    ) -> Result<Option<(SubjectId, String)>, ServiceError> {
        Ok(self.galleries().find_subject_in_any_case(gallery.as_str(), name).await?)
    }

    /// The names of all subjects, oldest first.
    pub async fn subject_names(&self, gallery: &Name) -> Result<Vec<String>, ServiceError> {
        Ok(self.galleries().subject_names(gallery.as_str()).await?)
    }

    /// A page of faces with the names of their subjects, perhaps of one subject alone, and how many there are on all pages.
    pub async fn numbered_faces(
        &self,
        gallery: &Name,
        subject: Option<&str>,
        page: NumberedPage,
    ) -> Result<(Vec<(FaceId, String)>, u64), ServiceError> {
        Ok(self.galleries().numbered_faces(gallery.as_str(), subject, page).await?)
    }

    /// Those of some faces that are in the gallery, with the names of their subjects.
    pub async fn faces_among(&self, gallery: &Name, faces: &[FaceId]) -> Result<Vec<(FaceId, String)>, ServiceError> {
        Ok(self.galleries().faces_among(gallery.as_str(), faces).await?)
    }

    /// Erases everybody who is in a gallery when it begins; the gallery stays.
    pub async fn empty_gallery(&self, gallery: &Name) -> Result<ErasedMany, ServiceError> {
        let gallery = self.galleries().gallery_id(gallery.as_str()).await?;
        let mut done = Done::default();
        let everybody = SubjectFilter::default();
        self.delete_matching(gallery, &everybody, None, &mut done).await?;
        self.answer(done).await
    }
}
