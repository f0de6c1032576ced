//! Enrolment: a face of a subject, all of it or nothing.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use pgvector::HalfVector;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::quota::check_quota;
use super::subjects::find_or_create_subject;
use super::{Galleries, GalleryError, Metadata, as_id, as_name, check_dimension};
use crate::db::{MODELS_LOCK, Transaction};
use crate::index::{Hit, Query};
use crate::sealing::{MasterId, SealedChip};
use crate::types::{
    BoundingBox, Embedding, FaceId, GalleryId, Landmarks, ModelId, Name, Quality, StoredEmbedding, SubjectId,
};

/// How many duplicates are reported at most.
const MAX_DUPLICATES: usize = 10;

/// What to do when an enrolment is doubtful: the face matches another subject of the gallery, or does not resemble its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// Do not look.
    Allow,
    /// Enroll and report.
    #[default]
    Warn,
    /// Enroll nothing and report.
    Reject,
}

/// A face to enroll.
#[derive(Debug, Clone)]
pub struct NewFace<'a> {
    /// Id or name of the gallery.
    pub gallery: &'a str,
    /// Id or name of the subject; made when the gallery has neither.
    pub subject: &'a Name,
    /// Of the face; a subject's own is set on the subject.
    pub metadata: &'a Metadata,
    /// When the subject expires, if that is said: also of one that is there already.
    pub subject_expires_at: Option<DateTime<Utc>>,
    /// When the face expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// The aligned crop as JPEG.
    pub chip: &'a [u8],
    /// Of the bytes that were sent.
    pub image_sha256: [u8; 32],
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    pub detection_score: f32,
    pub quality: Quality,
    /// The model that made the embedding, by which duplicates are looked for.
    pub model: ModelId,
    pub embedding: &'a Embedding,
    /// Embeddings of other models. Those are stored that are of the active model or of one that is being promoted.
    pub others: &'a [(ModelId, Embedding)],
    pub on_duplicate: OnDoubt,
    /// From which similarity on another subject counts as a duplicate.
    pub duplicate_threshold: f32,
    pub on_mismatch: OnDoubt,
    /// Below which similarity the face does not resemble the faces of its own subject.
    pub mismatch_threshold: f32,
}

/// A face that does not resemble the subject that it is filed under.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mismatch {
    /// Cosine, -1..=1, of the face and the subject's template.
    pub similarity: f32,
    /// What it would have to be.
    pub threshold: f32,
}

/// A subject of the gallery that an enrolled face matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Duplicate {
    pub subject_id: SubjectId,
    pub subject: String,
    /// Cosine, -1..=1, of the face and the subject's template; of the two faces if they are of one image.
    pub similarity: f32,
    /// Whether the very same image was enrolled, rather than one that looks alike. Only then it can be the subject
    /// itself.
    pub same_image: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Enrolled {
    pub face_id: FaceId,
    pub subject_id: SubjectId,
    /// The name of the subject, which may have been given by id.
    pub subject: String,
    /// Whether the subject is new.
    pub subject_created: bool,
    pub gallery_id: GalleryId,
    /// The name of the gallery, which may have been given by id.
    pub gallery: String,
    /// Same images first, then most similar first, at most ten. Always empty for [`OnDoubt::Allow`].
    pub duplicates: Vec<Duplicate>,
    /// Never of a new subject, nor for [`OnDoubt::Allow`].
    pub mismatch: Option<Mismatch>,
}

/// An enrolment under way: a transaction that keeps its place among those of the gallery. Dropped, it leaves nothing.
pub struct Enrolment<'a> {
    galleries: &'a Galleries,
    transaction: Transaction,
    held: Locked,
}

/// What an enrolment has locked.
struct Locked {
    gallery_id: GalleryId,
    gallery: String,
    subject_id: SubjectId,
    subject: String,
    subject_created: bool,
    /// The models that faces are embedded by now.
    wanted: Vec<Uuid>,
}

