//! Reads a whole gallery as it was at one moment, without ever holding much of it.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use pgvector::HalfVector;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::super::chips::{ChipRow, ReadChips, open_all, readable};
use super::super::galleries::gallery_of;
use super::super::{Galleries, Gallery, GalleryError, Metadata};
use super::{FaceRecord, Record, SubjectRecord};
use crate::db::Transaction;
use crate::sealing::Keyring;
use crate::types::{BoundingBox, FaceId, Landmarks, ModelId, Name, Quality, StoredEmbedding, SubjectId};

/// Subjects, and faces, that are read at once.
const CHUNK: i64 = 1000;

/// A gallery as it was when this began, whatever is written meanwhile: one transaction, which reads it from front to
/// back.
pub struct Snapshot {
    transaction: Transaction,
    pub gallery: Gallery,
    pub subjects: u64,
    pub faces: u64,
    /// Faces so far whose chips cannot be read; their records have none.
    pub unreadable: Vec<FaceId>,
    reading: Reading,
    keyring: Keyring,
}

/// How far it was read: two lists in the order of the subjects' ids, each read a chunk ahead.
#[derive(Default)]
struct Reading {
    subjects: VecDeque<SubjectRecord>,
    faces: VecDeque<(Uuid, FaceRecord)>,
    last_subject: Uuid,
    last_face: (Uuid, Uuid),
    /// Whether the first of `subjects` came with a face.
    has_face: bool,
    all_subjects: bool,
    all_faces: bool,
}

#[derive(FromRow)]
struct SubjectRow {
    id: Uuid,
    name: String,
    metadata: Json<serde_json::Value>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(FromRow)]
struct FaceRow {
    id: Uuid,
    subject_id: Uuid,
    metadata: Json<serde_json::Value>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    image_sha256: Option<Vec<u8>>,
    bounding_box: Option<Json<BoundingBox>>,
    landmarks: Option<Json<Landmarks>>,
    detection_score: Option<f32>,
    quality: Option<Json<Quality>>,
    embedding: Option<HalfVector>,
    norm: Option<f32>,
    chip: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    master_id: Option<Vec<u8>>,
}

impl Galleries {
    /// Begins to read a gallery, given by id or name.
    pub async fn snapshot(&self, gallery: &str) -> Result<Snapshot, GalleryError> {
        let mut transaction = self.pool.without_limits().begin_snapshot().await?;
        let gallery = gallery_of(&mut *transaction, &self.scope, gallery).await?;
        let (subjects, faces): (i64, i64) = sqlx::query_as(
            "select (select count(*) from subjects where gallery_id = $1 and erased_at is null \
               and (expires_at is null or expires_at > now())), \
             (select count(*) from present_faces where gallery_id = $1)",
        )
        .bind(gallery.id.0)
        .fetch_one(&mut *transaction)
        .await?;
        let (subjects, faces) = (subjects.unsigned_abs(), faces.unsigned_abs());
        let (unreadable, reading, keyring) = (Vec::new(), Reading::default(), self.keyring.clone());
        Ok(Snapshot { transaction, gallery, subjects, faces, unreadable, reading, keyring })
    }
}

impl Snapshot {
    /// The next records, in the order of the subjects' ids; none when all were read. Embeddings are those of `model`;
    /// without one, and for faces that it has not embedded, there are none.
    pub async fn next(&mut self, model: Option<ModelId>, chips: bool) -> Result<Vec<Record>, GalleryError> {
        let mut records = Vec::new();
        while records.is_empty() {
            if self.reading.subjects.is_empty() && !self.reading.all_subjects {
                self.read_subjects().await?;
            }
            if self.reading.faces.is_empty() && !self.reading.all_faces {
                self.read_faces(model, chips).await?;
            }
            if self.reading.subjects.is_empty() {
                break;
            }
            self.reading.join(&mut records);
        }
        Ok(records)
    }

    async fn read_subjects(&mut self) -> Result<(), GalleryError> {
        let rows: Vec<SubjectRow> = sqlx::query_as(
            "select id, name, metadata, created_at, expires_at from subjects \
             where gallery_id = $1 and id > $2 and erased_at is null and (expires_at is null or expires_at > now()) \
             order by id limit $3",
        )
        .bind(self.gallery.id.0)
        .bind(self.reading.last_subject)
        .bind(CHUNK)
        .fetch_all(&mut *self.transaction)
        .await?;
        match rows.last() {
            Some(last) => self.reading.last_subject = last.id,
            None => self.reading.all_subjects = true,
        }
        for row in rows {
            self.reading.subjects.push_back(row.try_into()?);
        }
        Ok(())
    }

