//! What changed, for whoever holds templates in memory.
//!
//! Triggers write to the table `changes` which subjects changed. A reader takes those of transactions that it has not
//! seen yet and reads their templates anew, so the order of changes does not matter and reading one twice does no harm.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgListener, PgPool};
use uuid::Uuid;

use super::search::TemplateRow;
use super::{Galleries, Gallery, GalleryError};
use crate::db::{listen, notify};
use crate::index::About;
use crate::types::{GalleryId, ModelId, StoredEmbedding, SubjectId};

/// Channel of the notifications. They only save waiting: what they announce is in the table.
pub(super) const CHANNEL: &str = "faceid_changes";

/// Templates that are read at once.
const CHUNK: usize = 1000;

/// Changes are kept for this long; a reader that was away for longer starts over.
pub const CHANGES_KEPT: Duration = Duration::from_secs(3600);

/// A template with what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub gallery: GalleryId,
    pub about: About,
    pub embedding: StoredEmbedding,
}

/// What changed since a feed was last read, as it is now.
#[derive(Debug, Default)]
pub struct Changes {
    /// Subjects of which no template is left.
    pub gone: Vec<(GalleryId, SubjectId)>,
    pub templates: Vec<Template>,
    pub galleries: Vec<Gallery>,
    pub galleries_gone: Vec<GalleryId>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.templates.is_empty() && self.galleries.is_empty() && self.galleries_gone.is_empty()
    }
}

/// Reads the templates of one model and every change of them. Has none of the connections of requests, so that
/// a request that holds one can wait for it.
pub struct Feed {
    pool: PgPool,
    model: ModelId,
    /// Every transaction below was seen.
    cursor: u64,
    /// Changes of later transactions that were seen.
    seen: HashSet<i64>,
    /// When the PostgreSQL that counts the transactions was started.
    server: String,
    lost: bool,
}

impl Galleries {
    pub fn feed(&self, model: ModelId) -> Feed {
        Feed { pool: self.beside.clone(), model, cursor: 0, seen: HashSet::new(), server: String::new(), lost: false }
    }

    /// Templates of a model in one gallery.
    pub async fn count_templates_in(&self, gallery: GalleryId, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar("select count(*) from templates where model_id = $1 and gallery_id = $2")
            .bind(model.0)
            .bind(gallery.0)
            .fetch_one(&self.pool)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Templates of a model in all galleries.
    pub async fn count_templates(&self, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar("select count(*) from templates where model_id = $1")
            .bind(model.0)
            .fetch_one(&self.pool)
            .await?;
        Ok(count.unsigned_abs())
    }
}

impl Feed {
    /// Starts over: gives all galleries, then all templates.
    pub async fn load(
        &mut self,
        mut gallery: impl FnMut(Gallery),
        mut template: impl FnMut(Template),
    ) -> Result<(), GalleryError> {
        let (cursor, server): (String, String) =
            sqlx::query_as("select pg_snapshot_xmin(pg_current_snapshot())::text, pg_postmaster_start_time()::text")
                .fetch_one(&self.pool)
                .await?;
        // What is committed from here on comes again as a change.
        self.cursor = cursor.parse().map_err(|_| GalleryError::Inconsistent("a transaction id is no number"))?;
        (self.server, self.lost) = (server, false);
        self.seen.clear();
        let mut galleries =
            sqlx::query_as("select id, name, policy, created_at from galleries where erased_at is null")
                .fetch(&self.pool);
        while let Some(row) = galleries.try_next().await? {
            gallery(row);
        }
        drop(galleries);
        let mut rows = sqlx::query_as::<_, FedRow>(
            "select t.gallery_id, t.subject_id, s.name as subject, t.faces, t.face_id, t.embedding \
             from templates t join subjects s on s.id = t.subject_id join galleries g on g.id = t.gallery_id \
             where t.model_id = $1 and g.erased_at is null",
        )
        .bind(self.model.0)
        .fetch(&self.pool);
        while let Some(row) = rows.try_next().await? {
            template(row.into());
        }
        Ok(())
    }

