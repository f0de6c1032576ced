//! HNSW indexes for large galleries in Postgres, each with the recall that was measured for it.
//!
//! An index covers one model in one gallery and nothing else (a partial index), so that no tenant's faces stand in the
//! way of another's. How far it must be searched is found by asking: for probes that each have a mate in the gallery, the
//! best match of the index is compared with that of an exact search.

mod build;
mod room;

use sqlx::{AssertSqlSafe, PgConnection};
use tracing::{info, warn};

use self::build::Wanted;
use self::room::{Effort, room};
use super::search::SearchMethod;
use super::{Galleries, GalleryError};
use crate::db::has_sound_hnsw;
use crate::index::Query;
use crate::types::{GalleryId, ModelId, StoredEmbedding};

/// Templates from which on a gallery gets an index: an exact scan of fewer takes about as long.
const INDEX_FROM: u64 = 50_000;

/// The share of right answers that an index must reach to be used.
const LEAST_RECALL: f32 = 0.999;

/// How widely an index is searched, in the order tried. pgvector's default is 40, its limit 1,000.
const EF_SEARCH: [u32; 10] = [40, 60, 80, 120, 160, 240, 320, 480, 640, 1000];

/// Neighbours of a template in the graph (twice as many in its lowest layer), and how many are looked at to choose them.
/// Malkov and Yashunin 2016, arXiv:1603.09320, call them M and efConstruction. With pgvector's defaults, 16 and 64, an index
/// of 200,000 made people is built in a sixth of the time, but misses 2.5 % of its mates even at the widest search; with
/// these it finds all of them at an `ef_search` of 80 (benches/RESULTS.md).
const NEIGHBOURS: u32 = 32;
const CONSIDERED: u32 = 200;

/// A gallery that grew or shrank by this factor since its index was measured is measured anew.
const REMEASURE: f64 = 1.5;

/// An index and how it does.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchIndex {
    pub ef_search: u32,
    /// Share of probes whose best match was the one of an exact search.
    pub recall: f32,
    /// Templates when it was measured.
    pub templates: u64,
}

impl SearchIndex {
    /// Whether searches use it.
    pub fn is_used(&self) -> bool {
        self.recall >= LEAST_RECALL
    }
}

/// A gallery that needs an index, or whose index needs to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexDue {
    pub gallery: GalleryId,
    pub templates: u64,
}

impl Galleries {
    /// How a gallery is searched now.
    pub(super) async fn plan(
        &self,
        connection: &mut PgConnection,
        gallery: GalleryId,
        model: ModelId,
    ) -> Result<SearchMethod, GalleryError> {
        let index = read_index(connection, gallery, model).await?;
        Ok(match index {
            Some(index) if index.is_used() => SearchMethod::Index { ef_search: index.ef_search },
            _ => SearchMethod::Exact,
        })
    }

    pub async fn search_index(&self, gallery: GalleryId, model: ModelId) -> Result<Option<SearchIndex>, GalleryError> {
        read_index(&mut *self.pool.begin().await?, gallery, model).await
    }

    /// Galleries that are large enough for an index and have none that was measured at about their size. None, if the
    /// database has a pgvector whose indexes lose templates.
    pub async fn indexes_due(&self, model: ModelId) -> Result<Vec<IndexDue>, GalleryError> {
        if !has_sound_hnsw(&self.beside).await? {
            return Ok(Vec::new());
        }
        let rows: Vec<(uuid::Uuid, i64)> = sqlx::query_as(
            "select t.gallery_id, t.count from ( \
               select gallery_id, count(*) as count from templates where model_id = $1 group by gallery_id \
             ) t join galleries g on g.id = t.gallery_id and g.erased_at is null \
             left join search_indexes i on i.gallery_id = t.gallery_id and i.model_id = $1 \
             where not exists (select from quarantine q \
               where q.work = 'index' and q.model_id = $1 and q.gallery_id = t.gallery_id) \
             and t.count >= $2 and (i.templates is null or t.count > i.templates * $3 or t.count * $3 < i.templates)",
        )
        .bind(model.0)
        .bind(INDEX_FROM.cast_signed())
        .bind(REMEASURE)
        .fetch_all(&self.beside)
        .await?;
        let due = |(gallery, count): (uuid::Uuid, i64)| IndexDue {
            gallery: GalleryId(gallery),
            templates: count.unsigned_abs(),
        };
        Ok(rows.into_iter().map(due).collect())
    }