    async fn read_faces(&mut self, model: Option<ModelId>, chips: bool) -> Result<(), GalleryError> {
        let mut rows: Vec<FaceRow> = sqlx::query_as(
            "select f.id, f.subject_id, f.metadata, f.created_at, f.expires_at, f.image_sha256, f.bounding_box, f.landmarks, \
             f.detection_score, f.quality, e.embedding, e.norm, case when $4 then f.chip end as chip, k.key, k.master_id \
             from present_faces f left join embeddings e on e.face_id = f.id and e.model_id = $5 \
             left join chip_keys k on $4 and k.face_id = f.id \
             where f.gallery_id = $1 and (f.subject_id, f.id) > ($2, $3) \
             and not exists (select from subjects s where s.id = f.subject_id and s.expires_at <= now()) \
             order by f.subject_id, f.id limit $6",
        )
        .bind(self.gallery.id.0)
        .bind(self.reading.last_face.0)
        .bind(self.reading.last_face.1)
        .bind(chips)
        .bind(model.map(|model| model.0))
        .bind(CHUNK)
        .fetch_all(&mut *self.transaction)
        .await?;
        match rows.last() {
            Some(last) => self.reading.last_face = (last.subject_id, last.id),
            None => self.reading.all_faces = true,
        }
        self.open_chips(&mut rows).await?;
        for row in rows {
            self.reading.faces.push_back((row.subject_id, row.try_into()?));
        }
        Ok(())
    }

    /// Opens the chips of rows. Fails for want of a master key; a chip with which something is wrong is left out.
    async fn open_chips(&mut self, rows: &mut [FaceRow]) -> Result<(), GalleryError> {
        let stored = |row: &mut FaceRow| {
            let (id, key, master_id) = (row.id, row.key.take(), row.master_id.take());
            row.chip.take().map(|chip| ChipRow { id, chip, key, master_id })
        };
        let stored = rows.iter_mut().filter_map(stored).collect();
        let ReadChips { chips, unreadable } = readable(open_all(&self.keyring, stored).await?)?;
        let mut chips: HashMap<FaceId, Vec<u8>> = chips.into_iter().collect();
        rows.iter_mut().for_each(|row| row.chip = chips.remove(&FaceId(row.id)));
        self.unreadable.extend(unreadable.into_iter().map(|(face, _)| face));
        Ok(())
    }
}

impl Reading {
    /// Moves subjects with their faces to `records` until one of the lists needs more.
    fn join(&mut self, records: &mut Vec<Record>) {
        while let Some(subject) = self.subjects.front() {
            if self.faces.is_empty() && !self.all_faces {
                return;
            }
            let own = self.faces.front().is_some_and(|(owner, _)| subject.id == Some(SubjectId(*owner)));
            if own {
                let face = self.faces.pop_front().map(|(_, face)| face);
                records.push(Record { subject: subject.clone(), face });
                self.has_face = true;
            } else {
                let done = self.subjects.pop_front();
                let alone = done.filter(|_| !self.has_face);
                records.extend(alone.map(|subject| Record { subject, face: None }));
                self.has_face = false;
            }
        }
    }
}

impl TryFrom<SubjectRow> for SubjectRecord {
    type Error = GalleryError;

    fn try_from(row: SubjectRow) -> Result<Self, GalleryError> {
        Ok(Self {
            id: Some(SubjectId(row.id)),
            name: Name::stored(row.name),
            metadata: Metadata::try_from(row.metadata.0)?,
            created_at: Some(row.created_at),
            expires_at: row.expires_at,
        })
    }
}

impl TryFrom<FaceRow> for FaceRecord {
    type Error = GalleryError;

    fn try_from(row: FaceRow) -> Result<Self, GalleryError> {
        let sha256 = row.image_sha256.map(<[u8; 32]>::try_from).transpose();
        Ok(Self {
            id: Some(FaceId(row.id)),
            metadata: Metadata::try_from(row.metadata.0)?,
            created_at: Some(row.created_at),
            expires_at: row.expires_at,
            image_sha256: sha256.map_err(|_| GalleryError::Inconsistent("a sha256 is not 32 bytes long"))?,
            bounding_box: row.bounding_box.map(|json| json.0),
            landmarks: row.landmarks.map(|json| json.0),
            detection_score: row.detection_score,
            quality: row.quality.map(|json| json.0),
            embedding: row.embedding.map(|vector| StoredEmbedding::new(vector.to_vec())),
            norm: row.norm,
            chip: row.chip,
        })
    }
}