    /// Whether changes may have been missed, so that only [`Self::load`] helps.
    ///
    /// A server that crashed, or a standby that took over, gives numbers of transactions again that left no trace in what
    /// was written down: changes of such transactions would count as seen.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// What was committed since the last call, or since [`Self::load`]. Fails from the moment on in which it [is
    /// lost](Self::is_lost).
    pub async fn next(&mut self) -> Result<Changes, GalleryError> {
        let rows: Vec<ChangeRow> = sqlx::query_as(
            "with now as materialized (select pg_snapshot_xmin(pg_current_snapshot()) as oldest) \
             select now.oldest::text as oldest, pg_postmaster_start_time()::text as server, \
             c.sequence, c.gallery_id, c.subject_id \
             from now left join changes c on c.transaction >= $1::text::xid8",
        )
        .bind(self.cursor.to_string())
        .fetch_all(&self.pool)
        .await?;
        let mut seen = HashSet::new();
        let (mut galleries, mut subjects) = (BTreeSet::new(), BTreeSet::new());
        let mut oldest = self.cursor;
        for row in rows {
            oldest = row.oldest.parse().map_err(|_| GalleryError::Inconsistent("a transaction id is no number"))?;
            if oldest < self.cursor || row.server != self.server {
                self.lost = true;
                return Err(GalleryError::Inconsistent("PostgreSQL was started anew, or another one took its place"));
            }
            let (Some(sequence), Some(gallery)) = (row.sequence, row.gallery_id) else { continue };
            seen.insert(sequence);
            if self.seen.contains(&sequence) {
                continue;
            }
            match row.subject_id {
                Some(subject) => _ = subjects.insert((gallery, subject)),
                None => _ = galleries.insert(gallery),
            }
        }
        let changes = self.read(galleries, subjects).await?;
        (self.cursor, self.seen) = (oldest, seen);
        Ok(changes)
    }

    async fn read(&self, galleries: BTreeSet<Uuid>, subjects: BTreeSet<(Uuid, Uuid)>) -> Result<Changes, GalleryError> {
        let mut changes = Changes::default();
        let subjects: Vec<(Uuid, Uuid)> = subjects.into_iter().collect();
        for chunk in subjects.chunks(CHUNK) {
            let ids: Vec<Uuid> = chunk.iter().map(|(_, subject)| *subject).collect();
            let rows: Vec<FedRow> = sqlx::query_as(
                "select t.gallery_id, t.subject_id, s.name as subject, t.faces, t.face_id, t.embedding \
                 from templates t join subjects s on s.id = t.subject_id join galleries g on g.id = t.gallery_id \
                 where t.model_id = $1 and t.subject_id = any($2) and g.erased_at is null",
            )
            .bind(self.model.0)
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
            let present: HashSet<Uuid> = rows.iter().map(|row| row.template.subject_id).collect();
            let gone = chunk.iter().filter(|(_, subject)| !present.contains(subject));
            changes.gone.extend(gone.map(|(gallery, subject)| (GalleryId(*gallery), SubjectId(*subject))));
            changes.templates.extend(rows.into_iter().map(Template::from));
        }
        if !galleries.is_empty() {
            let ids: Vec<Uuid> = galleries.iter().copied().collect();
            changes.galleries = sqlx::query_as(
                "select id, name, policy, created_at from galleries where id = any($1) and erased_at is null",
            )
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
            let present: HashSet<Uuid> = changes.galleries.iter().map(|gallery| gallery.id.0).collect();
            changes.galleries_gone =
                galleries.difference(&present.into_iter().collect()).map(|id| GalleryId(*id)).collect();
        }
        Ok(changes)
    }

    /// Wakes whoever listens at other servers.
    pub async fn announce(&self) -> Result<(), GalleryError> {
        Ok(notify(&self.pool, CHANNEL).await?)
    }

    /// Forgets changes that every reader has seen or is too late for.
    pub async fn prune(&self) -> Result<(), GalleryError> {
        sqlx::query("delete from changes where changed_at < now() - $1::float8 * interval '1 second'")
            .bind(CHANGES_KEPT.as_secs_f64())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Hears of changes that other servers announce.
    pub async fn listen(&self) -> Result<Announcements, GalleryError> {
        Ok(Announcements(listen(&self.pool, CHANNEL).await?))
    }
}

/// Announcements of changes.
pub struct Announcements(PgListener);

impl Announcements {
    /// Waits for the next.
    pub async fn next(&mut self) -> Result<(), GalleryError> {
        self.0.recv().await?;
        Ok(())
    }
}

/// A change, with the oldest transaction that was running when it was read; without one if nothing changed.
#[derive(sqlx::FromRow)]
struct ChangeRow {
    oldest: String,
    server: String,
    sequence: Option<i64>,
    gallery_id: Option<Uuid>,
    subject_id: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct FedRow {
    gallery_id: Uuid,
    #[sqlx(flatten)]
    template: TemplateRow,
}

impl From<FedRow> for Template {
    fn from(row: FedRow) -> Self {
        let (about, embedding) = row.template.into_parts();
        Self { gallery: GalleryId(row.gallery_id), about, embedding }
    }
}