    /// Builds the index if there is none, finds how far it must be searched for `probes`, and has it used from now on.
    pub async fn build_index(
        &self,
        due: IndexDue,
        model: ModelId,
        probes: &[StoredEmbedding],
    ) -> Result<SearchIndex, GalleryError> {
        let name = index_name(due.gallery, model);
        self.create_index(&name, due, model).await?;
        // Beside the requests, as it takes minutes.
        let mut transaction = self.beside.begin().await?;
        let found = self.measure(&mut transaction, due, model, probes).await?;
        sqlx::query(
            "insert into search_indexes (model_id, gallery_id, name, ef_search, recall, templates) \
             values ($1, $2, $3, $4, $5, $6) on conflict on constraint search_index_pkey do update \
             set ef_search = excluded.ef_search, recall = excluded.recall, templates = excluded.templates, \
                 measured_at = now()",
        )
        .bind(model.0)
        .bind(due.gallery.0)
        .bind(&name)
        .bind(found.ef_search.cast_signed())
        .bind(found.recall)
        .bind(found.templates.cast_signed())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if !found.is_used() {
            warn!(gallery = %due.gallery, recall = found.recall, "the index misses too much; searches stay exact");
        } else {
            info!(gallery = %due.gallery, ef_search = found.ef_search, recall = found.recall, "a gallery has an index");
        }
        Ok(found)
    }

    /// Builds the index if there is none.
    async fn create_index(&self, name: &str, due: IndexDue, model: ModelId) -> Result<(), GalleryError> {
        let mut session = self.beside.acquire().await?;
        let dimension = self.known_dimension(&mut session, model).await?;
        let wanted = Wanted { name, gallery: due.gallery, model, dimension };
        if wanted.exists(&mut session).await? {
            return Ok(());
        }
        // Nobody else wants the settings that it leaves behind.
        session.close_on_drop();
        let effort = Effort::of(due.templates, dimension, room(&mut session).await?);
        Ok(wanted.build(&mut session, effort).await?)
    }

    async fn measure(
        &self,
        connection: &mut PgConnection,
        due: IndexDue,
        model: ModelId,
        probes: &[StoredEmbedding],
    ) -> Result<SearchIndex, GalleryError> {
        let query =
            |probe: &StoredEmbedding| Query { probe: probe.clone(), top_k: 1, min_similarity: None, except: None };
        let queries: Vec<Query> = probes.iter().map(query).collect();
        let exact = self.search_with(connection, SearchMethod::Exact, due.gallery, model, &queries).await?;
        let mut best = SearchIndex { ef_search: 0, recall: 0.0, templates: due.templates };
        for ef_search in EF_SEARCH {
            let plan = SearchMethod::Index { ef_search };
            let found = self.search_with(connection, plan, due.gallery, model, &queries).await?;
            // Equally similar is as good.
            let same = |(a, b): (&Vec<_>, &Vec<_>)| {
                let similarity = |hits: &Vec<crate::index::Hit>| hits.first().map(|hit| hit.similarity);
                similarity(a) == similarity(b)
            };
            let right = exact.iter().zip(&found).filter(|pair| same(*pair)).count();
            best = SearchIndex { ef_search, recall: right as f32 / probes.len().max(1) as f32, ..best };
            if best.recall >= LEAST_RECALL {
                break;
            }
        }
        Ok(best)
    }

    /// Drops all indexes: from here on galleries are searched exactly.
    pub async fn drop_indexes(&self) -> Result<(), GalleryError> {
        sqlx::query("delete from search_indexes").execute(&self.beside).await?;
        self.drop_stale_indexes().await
    }

    /// Drops indexes of galleries and models that are gone; all, if the database has a pgvector whose indexes lose
    /// templates.
    pub async fn drop_stale_indexes(&self) -> Result<(), GalleryError> {
        if !has_sound_hnsw(&self.beside).await? {
            // First: from here on galleries are searched exactly.
            sqlx::query("delete from search_indexes").execute(&self.beside).await?;
        }
        let stale: Vec<String> = sqlx::query_scalar(
            "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid \
             where i.indrelid = 'templates'::regclass and c.relname like 'template\\_hnsw\\_%' \
             and (not i.indisvalid or not exists (select from search_indexes s where s.name = c.relname))",
        )
        .fetch_all(&self.beside)
        .await?;
        for name in stale {
            // The name is one of ours: letters, digits and underscores.
            sqlx::query(AssertSqlSafe(format!("drop index concurrently if exists {name}")))
                .execute(&self.beside)
                .await?;
        }
        Ok(())
    }
}

async fn read_index(
    connection: &mut PgConnection,
    gallery: GalleryId,
    model: ModelId,
) -> Result<Option<SearchIndex>, GalleryError> {
    let row: Option<(i32, f32, i64)> = sqlx::query_as(
        "select ef_search, recall, templates from search_indexes where model_id = $1 and gallery_id = $2",
    )
    .bind(model.0)
    .bind(gallery.0)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(ef_search, recall, templates)| SearchIndex {
        ef_search: ef_search.unsigned_abs(),
        recall,
        templates: templates.unsigned_abs(),
    }))
}

/// Postgres cuts names at 63 characters; this has 61.
fn index_name(gallery: GalleryId, model: ModelId) -> String {
    let (_, model) = model.0.as_u64_pair();
    format!("template_hnsw_{:032x}_{:012x}", gallery.0.as_u128(), model & 0xffff_ffff_ffff)
}
