//! Embeddings of another model: what is missing of them, and storing them.

use pgvector::HalfVector;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::chips::{ChipRow, ReadChips, open_all, photo, readable};
use super::{Galleries, GalleryError, PhotoId, check_dimension};
use crate::db::Transaction;
use crate::types::{Embedding, FaceId, GalleryId, ModelId, StoredEmbedding};

/// Faces that are looked at in one go.
const LOOKED_AT: i64 = 4096;

impl Galleries {
    /// Which of the next faces of all galleries, by id from after `after` on, have a chip but no embedding of the model; and the
    /// last face that was looked at, `None` if there was none. Faces enrolled meanwhile may come before `after`: the work is done
    /// when a pass from the start finds nothing. Those that were set aside, or are being erased, are left out.
    pub async fn missing_embeddings(
        &self,
        model: ModelId,
        after: Option<FaceId>,
    ) -> Result<(Vec<FaceId>, Option<FaceId>), GalleryError> {
        let (missing, last): (Vec<Uuid>, Option<Uuid>) = sqlx::query_as(
            "with part as materialized (select id from faces where $2::uuid is null or id > $2 order by id limit $3) \
             select coalesce((select array_agg(f.id order by f.id) from faces_to_embed f \
               where f.model_id = $1 and f.id = any(array(select id from part))), '{}'), \
               (select id from part order by id desc limit 1)",
        )
        .bind(model.0)
        .bind(after.map(|face| face.0))
        .bind(LOOKED_AT)
        .fetch_one(&self.beside)
        .await?;
        Ok((missing.into_iter().map(FaceId).collect(), last.map(FaceId)))
    }

