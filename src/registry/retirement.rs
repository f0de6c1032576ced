//! Retiring a model: from then on it is of no use to anybody, and its embeddings are deleted in pieces.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::note;
use super::lifecycle::{hold_exclusively, rollback_target};
use super::{Actor, Model, ModelState, Registry, RegistryError, announce, shadow};
use crate::db::{MODELS_LOCK, Transaction, lock_shared};
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

impl Registry {
    /// Retires a model when the transaction commits. It must not be active or about to be, nor, unless `even_rollback`, be what a
    /// rollback would make active. Can be done again.
    pub async fn retire(
        &self,
        transaction: &mut Transaction,
        id: ModelId,
        even_rollback: bool,
        actor: Actor,
    ) -> Result<(), RegistryError> {
        hold_exclusively(transaction).await?;
        let model: Option<Model> =
            sqlx::query_as("select * from models where id = $1").bind(id.0).fetch_optional(&mut **transaction).await?;
        let model = model.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))?;
        let in_use = |role| Err(RegistryError::ModelInUse { name: model.name.clone(), role });
        model.not_active()?;
        if model.is_target {
            return in_use("being promoted, or in the shadow");
        }
        let rollback = rollback_target(transaction).await?;
        if !even_rollback && rollback.is_some_and(|rollback| rollback.id == id) {
            return in_use("what a rollback would make active; `force` retires it all the same");
        }
        sqlx::query(
            "update models set state = 'retired', format = null, file_bytes = null, verdict = null where id = $1",
        )
        .bind(id.0)
        .execute(&mut **transaction)
        .await?;
        shadow::forget(transaction, id).await?;
        note(transaction, actor, "model.retire", Some(id), json!({"state": model.state.as_str()})).await?;
        announce(transaction).await
    }

    /// Retired models that still have embeddings.
    pub async fn half_retired(&self) -> Result<Vec<Model>, RegistryError> {
        let models = sqlx::query_as(
            "select * from models m where state = 'retired' and exists (select from templates where model_id = m.id)",
        );
        Ok(models.fetch_all(&self.beside).await?)
    }

    /// What is left of a model that is retired.
    pub async fn count_left(&self, id: ModelId) -> Result<Retirement, RegistryError> {
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

    /// Deletes a piece of the embeddings of a model, if it is retired, after `place`, which it moves on: how many. `None`:
    /// nothing is left.
    pub async fn delete_piece(&self, id: ModelId, place: &mut RetirementPlace) -> Result<Option<u64>, RegistryError> {
        let mut transaction = self.beside.begin().await?;
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
    async fn delete_rest(&self, id: ModelId) -> Result<(), RegistryError> {
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
) -> Result<(Vec<Uuid>, Vec<Uuid>), RegistryError> {
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

/// Refuses a retired model whose embeddings are not all deleted yet: it may come back reading its chips otherwise.
pub(super) async fn refuse_while_retiring(connection: &mut PgConnection, model: &Model) -> Result<(), RegistryError> {
    if model.state != ModelState::Retired {
        return Ok(());
    }
    let left: bool = sqlx::query_scalar("select exists (select from templates where model_id = $1)")
        .bind(model.id.0)
        .fetch_one(connection)
        .await?;
    match left {
        true => {
            let role = "being retired; import it again when its embeddings are deleted";
            Err(RegistryError::ModelInUse { name: model.name.clone(), role })
        }
        false => Ok(()),
    }
}
