//! Embeddings of another model: what is missing of them, and storing them.

use pgvector::HalfVector;
use uuid::Uuid;

use super::{Galleries, GalleryError, PhotoId, check_dimension};
use crate::types::{Embedding, FaceId, GalleryId, ModelId, StoredEmbedding};

impl Galleries {
    /// Up to `limit` faces of all galleries that have a chip (JPEG) but no embedding of the model, with it, by id
    /// from after `after` on. Faces enrolled meanwhile may come before `after`: the work is done when a pass from
    /// the start (`None`) finds nothing.
    pub async fn missing_embeddings(
        &self,
        model: ModelId,
        after: Option<FaceId>,
        limit: u32,
    ) -> Result<Vec<(FaceId, Vec<u8>)>, GalleryError> {
        let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
            "select f.id, f.chip from faces f where f.id > $2 and f.chip is not null \
             and not exists (select from embeddings e where e.face_id = f.id and e.model_id = $1) \
             order by f.id limit $3",
        )
        .bind(model.0)
        .bind(after.map_or(Uuid::nil(), |face| face.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id, chip)| (FaceId(id), chip)).collect())
    }

    /// How many faces of all galleries have a chip but no embedding of the model.
    pub async fn count_missing_embeddings(&self, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from faces f \
             where f.chip is not null and not exists (select from embeddings e where e.face_id = f.id and e.model_id = $1)",
        )
        .bind(model.0)
        .fetch_one(&self.pool)
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
            "with known as materialized (select e.subject_id, e.face_id, \
               coalesce(f.image_sha256, sha256(f.chip), sha256(uuid_send(f.id))) as photo \
               from embeddings e join faces f on f.id = e.face_id where e.model_id = $1 and e.gallery_id = $2), \
             chosen as (select subject_id from known group by subject_id \
               order by (count(distinct photo) > 1) desc, md5(subject_id::text) limit $3), \
             distinct_photos as (select distinct on (k.subject_id, k.photo) k.* \
               from known k join chosen using (subject_id) order by k.subject_id, k.photo, k.face_id), \
             numbered as (select *, row_number() over (partition by subject_id order by face_id) as number \
               from distinct_photos) \
             select array_agg(n.photo order by n.face_id), array_agg(e.embedding order by n.face_id) \
             from numbered n join embeddings e on e.face_id = n.face_id and e.model_id = $1 \
             where n.number <= $4 group by n.subject_id order by n.subject_id",
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(i64::from(subjects))
        .bind(i64::from(each))
        .fetch_all(&self.pool)
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
        // Locked in the order of ids, so that two such statements cannot block each other for good.
        let stored = sqlx::query(
            "with present as ( \
               select id, gallery_id, subject_id from faces where id = any($2) \
               and exists (select from models where id = $1 and state <> 'retired') order by id for key share \
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
        .execute(&self.pool)
        .await?;
        Ok(stored.rows_affected())
    }
}
