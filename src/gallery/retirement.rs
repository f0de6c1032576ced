//! Deleting the embeddings of a model that is retired, in pieces.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::db::{MODELS_LOCK, lock_shared};
use crate::types::ModelId;

/// Faces, and subjects, whose embeddings are deleted in one transaction; a subject is never split.
const PIECE: i64 = 300;

/// What retiring a model deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retirement {
    pub embeddings: u64,
    /// Faces of which nothing is left to find them by: they have no chip, and no embedding of another model.
    pub lost_faces: u64,
}

/// How far the pieces are: the gallery and the subject whose embeddings were deleted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetirementPlace(Option<(Uuid, Uuid)>);

impl Galleries {
    /// What is left of a model that is retired.
    pub async fn count_retired(&self, id: ModelId) -> Result<Retirement, GalleryError> {
        let (embeddings, lost_faces): (i64, i64) = sqlx::query_as(
            "select (select coalesce(sum(faces), 0)::bigint from templates where model_id = $1), \
             (select count(*) from faces f join embeddings e on e.face_id = f.id and e.model_id = $1 \
              where f.chip is null and not exists ( \
                select from embeddings other where other.face_id = f.id and other.model_id <> $1))",
        )
        .bind(id.0)
        .fetch_one(&self.beside)
        .await?;
        Ok(Retirement { embeddings: embeddings.unsigned_abs(), lost_faces: lost_faces.unsigned_abs() })
    }

    /// Whether there are embeddings of a model.
    pub async fn has_embeddings(&self, id: ModelId) -> Result<bool, GalleryError> {
        let has = sqlx::query_scalar("select exists (select from templates where model_id = $1)");
        Ok(has.bind(id.0).fetch_one(&self.beside).await?)
    }

    /// Deletes a piece of the embeddings of a model, if it is retired, after `place`, which it moves on: how many. `None`:
    /// nothing is left.
    pub async fn erase_model_piece(
        &self,
        id: ModelId,
        place: &mut RetirementPlace,
    ) -> Result<Option<u64>, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        // Whoever promotes holds this for a while; other work in the background does not wait for that.
        sqlx::query("set local lock_timeout = '5s'").execute(&mut *transaction).await?;
        // While it lasts, nobody imports the model again.
        lock_shared(&mut transaction, MODELS_LOCK).await?;
        let (galleries, subjects) = next_subjects(&mut transaction, id, *place).await?;
        let passed = place.0.is_some();
        place.0 = galleries.last().copied().zip(subjects.last().copied());
        if place.0.is_none() {
            transaction.commit().await?;
            // What was added to subjects before `place` meanwhile is found in another pass.
            return if passed { Ok(Some(0)) } else { self.delete_rest(id).await.map(|()| None) };
        }
        // In the order of ids and before their embeddings, as everyone locks them who changes both.
        sqlx::query("select from subjects where id = any($1) order by id for no key update")
            .bind(&subjects)
            .execute(&mut *transaction)
            .await?;
        let deleted = sqlx::query(
            "delete from embeddings e using unnest($2::uuid[], $3::uuid[]) as k (gallery_id, subject_id) \
             where e.gallery_id = k.gallery_id and e.subject_id = k.subject_id and e.model_id = $1",
        )
        .bind(id.0)
        .bind(&galleries)
        .bind(&subjects)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(Some(deleted))
    }

    /// What is left beside embeddings.
    async fn delete_rest(&self, id: ModelId) -> Result<(), GalleryError> {
        for rest in [
            "delete from findings where model_id = (select id from models where id = $1 and state = 'retired')",
            "delete from search_indexes where model_id = (select id from models where id = $1 and state = 'retired')",
            "delete from gallery_rates where model_id = (select id from models where id = $1 and state = 'retired')",
            "delete from quarantine where model_id = (select id from models where id = $1 and state = 'retired')",
        ] {
            sqlx::query(rest).bind(id.0).execute(&self.beside).await?;
        }
        Ok(())
    }
}

/// Galleries and ids of the subjects of a piece, in the order of the index.
async fn next_subjects(
    connection: &mut PgConnection,
    id: ModelId,
    RetirementPlace(after): RetirementPlace,
) -> Result<(Vec<Uuid>, Vec<Uuid>), GalleryError> {
    let (gallery, subject) = after.unwrap_or_default();
    let rows: Vec<(Uuid, Uuid, i32)> = sqlx::query_as(
        "select gallery_id, subject_id, faces from templates \
         where model_id = (select id from models where id = $1 and state = 'retired') \
         and (gallery_id, subject_id) > ($2, $3) order by gallery_id, subject_id limit $4",
    )
    .bind(id.0)
    .bind(gallery)
    .bind(subject)
    .bind(PIECE)
    .fetch_all(connection)
    .await?;
    let mut faces = 0;
    let piece = rows.into_iter().take_while(|(.., of_one)| {
        let fits = faces < PIECE;
        faces += i64::from(*of_one);
        fits
    });
    Ok(piece.map(|(gallery, subject, _)| (gallery, subject)).unzip())
}
