//! The memory against a real PostgreSQL that is slow, or held up.

use pgvector::HalfVector;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::*;
use crate::db::testing::database;
use crate::db::{Pools, Transaction};
use crate::gallery::DEFAULT_GALLERY;
use crate::index::Query;
use crate::registry::Registry;
use crate::types::{Embedding, StoredEmbedding};

const DIMENSION: usize = 8;
const MINUTE: Duration = Duration::from_secs(60);

struct World {
    pools: Pools,
    galleries: Galleries,
    model: Model,
}

impl World {
    /// A database with one model, and with Ada and Bob in the default gallery.
    async fn new() -> Self {
        let pools = database().await;
        let model = Registry::new(&pools).register("test", [1; 32], DIMENSION as u32).await.unwrap();
        let world = Self { galleries: Galleries::new(&pools), pools, model };
        world.enroll("Ada", 0).await;
        world.enroll("Bob", 1).await;
        world
    }

    async fn enroll(&self, name: &str, axis: usize) -> SubjectId {
        let (subject, face) = (Uuid::now_v7(), Uuid::now_v7());
        let mut transaction = self.pools.requests.begin().await.unwrap();
        for (sql, id) in [
            ("insert into subjects (gallery_id, name, id) values ($1, $2, $3)", subject),
            ("insert into faces (gallery_id, subject_id, id) select $1, id, $3 from subjects where name = $2", face),
        ] {
            let query = sqlx::query(sql).bind(DEFAULT_GALLERY.0).bind(name).bind(id);
            query.execute(&mut *transaction).await.unwrap();
        }
        sqlx::query(
            "insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding) values ($1, $2, $3, $4, $5)",
        )
        .bind(face)
        .bind(self.model.id.0)
        .bind(DEFAULT_GALLERY.0)
        .bind(subject)
        .bind(HalfVector::from(probe(axis).as_slice().to_vec()))
        .execute(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        SubjectId(subject)
    }

    async fn rename(&self, from: &str, to: &str) {
        let query = sqlx::query("update subjects set name = $2 where name = $1").bind(from).bind(to);
        query.execute(&self.pools.requests).await.unwrap();
    }

    /// Keeps everybody else from a table until the transaction ends.
    async fn hold(&self, table: &str) -> Transaction {
        let mut transaction = self.pools.requests.begin().await.unwrap();
        let sql = format!("lock table {table} in access exclusive mode");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.unwrap();
        transaction
    }

    /// Waits until so many wait for a table.
    async fn held_up(&self, table: &str, readers: i64) {
        until(async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_locks where not granted and relation = to_regclass($1) \
                 and database = (select oid from pg_database where datname = current_database())",
            )
            .bind(table)
            .fetch_one(&self.pools.requests)
            .await
            .unwrap();
            waiting == readers
        })
        .await;
    }

    async fn resident(&self, max_staleness: Duration) -> Resident {
        let place = SearchChoice::Resident;
        let config = SearchConfig { place, resident_memory: 1 << 20, max_staleness };
        let resident = Resident::start(&self.galleries, &self.model, &config, None);
        resident.filled().await;
        resident
    }
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn probe(axis: usize) -> StoredEmbedding {
    let values = (0..DIMENSION).map(|i| if i == axis { 1.0 } else { 0.0 }).collect();
    StoredEmbedding::from(&Embedding::normalised(values).unwrap())
}