    /// The chips of some faces; those that are gone, or are being erased, are missing.
    pub async fn chips_to_embed(&self, faces: &[FaceId]) -> Result<ReadChips, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let rows: Vec<ChipRow> = sqlx::query_as(
            "select f.id, f.chip, k.key, k.master_id from lasting_faces f left join chip_keys k on k.face_id = f.id \
             where f.id = any($1) and f.chip is not null",
        )
        .bind(ids)
        .fetch_all(&self.beside)
        .await?;
        readable(open_all(&self.keyring, rows).await?)
    }

    /// How many faces of all galleries have a chip but no embedding of the model, but for those that were set aside. Reads all
    /// faces, for as long as whoever asks waits.
    pub async fn count_missing_embeddings(&self, model: ModelId) -> Result<u64, GalleryError> {
        count_missing(&self.pool.without_limits(), model).await
    }

    /// As [`Self::count_missing_embeddings`], as a transaction sees it.
    pub async fn count_missing_within(&self, held: &mut Transaction, model: ModelId) -> Result<u64, GalleryError> {
        count_missing(&mut **held, model).await
    }

    /// Faces that no switch to a model could keep: they have neither a chip nor an embedding of it.
    pub async fn count_without_chip(&self, id: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from lasting_faces f where f.chip is null \
             and not exists (select from embeddings e where e.face_id = f.id and e.model_id = $1)",
        )
        .bind(id.0)
        .fetch_one(&self.pool.without_limits())
        .await?;
        Ok(count.unsigned_abs())
    }

    /// How many embeddings of a model there are.
    pub async fn count_embeddings(&self, id: ModelId) -> Result<u64, GalleryError> {
        let count: i64 =
            sqlx::query_scalar("select coalesce(sum(faces), 0)::bigint from templates where model_id = $1")
                .bind(id.0)
                .fetch_one(&self.pool.without_limits())
                .await?;
        Ok(count.unsigned_abs())
    }

    /// Embeddings of the model of up to `subjects` subjects of a gallery, first of those with two photos or more, and up to `each`
    /// of everybody, one of a photo; by subject. Which ones does not change while nobody comes or goes.
    pub async fn sample_of_embeddings(
        &self,
        gallery: GalleryId,
        model: ModelId,
        subjects: u32,
        each: u32,
    ) -> Result<Vec<Vec<(PhotoId, StoredEmbedding)>>, GalleryError> {
        // Of a face without a photo nobody knows whether it is a copy.
        let rows: Vec<(Vec<Vec<u8>>, Vec<HalfVector>)> = sqlx::query_as(
            concat!("with known as materialized (select e.subject_id, e.face_id, \
               coalesce(", photo!("f"), ", sha256(uuid_send(f.id))) as photo \
               from embeddings e join present_faces f on f.id = e.face_id where e.model_id = $1 and e.gallery_id = $2), \
             chosen as (select subject_id from known group by subject_id \
               order by (count(distinct photo) > 1) desc, md5(subject_id::text) limit $3), \
             distinct_photos as (select distinct on (c.subject_id, k.photo) c.subject_id, k.* \
               from chosen c cross join lateral ( \
                 select e.face_id, e.embedding, coalesce(", photo!("f"), ", sha256(uuid_send(f.id))) as photo \
                 from embeddings e join faces f on f.id = e.face_id \
                 where e.gallery_id = $2 and e.subject_id = c.subject_id and e.model_id = $1 \
               ) k order by c.subject_id, k.photo, k.face_id), \
             numbered as (select *, row_number() over (partition by subject_id order by face_id) as number \
               from distinct_photos) \
             select array_agg(photo order by face_id), array_agg(embedding order by face_id) \
             from numbered where number <= $4 group by subject_id order by subject_id"),
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(i64::from(subjects))
        .bind(i64::from(each))
        .fetch_all(&self.pool.without_limits())
        .await?;
        let face = |(photo, embedding): (Vec<u8>, HalfVector)| {
            Ok((PhotoId::new(photo)?, StoredEmbedding::new(embedding.to_vec())))
        };
        rows.into_iter().map(|(photos, faces)| photos.into_iter().zip(faces).map(face).collect()).collect()
    }

    /// Stores embeddings of the model and returns how many were new. Leaves those alone that exist, and skips
    /// faces that were deleted meanwhile.
    pub async fn store_embeddings(
        &self,
        model: ModelId,
        embeddings: &[(FaceId, Embedding)],
    ) -> Result<u64, GalleryError> {
        let dimension = self.known_dimension(&mut *self.beside.acquire().await?, model).await?;
        for (_, embedding) in embeddings {
            check_dimension(dimension, embedding.dimension())?;
        }
        let (faces, vectors): (Vec<Uuid>, Vec<HalfVector>) =
            embeddings.iter().map(|(face, e)| (face.0, HalfVector::from_f32_slice(e.as_slice()))).unzip();
        let norms: Vec<f32> = embeddings.iter().map(|(_, e)| e.norm()).collect();
        let mut transaction = self.beside.begin().await?;
        // Subjects first and in the order of ids, as everyone locks them who changes what they have. A face that goes to another
        // one meanwhile is left out.
        let held: Vec<Uuid> = sqlx::query_scalar(
            "select id from subjects where id in (select subject_id from faces where id = any($1)) \
             order by id for no key update",
        )
        .bind(&faces)
        .fetch_all(&mut *transaction)
        .await?;
        let stored = sqlx::query(
            "with present as ( \
               select f.id, f.gallery_id, f.subject_id from faces f join subjects s on s.id = f.subject_id \
               join galleries g on g.id = f.gallery_id \
               where f.id = any($2) and f.subject_id = any($5) and (s.erased_at is null or s.merged_into is not null) \
               and g.erased_at is null \
               and exists (select from models where id = $1 and state <> 'retired') order by f.id for key share of f \
             ) \
             insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding, norm) \
             select p.id, $1, p.gallery_id, p.subject_id, e.embedding, e.norm from present p \
             join unnest($2::uuid[], $3::halfvec[], $4::real[]) as e (face_id, embedding, norm) on e.face_id = p.id \
             on conflict on constraint embedding_pkey do nothing",
        )
        .bind(model.0)
        .bind(faces)
        .bind(vectors)
        .bind(norms)
        .bind(held)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(stored.rows_affected())
    }
}

async fn count_missing(executor: impl PgExecutor<'_>, model: ModelId) -> Result<u64, GalleryError> {
    let count: i64 = sqlx::query_scalar("select count(*) from faces_to_embed where model_id = $1")
        .bind(model.0)
        .fetch_one(executor)
        .await?;
    Ok(count.unsigned_abs())
}
