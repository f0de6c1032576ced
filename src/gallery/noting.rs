//! Changes of galleries in the audit: ids and counts, and no name, no metadata, no image.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Duplicate, Enrolled, Galleries, GalleryError, NewFace};
use crate::audit::{Action, Entry, append};
use crate::types::{ErasureId, GalleryId, SubjectId};

impl Galleries {
    /// Notes it as part of what the connection is doing.
    pub(super) async fn note(
        &self,
        connection: &mut PgConnection,
        action: Action,
        (gallery, subjects): (GalleryId, &[SubjectId]),
        details: Value,
    ) -> Result<(), sqlx::Error> {
        let entry = Entry::new(&self.actor, action).galleries([gallery]).subjects(subjects.iter().copied());
        append(connection, &entry.details(details)).await
    }

    /// Notes an erasure, by the id of its receipt.
    pub(super) async fn note_erasure(
        &self,
        connection: &mut PgConnection,
        erasure: Option<ErasureId>,
        action: Action,
        (gallery, subjects): (GalleryId, &[SubjectId]),
        details: Value,
    ) -> Result<(), sqlx::Error> {
        let entry = Entry::new(&self.actor, action).galleries([gallery]).subjects(subjects.iter().copied());
        let entry = match erasure {
            Some(erasure) => entry.with_id(erasure.0),
            None => entry,
        };
        append(connection, &entry.details(details)).await
    }

    /// Notes a face that is enrolled, as part of it.
    pub(super) async fn note_face(
        &self,
        connection: &mut PgConnection,
        enrolled: &Enrolled,
        face: &NewFace<'_>,
    ) -> Result<(), sqlx::Error> {
        let details = json!({
            "face": enrolled.face_id, "subject_created": enrolled.subject_created,
            "duplicates": ids_of(&enrolled.duplicates), "mismatch": enrolled.mismatch.is_some(),
        });
        let entry = Entry::new(&self.actor, Action::FaceEnroll).galleries([enrolled.gallery_id]);
        let entry = entry.subjects([enrolled.subject_id]).model(Some(face.model)).outcome("enrolled");
        append(connection, &entry.details(details)).await
    }

    /// Notes a face that is refused because of others, before whoever sent it learns who they are.
    pub(super) async fn note_duplicate(
        &self,
        gallery: GalleryId,
        face: &NewFace<'_>,
        matches: &[Duplicate],
    ) -> Result<(), GalleryError> {
        let entry = Entry::new(&self.actor, Action::FaceEnroll).galleries([gallery]).subjects(ids_of(matches));
        let mut transaction = self.pool.begin().await?;
        append(&mut transaction, &entry.model(Some(face.model)).outcome("duplicate_face")).await?;
        Ok(transaction.commit().await?)
    }

    /// Notes that a gallery, or all that is held about a subject of it, is written out, before it is.
    pub async fn note_export(&self, gallery: GalleryId, subject: Option<SubjectId>) -> Result<(), GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let action = if subject.is_some() { Action::SubjectExport } else { Action::GalleryExport };
        self.note(&mut transaction, action, (gallery, subject.as_slice()), json!({})).await?;
        Ok(transaction.commit().await?)
    }
}

fn ids_of(duplicates: &[Duplicate]) -> Vec<SubjectId> {
    duplicates.iter().map(|duplicate| duplicate.subject_id).collect()
}
