//! What changed, for whoever holds templates in memory.
//!
//! Triggers write to the table `changes` which subjects changed. A reader takes those of transactions that it has not
//! seen yet and reads their templates anew, so the order of changes does not matter and reading one twice does no harm.
//! Whether changes can have been missed never depends on clocks: the database says how far its log was [pruned](readers),
//! and a reader compares the [identity](identity) of the database with that which it began with.

mod identity;
mod readers;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use super::galleries::gallery_columns;
use super::search::TemplateRow;
use super::{Galleries, Gallery, GalleryError};
use crate::db::{DbError, Notifications, Topic, notify};
use crate::index::About;
use crate::types::{GalleryId, ModelId, StoredEmbedding, SubjectId};
use identity::Identity;
pub use readers::CHANGES_KEPT;
use readers::SEEN_WITHIN;

/// Templates that are read at once.
const CHUNK: usize = 1000;

/// How long PostgreSQL may take to read the log. It takes milliseconds, but a lock may have to be waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Galleries that exist: all, or those of `$1`.
const GALLERIES: &str = concat!(
    "select ",
    gallery_columns!(),
    " from galleries where ($1::uuid[] is null or id = any($1)) and erased_at is null"
);

/// Templates of the model `$1`: all, or those of the subjects `$2`.
const TEMPLATES: &str = "select t.gallery_id, t.subject_id, s.name as subject, t.faces, t.face_id, t.embedding \
    from templates t join subjects s on s.id = t.subject_id \
    where t.model_id = $1 and ($2::uuid[] is null or t.subject_id = any($2)) and s.erased_at is null";

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
    notifications: Notifications,
    model: ModelId,
    /// Among the readers that the database knows.
    id: Uuid,
    /// Every transaction below was seen.
    cursor: u64,
    /// Changes of later transactions that were seen.
    seen: HashSet<i64>,
    /// Of the database that counts the transactions.
    identity: Identity,
    /// Galleries that exist. Templates of others are left out: whatever brings their gallery brings them as well.
    galleries: HashSet<Uuid>,
    /// The state of the database that was read last, and a moment that was not later.
    snapshot: String,
    taken: Instant,
    /// Whether what was read last brought changes that have not been [confirmed](Self::confirm).
    is_news: bool,
    /// Whether those who erase waited for this reader when it read last.
    is_counted: bool,
    confirmed: Option<Instant>,
    is_lost: bool,
}

impl Galleries {
    pub fn feed(&self, model: ModelId) -> Feed {
        Feed {
            pool: self.beside.clone(),
            notifications: self.notifications.clone(),
            model,
            id: Uuid::now_v7(),
            cursor: 0,
            seen: HashSet::new(),
            identity: Identity::default(),
            galleries: HashSet::new(),
            snapshot: String::new(),
            taken: Instant::now(),
            is_news: false,
            is_counted: false,
            confirmed: None,
            is_lost: false,
        }
    }

