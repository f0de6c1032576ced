//! Builds the index of a gallery.

use sqlx::{AssertSqlSafe, PgConnection};
use tracing::warn;

use super::room::Effort;
use super::{CONSIDERED, NEIGHBOURS};
use crate::types::{GalleryId, ModelId};

/// An index that a gallery is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// One of ours: letters, digits and underscores.
    pub name: &'a str,
    pub gallery: GalleryId,
    pub model: ModelId,
    pub dimension: usize,
}

impl Wanted<'_> {
    /// Whether it is there, in whole.
    pub async fn exists(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("select exists (select from pg_index where indexrelid = to_regclass($1) and indisvalid)")
            .bind(self.name)
            .fetch_one(connection)
            .await
    }

    /// Builds it, without locking out enrolments. Changes what `session` is set to.
    ///
    /// Several processes take the memory for the graph from the shared one, of which a container may have little. If that is
    /// what they lack, one process does it.
    pub async fn build(&self, session: &mut PgConnection, effort: Effort) -> Result<(), sqlx::Error> {
        match self.attempt(session, effort).await {
            Err(error) if effort.is_parallel && is_short_of_memory(&error) => {
                warn!(%error, index = self.name, "too little memory to build an index by several processes; one builds it");
                self.attempt(session, Effort { is_parallel: false, ..effort }).await
            }
            built => built,
        }
    }

    async fn attempt(&self, session: &mut PgConnection, effort: Effort) -> Result<(), sqlx::Error> {
        // A build that was broken off has left one that nobody can use, and that every enrolment goes on filling.
        self.drop(session).await?;
        let workers = if effort.is_parallel { "default" } else { "0" };
        for setting in [
            format!("maintenance_work_mem = '{}kB'", effort.memory >> 10),
            format!("max_parallel_maintenance_workers = {workers}"),
        ] {
            sqlx::query(AssertSqlSafe(format!("set {setting}"))).execute(&mut *session).await?;
        }
        // Ids and a number: nothing that would need quoting beyond this. It takes two passes.
        let Self { name, gallery, model, dimension } = self;
        let create = format!(
            "create index concurrently {name} on templates \
             using hnsw ((embedding::halfvec({dimension})) halfvec_ip_ops) \
             with (m = {NEIGHBOURS}, ef_construction = {CONSIDERED}) \
             where model_id = '{}' and gallery_id = '{}'",
            model.0, gallery.0
        );
        let created = sqlx::query(AssertSqlSafe(create)).execute(&mut *session).await;
        if created.is_err()
            && let Err(error) = self.drop(session).await
        {
            warn!(%error, index = self.name, "cannot drop an index whose build failed; the next attempt will");
        }
        created.map(drop)
    }

    async fn drop(&self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        let drop = format!("drop index concurrently if exists {}", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(session).await?;
        Ok(())
    }
}

/// Insufficient resources (class 53), or an error of the system (58030), which is how Postgres may report that shared memory
/// cannot be had.
fn is_short_of_memory(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("53") || code == "58030")
}

#[cfg(test)]
mod tests {
    use nix::sys::statvfs::statvfs;
    use sqlx::Executor;
    use sqlx::postgres::PgPool;

    use super::*;
    use crate::db::testing::database;
    use crate::gallery::DEFAULT_GALLERY;

    const NAME: &str = "template_hnsw_test";

    /// A gallery with templates of 8 numbers.
    async fn templates() -> (PgPool, Wanted<'static>) {
        let pools = database().await;
        let model = ModelId::new();
        sqlx::query("insert into models (id, name, sha256, dimension) values ($1, 'test', $2, 8)")
            .bind(model.0)
            .bind([1_u8; 32].as_slice())
            .execute(&pools.beside)
            .await
            .unwrap();
        sqlx::query(
            "with made as (insert into subjects (id, gallery_id, name) \
               select gen_random_uuid(), $1, number::text from generate_series(1, 500) number returning id) \
             insert into templates (model_id, gallery_id, subject_id, embedding, faces) \
             select $2, $1, id, (select array_agg(random() - 0.5) from generate_series(1, 8) where id is not null)::halfvec, 1 \
             from made",
        )
        .bind(DEFAULT_GALLERY.0)
        .bind(model.0)
        .execute(&pools.beside)
        .await
        .unwrap();
        // By several processes, however few the rows are.
        sqlx::query("alter table templates set (parallel_workers = 2)").execute(&pools.beside).await.unwrap();
        (pools.beside, Wanted { name: NAME, gallery: DEFAULT_GALLERY, model, dimension: 8 })
    }

    #[tokio::test]
    async fn several_processes_or_one_build_it() {
        let (pool, wanted) = templates().await;
        let mut session = pool.acquire().await.unwrap();
        for is_parallel in [true, false] {
            assert!(!wanted.exists(&mut session).await.unwrap());
            wanted.build(&mut session, Effort { memory: 128 << 20, is_parallel }).await.unwrap();
            assert!(wanted.exists(&mut session).await.unwrap());
            wanted.drop(&mut session).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_a_broken_build_left_is_built_anew() {
        let (pool, wanted) = templates().await;
        let mut session = pool.acquire().await.unwrap();
        let effort = Effort { memory: 64 << 20, is_parallel: false };
        wanted.build(&mut session, effort).await.unwrap();
        let invalid = format!("update pg_index set indisvalid = false where indexrelid = '{NAME}'::regclass");
        session.execute(AssertSqlSafe(invalid)).await.unwrap();
        assert!(!wanted.exists(&mut session).await.unwrap());
        wanted.build(&mut session, effort).await.unwrap();
        assert!(wanted.exists(&mut session).await.unwrap());
    }

    #[tokio::test]
    async fn without_shared_memory_one_process_builds_it() {
        let (pool, wanted) = templates().await;
        let mut session = pool.acquire().await.unwrap();
        // More than there is.
        let about = statvfs("/dev/shm").unwrap();
        let too_much = Effort { memory: about.blocks() * about.fragment_size() + (1 << 30), is_parallel: true };
        let error = wanted.attempt(&mut session, too_much).await.unwrap_err();
        assert!(is_short_of_memory(&error), "{error}");
        // Nothing is left of it.
        let left: i64 = sqlx::query_scalar("select count(*) from pg_class where relname = $1")
            .bind(NAME)
            .fetch_one(&mut *session)
            .await
            .unwrap();
        assert_eq!(left, 0);
        wanted.build(&mut session, too_much).await.unwrap();
        assert!(wanted.exists(&mut session).await.unwrap());
    }
}