impl Galleries {
    /// Begins to enroll a face. With [`OnDoubt::Reject`] no face of another subject can slip in between here and
    /// the commit, however the other is enrolled. Until the commit no other model becomes active;
    /// [`GalleryError::OtherModel`] if one did already, of which the face has no embedding.
    pub async fn begin_enrolment(&self, face: &NewFace<'_>) -> Result<Enrolment<'_>, GalleryError> {
        let (transaction, held) = self.pool.begin_holding(|transaction| self.hold(transaction, face).boxed()).await?;
        Ok(Enrolment { galleries: self, transaction, held })
    }

    /// Takes the locks of an enrolment, in the order in which everybody takes them.
    async fn hold(
        &self,
        mut transaction: Transaction,
        face: &NewFace<'_>,
    ) -> Result<(Transaction, Locked), GalleryError> {
        let wanted = hold_models(&mut transaction, face).await?;
        check_dimension(self.known_dimension(&mut transaction, face.model).await?, face.embedding.dimension())?;
        let (gallery_id, gallery) = self.hold_gallery(&mut transaction, face.gallery).await?;
        await_turn(&mut transaction, gallery_id, face.on_duplicate).await?;
        let (subject_id, subject, subject_created) =
            find_or_create_subject(&mut transaction, gallery_id, face.subject).await?;
        if subject_created {
            check_quota(&mut transaction, gallery_id).await?;
        }
        Ok((transaction, Locked { gallery_id, gallery, subject_id, subject, subject_created, wanted }))
    }

    /// Finds the gallery and keeps it from being deleted until the transaction ends.
    pub(super) async fn hold_gallery(
        &self,
        connection: &mut PgConnection,
        gallery: &str,
    ) -> Result<(GalleryId, String), GalleryError> {
        let found: Option<(Uuid, String)> = sqlx::query_as(
            "select id, name from galleries where (id = $1 or name = $2) and erased_at is null \
             and ($3::uuid[] is null or id = any($3)) order by id = $1 desc nulls last limit 1 for key share",
        )
        .bind(as_id(gallery))
        .bind(as_name(gallery))
        .bind(self.scope())
        .fetch_optional(connection)
        .await?;
        found.map(|(id, name)| (GalleryId(id), name)).ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))
    }
}