    /// Templates of a model in one gallery.
    pub async fn count_templates_in(&self, gallery: GalleryId, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar("select count(*) from templates where model_id = $1 and gallery_id = $2")
            .bind(model.0)
            .bind(gallery.0)
            .fetch_one(&self.pool.cancellable())
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Templates of a model in all galleries.
    pub async fn count_templates(&self, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar("select count(*) from templates where model_id = $1")
            .bind(model.0)
            .fetch_one(&self.pool.cancellable())
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
        self.start_over().await?;
        let all: Option<Vec<Uuid>> = None;
        let mut galleries = sqlx::query_as::<_, Gallery>(GALLERIES).bind(&all).fetch(&self.pool);
        let mut known = HashSet::new();
        while let Some(row) = galleries.try_next().await? {
            known.insert(row.id.0);
            gallery(row);
        }
        drop(galleries);
        let mut rows = sqlx::query_as::<_, FedRow>(TEMPLATES).bind(self.model.0).bind(&all).fetch(&self.pool);
        while let Some(row) = rows.try_next().await? {
            if known.contains(&row.gallery_id) {
                template(row.into());
            }
        }
        drop(rows);
        self.galleries = known;
        Ok(())
    }

    /// Notes which database this is and where its log ends: what is committed from here on comes again as a change.
    async fn start_over(&mut self) -> Result<(), GalleryError> {
        let mut connection = self.pool.acquire().await?;
        let identity = identity::adopt_ids(&mut connection).await?;
        let sql = format!(
            "select pg_snapshot_xmin(now.snapshot)::text, now.snapshot::text, {identity} \
             from (select pg_current_snapshot() as snapshot) now"
        );
        let taken = Instant::now();
        let (oldest, snapshot, is): (String, String, String) =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
        self.identity = Identity { sql: identity, is };
        (self.cursor, self.snapshot, self.taken) = (transaction(&oldest)?, snapshot, taken);
        self.seen.clear();
        (self.is_news, self.is_counted, self.confirmed, self.is_lost) = (false, false, None, false);
        Ok(())
    }

    /// Whether changes may have been missed, so that only [`Self::load`] helps: they were deleted before they were read, the
    /// database is another one or an earlier state of it, or reading them failed for a reason that does not pass.
    ///
    /// A server that crashed, or a standby that took over, gives numbers of transactions again that left no trace in what
    /// was written down: changes of such transactions would count as seen.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// A moment not later than the state of the database that [`Self::next`] gave last: how old a memory is that has it counts
    /// from here, however long reading and applying it took.
    pub fn taken(&self) -> Instant {
        self.taken
    }

    /// What was committed since the last call, or since [`Self::load`]. Fails from the moment on in which it [is
    /// lost](Self::is_lost). Called again after a failure that passes, it gives the same and more.
    pub async fn next(&mut self) -> Result<Changes, GalleryError> {
        if self.is_lost {
            return Err(GalleryError::Inconsistent("changes may have been missed"));
        }
        let changes = self.read_on().await;
        let passes = match &changes {
            Ok(_) => true,
            Err(GalleryError::Db(error)) => error.may_pass(),
            Err(_) => false,
        };
        self.is_lost |= !passes;
        changes
    }

    async fn read_on(&mut self) -> Result<Changes, GalleryError> {
        let (log, taken) = self.read_log().await?;
        let oldest = transaction(&log.oldest)?;
        if !log.is_same || oldest < self.cursor {
            return Err(GalleryError::Inconsistent("PostgreSQL was started anew, or another one took its place"));
        }
        if !log.is_whole {
            return Err(GalleryError::Inconsistent("changes were deleted before they were read"));
        }
        let sequences = log.sequences.unwrap_or_default();
        let (mut galleries, mut subjects) = (BTreeSet::new(), BTreeSet::new());
        let about = log.galleries.unwrap_or_default().into_iter().zip(log.subjects.unwrap_or_default());
        for (_, (gallery, subject)) in sequences.iter().zip(about).filter(|(n, _)| !self.seen.contains(n)) {
            match subject {
                Some(subject) => _ = subjects.insert((gallery, subject)),
                None => _ = galleries.insert(gallery),
            }
        }
        let changes = self.read(galleries, subjects).await?;
        (self.cursor, self.seen) = (oldest, sequences.into_iter().collect());
        (self.snapshot, self.taken, self.is_counted) = (log.snapshot, taken, log.is_counted);
        self.is_news |= !changes.is_empty();
        Ok(changes)
    }

    /// The end of the log with all that says whether it can be relied upon, in one state of the database.
    async fn read_log(&self) -> Result<(LogRow, Instant), GalleryError> {
        let sql = format!(
            "with now as materialized (select pg_current_snapshot() as snapshot), \
             log as (select array_agg(sequence) as sequences, array_agg(gallery_id) as galleries, \
               array_agg(subject_id) as subjects from changes where transaction >= $1::text::xid8) \
             select now.snapshot::text as snapshot, pg_snapshot_xmin(now.snapshot)::text as oldest, \
               {identity} = $2 as is_same, \
               coalesce((select pruned_to <= $1::text::xid8 from change_log), false) as is_whole, \
               exists (select from readers where id = $3 \
                 and seen_at > clock_timestamp() - $4::float8 * interval '1 second') as is_counted, \
               log.sequences, log.galleries, log.subjects \
             from now cross join log",
            identity = self.identity.sql
        );
        let mut connection = self.pool.acquire().await?;
        let taken = Instant::now();
        let reading = sqlx::query_as(AssertSqlSafe(sql))
            .bind(self.cursor.to_string())
            .bind(&self.identity.is)
            .bind(self.id)
            .bind(SEEN_WITHIN.as_secs_f64())
            .fetch_one(&mut *connection);
        match tokio::time::timeout(ANSWERS_WITHIN, reading).await {
            Ok(row) => Ok((row?, taken)),
            Err(_) => {
                // Nothing comes of it any more, perhaps since its machine is gone, which the kernel notices much later.
                drop(connection.detach());
                Err(DbError::Unavailable("the log of changes was not read in time".to_owned()).into())
            }
        }
    }

    async fn read(
        &mut self,
        galleries: BTreeSet<Uuid>,
        subjects: BTreeSet<(Uuid, Uuid)>,
    ) -> Result<Changes, GalleryError> {
        let mut changes = Changes::default();
        // First, as they tell which of the subjects count.
        if !galleries.is_empty() {
            let ids: Vec<Uuid> = galleries.iter().copied().collect();
            changes.galleries = sqlx::query_as::<_, Gallery>(GALLERIES).bind(Some(ids)).fetch_all(&self.pool).await?;
            let present: BTreeSet<Uuid> = changes.galleries.iter().map(|gallery| gallery.id.0).collect();
            self.galleries.extend(&present);
            for gone in galleries.difference(&present) {
                self.galleries.remove(gone);
                changes.galleries_gone.push(GalleryId(*gone));
            }
        }
        let subjects: Vec<(Uuid, Uuid)> = subjects.into_iter().collect();
        for chunk in subjects.chunks(CHUNK) {
            let ids: Vec<Uuid> = chunk.iter().map(|(_, subject)| *subject).collect();
            let mut rows: Vec<FedRow> =
                sqlx::query_as(TEMPLATES).bind(self.model.0).bind(Some(ids)).fetch_all(&self.pool).await?;
            rows.retain(|row| self.galleries.contains(&row.gallery_id));
            let present: HashSet<Uuid> = rows.iter().map(|row| row.template.subject_id).collect();
            let gone = chunk.iter().filter(|(_, subject)| !present.contains(subject));
            changes.gone.extend(gone.map(|(gallery, subject)| (GalleryId(*gallery), SubjectId(*subject))));
            changes.templates.extend(rows.into_iter().map(Template::from));
        }
        Ok(changes)
    }

    /// Wakes whoever listens at other servers.
    pub async fn announce(&self) -> Result<(), GalleryError> {
        Ok(notify(&self.pool, Topic::Changes).await?)
    }

    /// Sees a change whenever another server announces changes.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.notifications.subscribe(Topic::Changes)
    }

    /// As if transactions up to there had been seen.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, transaction: u64) {
        self.cursor = transaction;
    }
}

fn transaction(text: &str) -> Result<u64, GalleryError> {
    text.parse().map_err(|_| GalleryError::Inconsistent("a transaction id is no number"))
}

/// What the log holds from the cursor on, in columns of equal length; without any if nothing changed.
#[derive(sqlx::FromRow)]
struct LogRow {
    snapshot: String,
    /// The oldest transaction that was running.
    oldest: String,
    is_same: bool,
    /// Whether nothing from the cursor on has been deleted.
    is_whole: bool,
    is_counted: bool,
    sequences: Option<Vec<i64>>,
    galleries: Option<Vec<Uuid>>,
    subjects: Option<Vec<Option<Uuid>>>,
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