/// Everybody in the default gallery who is in memory, by name.
fn names(view: &View) -> Vec<String> {
    let query = Query { probe: probe(0), top_k: 100, min_similarity: None, except: None };
    let hits = view.index.search(DEFAULT_GALLERY, &[query], 1).remove(0);
    let mut names: Vec<String> = hits.into_iter().map(|hit| hit.about.name.into()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_older_round_does_not_make_the_memory_whole() {
    let world = World::new().await;
    let resident = world.resident(MINUTE).await;
    assert_eq!(names(&resident.fresh().unwrap()), ["Ada", "Bob"]);

    // A round has read the log and cannot read what it says changed.
    let templates = world.hold("templates").await;
    world.rename("Ada", "Ada L.").await;
    world.held_up("templates", 1).await;
    let stuck = Instant::now();
    // The next write is not in that round, and is given up waiting for.
    world.rename("Bob", "Bob B.").await;
    resident.catch_up().await;
    assert!(resident.fresh().is_none());
    let held = resident.current().unwrap();
    assert!(held.stale.is_some());
    assert_eq!(names(&held.view), ["Ada", "Bob"]);

    // The round ends, and the next cannot begin.
    let changes = world.hold("changes").await;
    templates.rollback().await.unwrap();
    world.held_up("changes", 1).await;
    let since = stuck.elapsed();
    let held = resident.current().unwrap();
    assert_eq!(names(&held.view), ["Ada L.", "Bob"]);
    assert!(held.stale.unwrap() >= since, "as old as what it read, however late it was there");
    assert!(resident.fresh().is_none());

    changes.rollback().await.unwrap();
    until(async || resident.fresh().is_some_and(|view| names(&view) == ["Ada L.", "Bob B."])).await;
}

#[tokio::test]
async fn a_young_memory_that_lacks_a_write_is_not_fresh() {
    let world = World::new().await;
    let resident = world.resident(MINUTE).await;
    let shared = &resident.0.shared;
    let changes = world.hold("changes").await;
    world.held_up("changes", 1).await;
    // As if it had waited for long.
    shared.catch_up(Duration::from_millis(1)).await;
    let held = resident.current().unwrap();
    assert!(resident.fresh().is_none() && held.stale.is_some());
    changes.rollback().await.unwrap();
    until(async || resident.fresh().is_some()).await;
}

#[tokio::test]
async fn an_old_memory_answers_up_to_its_bound() {
    let world = World::new().await;
    let bounds = [Duration::ZERO, Duration::from_secs(3), MINUTE];
    let [never, briefly, long] = &futures_util::future::join_all(bounds.map(|bound| world.resident(bound))).await[..]
    else {
        panic!("three");
    };
    let changes = world.hold("changes").await;
    world.held_up("changes", 3).await;
    until(async || briefly.fresh().is_none()).await;
    until(async || briefly.current().is_none()).await;
    assert!(briefly.age().unwrap() >= Duration::from_secs(3));
    assert!(never.current().is_none());
    let held = long.current().unwrap();
    assert!(held.stale.unwrap() > FRESH);
    assert_eq!(names(&held.view), ["Ada", "Bob"]);
    changes.rollback().await.unwrap();
    for resident in [never, briefly, long] {
        until(async || resident.fresh().is_some()).await;
    }
}

#[tokio::test]
async fn what_was_deleted_does_not_come_back() {
    let world = World::new().await;
    let eve = world.enroll("Eve", 2).await;
    let mut feed = world.galleries.feed(world.model.id);
    let view = View::new(DIMENSION, None);
    view.begin();
    // A load that reads before the deletion and puts in after it.
    let (mut galleries, mut templates) = (Vec::new(), Vec::new());
    feed.load(|gallery| galleries.push(gallery), |template| templates.push(template)).await.unwrap();
    view.forget_subject(DEFAULT_GALLERY, eve);
    galleries.into_iter().for_each(|gallery| view.put_gallery(gallery));
    templates.into_iter().for_each(|template| view.put_template(template));
    assert_eq!(names(&view), ["Ada", "Bob"]);

    // A round that does.
    world.rename("Bob", "Bob B.").await;
    let bob: Uuid = sqlx::query_scalar("select id from subjects where name = 'Bob B.'")
        .fetch_one(&world.pools.requests)
        .await
        .unwrap();
    view.begin();
    let changes = feed.next().await.unwrap();
    view.forget_subject(DEFAULT_GALLERY, SubjectId(bob));
    view.apply(changes);
    assert_eq!(names(&view), ["Ada"]);

    // And of a whole gallery.
    world.rename("Ada", "Ada L.").await;
    view.begin();
    let changes = feed.next().await.unwrap();
    view.forget_gallery(DEFAULT_GALLERY);
    view.apply(changes);
    assert!(names(&view).is_empty() && view.gallery("default").is_none());

    // What is read after a deletion is true: ids may be imported again.
    world.rename("Ada L.", "Ada").await;
    view.begin();
    view.apply(feed.next().await.unwrap());
    assert_eq!(names(&view), ["Ada"]);
}

#[tokio::test]
async fn a_deletion_shows_at_once_while_the_log_is_held_up() {
    let world = World::new().await;
    let eve = world.enroll("Eve", 2).await;
    let resident = world.resident(MINUTE).await;
    let changes = world.hold("changes").await;
    world.held_up("changes", 1).await;
    resident.forget_subject(DEFAULT_GALLERY, eve);
    assert_eq!(names(&resident.current().unwrap().view), ["Ada", "Bob"]);
    resident.forget_gallery(DEFAULT_GALLERY);
    assert!(resident.current().unwrap().view.gallery("default").is_none());
    changes.rollback().await.unwrap();
}

#[tokio::test]
async fn a_memory_counts_as_a_reader_for_as_long_as_it_is_used() {
    let world = World::new().await;
    let readers = async || -> i64 {
        sqlx::query_scalar("select count(*) from readers").fetch_one(&world.pools.requests).await.unwrap()
    };
    let resident = world.resident(MINUTE).await;
    assert_eq!(readers().await, 1);
    let deletion: String =
        sqlx::query_scalar("with gone as (delete from subjects where name = 'Bob') select pg_current_xact_id()::text")
            .fetch_one(&world.pools.requests)
            .await
            .unwrap();
    assert_eq!(world.galleries.await_readers(deletion.parse().unwrap(), MINUTE).await.unwrap(), 0);
    assert_eq!(names(&resident.current().unwrap().view), ["Ada"]);
    drop(resident);
    until(async || readers().await == 0).await;
}