impl Enrolment<'_> {
    pub fn gallery_id(&self) -> GalleryId {
        self.held.gallery_id
    }

    /// What to look for in search of duplicates; `None` if nobody wants to know.
    pub fn duplicates_query(&self, face: &NewFace<'_>) -> Option<Query> {
        (face.on_duplicate != OnDoubt::Allow).then(|| Query {
            probe: StoredEmbedding::from(face.embedding),
            top_k: MAX_DUPLICATES,
            min_similarity: Some(f64::from(face.duplicate_threshold)),
            except: Some(self.held.subject_id),
        })
    }

    /// Runs a query in Postgres, as part of the enrolment.
    pub async fn search(&mut self, model: ModelId, query: &Query) -> Result<Vec<Hit>, GalleryError> {
        let plan = self.galleries.plan(&mut self.transaction, self.held.gallery_id, model).await?;
        let queries = std::slice::from_ref(query);
        let found =
            self.galleries.search_with(&mut self.transaction, plan, self.held.gallery_id, model, queries).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Stores the face, unless `similar` subjects or an equal image forbid it; for good when the transaction commits.
    pub async fn finish(
        mut self,
        face: &NewFace<'_>,
        similar: Vec<Hit>,
    ) -> Result<(Enrolled, Transaction), GalleryError> {
        let mut duplicates = match face.on_duplicate {
            OnDoubt::Allow => Vec::new(),
            OnDoubt::Warn | OnDoubt::Reject => same_images(&mut self.transaction, self.held.gallery_id, face).await?,
        };
        for hit in similar {
            if duplicates.iter().all(|known| known.subject_id != hit.about.subject_id) {
                duplicates.push(hit.into());
            }
        }
        duplicates.truncate(MAX_DUPLICATES);
        if face.on_duplicate == OnDoubt::Reject && !duplicates.is_empty() {
            self.transaction.rollback().await?;
            self.galleries.note_duplicate(self.held.gallery_id, face, &duplicates).await?;
            return Err(GalleryError::DuplicateFace { matches: duplicates });
        }
        let mismatch = self.mismatch(face).await?;
        if let (OnDoubt::Reject, Some(Mismatch { similarity, threshold })) = (face.on_mismatch, mismatch) {
            self.transaction.rollback().await?;
            return Err(GalleryError::SubjectMismatch { subject: self.held.subject, similarity, threshold });
        }
        let face_id = FaceId::new();
        let sealed = self.galleries.keyring.seal(face_id, face.chip);
        let ids = (face_id, self.held.gallery_id, self.held.subject_id);
        insert_face(&mut self.transaction, ids, face, &sealed).await?;
        if let Some(expires_at) = face.subject_expires_at {
            // Its lock is held.
            sqlx::query("update subjects set expires_at = $2 where id = $1")
                .bind(self.held.subject_id.0)
                .bind(expires_at)
                .execute(&mut *self.transaction)
                .await?;
        }
        let others = face.others.iter().filter(|(model, _)| self.held.wanted.contains(&model.0));
        for (model, embedding) in others.map(|(model, embedding)| (*model, embedding)) {
            let expected = self.galleries.known_dimension(&mut self.transaction, model).await?;
            check_dimension(expected, embedding.dimension())?;
            insert_embedding(&mut self.transaction, ids, model, embedding).await?;
        }
        let enrolled = Enrolled {
            face_id,
            subject_id: self.held.subject_id,
            subject: self.held.subject,
            subject_created: self.held.subject_created,
            gallery_id: self.held.gallery_id,
            gallery: self.held.gallery,
            duplicates,
            mismatch,
        };
        self.galleries.note_face(&mut self.transaction, &enrolled, face).await?;
        Ok((enrolled, self.transaction))
    }

    /// Whether the face does not resemble those that its subject has.
    async fn mismatch(&mut self, face: &NewFace<'_>) -> Result<Option<Mismatch>, GalleryError> {
        if face.on_mismatch == OnDoubt::Allow || self.held.subject_created {
            return Ok(None);
        }
        let template: Option<HalfVector> =
            sqlx::query_scalar("select embedding from templates where subject_id = $1 and model_id = $2")
                .bind(self.held.subject_id.0)
                .bind(face.model.0)
                .fetch_optional(&mut *self.transaction)
                .await?;
        let own = StoredEmbedding::from(face.embedding);
        let similarity = template.map(|template| StoredEmbedding::new(template.to_vec()).similarity(&own) as f32);
        let threshold = face.mismatch_threshold;
        let differs = similarity.filter(|similarity| *similarity < threshold);
        Ok(differs.map(|similarity| Mismatch { similarity: similarity.clamp(-1.0, 1.0), threshold }))
    }
}

impl From<Hit> for Duplicate {
    fn from(hit: Hit) -> Self {
        Self {
            subject_id: hit.about.subject_id,
            subject: hit.about.name.into(),
            similarity: (hit.similarity as f32).clamp(-1.0, 1.0),
            same_image: false,
        }
    }
}

/// Subjects that have a face of the very same image, the one enrolled included.
async fn same_images(
    connection: &mut PgConnection,
    gallery: GalleryId,
    face: &NewFace<'_>,
) -> Result<Vec<Duplicate>, GalleryError> {
    let rows: Vec<(Uuid, String, Option<HalfVector>)> = sqlx::query_as(
        "select distinct on (s.id) s.id, s.name, e.embedding from present_faces f join subjects s on s.id = f.subject_id \
         left join embeddings e on e.face_id = f.id and e.model_id = $3 \
         where f.gallery_id = $1 and f.image_sha256 = $2 order by s.id limit $4",
    )
    .bind(gallery.0)
    .bind(face.image_sha256.as_slice())
    .bind(face.model.0)
    .bind(MAX_DUPLICATES as i64)
    .fetch_all(connection)
    .await?;
    let own = StoredEmbedding::from(face.embedding);
    let similarity = |other: HalfVector| StoredEmbedding::new(other.to_vec()).similarity(&own);
    Ok(rows
        .into_iter()
        .map(|(id, subject, embedding)| Duplicate {
            subject_id: SubjectId(id),
            subject,
            similarity: embedding.map_or(1.0, |other| similarity(other) as f32).clamp(-1.0, 1.0),
            same_image: true,
        })
        .collect())
}

