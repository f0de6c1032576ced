//! Faces that have their ids, on their way into the tables.

use chrono::Utc;
use sqlx::PgConnection;

use super::super::GalleryError;
use super::FaceRecord;
use super::copy::Rows;
use crate::sealing::{MasterId, SealedChip};
use crate::types::{FaceId, GalleryId, ModelId, SubjectId};

/// A face with the ids that it will have; `sealed` is filled before it is copied.
pub(super) struct Placed {
    pub id: FaceId,
    pub subject: SubjectId,
    pub face: FaceRecord,
    pub sealed: Option<SealedChip>,
}

pub(super) async fn copy_faces(
    connection: &mut PgConnection,
    gallery: GalleryId,
    placed: &[Placed],
) -> Result<u64, GalleryError> {
    if placed.is_empty() {
        return Ok(0);
    }
    let now = Utc::now();
    let mut rows = Rows::new(12);
    for Placed { id, subject, face, sealed } in placed {
        rows.begin();
        rows.uuid(id.0);
        rows.uuid(gallery.0);
        rows.uuid(subject.0);
        rows.bytea(sealed.as_ref().map(|sealed| sealed.chip.as_slice()));
        rows.bytea(face.image_sha256.as_ref().map(<[u8; 32]>::as_slice));
        rows.jsonb(face.bounding_box.as_ref())?;
        rows.jsonb(face.landmarks.as_ref())?;
        rows.real(face.detection_score);
        rows.jsonb(face.quality.as_ref())?;
        rows.jsonb(Some(&face.metadata))?;
        rows.timestamptz(face.created_at.unwrap_or(now));
        rows.time(face.expires_at);
    }
    rows.send(
        connection,
        "copy faces (id, gallery_id, subject_id, chip, image_sha256, bounding_box, landmarks, detection_score, \
         quality, metadata, created_at, expires_at) from stdin (format binary)",
    )
    .await
}

/// Returns how many there were.
pub(super) async fn copy_chip_keys(connection: &mut PgConnection, placed: &[Placed]) -> Result<u64, GalleryError> {
    let mut rows = Rows::new(4);
    let mut any = false;
    for (id, sealed) in placed.iter().filter_map(|placed| Some((placed.id, placed.sealed.as_ref()?))) {
        any = true;
        rows.begin();
        rows.uuid(id.0);
        rows.bytea(Some(&sealed.key.bytes));
        rows.bytea(sealed.key.master.as_ref().map(MasterId::as_bytes));
        rows.bytea(Some(&sealed.sha256));
    }
    if !any {
        return Ok(0);
    }
    rows.send(connection, "copy chip_keys (face_id, key, master_id, chip_sha256) from stdin (format binary)").await
}

pub(super) async fn copy_embeddings(
    connection: &mut PgConnection,
    gallery: GalleryId,
    model: ModelId,
    placed: &[Placed],
) -> Result<u64, GalleryError> {
    let mut rows = Rows::new(6);
    let mut any = false;
    for Placed { id, subject, face, .. } in placed {
        let Some(embedding) = &face.embedding else { continue };
        any = true;
        rows.begin();
        rows.uuid(id.0);
        rows.uuid(model.0);
        rows.uuid(gallery.0);
        rows.uuid(subject.0);
        rows.halfvec(embedding.as_slice());
        rows.real(face.norm);
    }
    if !any {
        return Ok(0);
    }
    rows.send(
        connection,
        "copy embeddings (face_id, model_id, gallery_id, subject_id, embedding, norm) from stdin (format binary)",
    )
    .await
}