/// Keeps the active model what it is until the transaction ends, and checks that the face has an embedding of it. Returns
/// the models of which embeddings are wanted beside the face's own: the active one and one that is being promoted, if there
/// are such.
async fn hold_models(transaction: &mut Transaction, face: &NewFace<'_>) -> Result<Vec<Uuid>, GalleryError> {
    transaction.lock_shared(MODELS_LOCK).await?;
    // A statement of its own, so that it sees what whoever held the lock before has done.
    let models: Vec<(Uuid, bool)> =
        sqlx::query_as("select id, state = 'active' from models where state = 'active' or is_target")
            .fetch_all(&mut **transaction)
            .await?;
    let has = |id: Uuid| face.model.0 == id || face.others.iter().any(|(model, _)| model.0 == id);
    let active = models.iter().find(|(_, is_active)| *is_active).map(|(id, _)| *id);
    if let Some(active) = active.filter(|active| !has(*active)) {
        return Err(GalleryError::OtherModel { active: ModelId(active) });
    }
    Ok(models.into_iter().map(|(id, _)| id).collect())
}

/// Enrolments that reject duplicates go one at a time in a gallery, and not beside others, which go together.
pub(super) async fn await_turn(
    transaction: &mut Transaction,
    gallery: GalleryId,
    on_duplicate: OnDoubt,
) -> Result<(), GalleryError> {
    // Two galleries that fall on one key merely wait for each other.
    let (high, low) = gallery.0.as_u64_pair();
    let key = (high ^ low).cast_signed();
    match on_duplicate {
        OnDoubt::Allow | OnDoubt::Warn => transaction.lock_shared(key).await?,
        OnDoubt::Reject => transaction.lock(key).await?,
    }
    Ok(())
}

async fn insert_face(
    connection: &mut PgConnection,
    (id, gallery, subject): (FaceId, GalleryId, SubjectId),
    face: &NewFace<'_>,
    sealed: &SealedChip,
) -> Result<(), GalleryError> {
    sqlx::query(
        "with face as (insert into faces (id, gallery_id, subject_id, chip, image_sha256, bounding_box, landmarks, \
           detection_score, quality, metadata, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)) \
         insert into chip_keys (face_id, key, master_id, chip_sha256) values ($1, $12, $13, $14)",
    )
    .bind(id.0)
    .bind(gallery.0)
    .bind(subject.0)
    .bind(&sealed.chip)
    .bind(face.image_sha256.as_slice())
    .bind(Json(face.bounding_box))
    .bind(Json(face.landmarks))
    .bind(face.detection_score)
    .bind(Json(face.quality))
    .bind(Json(face.metadata))
    .bind(face.expires_at)
    .bind(&sealed.key.bytes)
    .bind(sealed.key.master.as_ref().map(MasterId::as_bytes))
    .bind(sealed.sha256.as_slice())
    .execute(&mut *connection)
    .await?;
    insert_embedding(connection, (id, gallery, subject), face.model, face.embedding).await
}

async fn insert_embedding(
    connection: &mut PgConnection,
    (face, gallery, subject): (FaceId, GalleryId, SubjectId),
    model: ModelId,
    embedding: &Embedding,
) -> Result<(), GalleryError> {
    sqlx::query(
        "insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding, norm) \
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(face.0)
    .bind(model.0)
    .bind(gallery.0)
    .bind(subject.0)
    .bind(HalfVector::from_f32_slice(embedding.as_slice()))
    .bind(embedding.norm())
    .execute(connection)
    .await?;
    Ok(())
}
