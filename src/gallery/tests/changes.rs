//! A feed against the table of templates, whatever happens between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::gallery::{Changes, Feed};
use crate::index::About;

/// What a reader of the feed holds.
#[derive(Default, PartialEq, Debug)]
struct Memory {
    templates: BTreeMap<SubjectId, (GalleryId, About, Vec<half::f16>)>,
    galleries: BTreeMap<GalleryId, String>,
}

impl Memory {
    async fn load(feed: &mut Feed) -> Self {
        let (mut galleries, mut templates) = (BTreeMap::new(), BTreeMap::new());
        let gallery = |gallery: Gallery| _ = galleries.insert(gallery.id, gallery.name);
        let template = |t: Template| {
            let row = (t.gallery, t.about.clone(), t.embedding.as_slice().to_vec());
            templates.insert(t.about.subject_id, row);
        };
        feed.load(gallery, template).await.unwrap();
        Self { templates, galleries }
    }

    fn apply(&mut self, changes: Changes) {
        changes.gone.iter().for_each(|(_, subject)| _ = self.templates.remove(subject));
        for t in changes.templates {
            let row = (t.gallery, t.about.clone(), t.embedding.as_slice().to_vec());
            self.templates.insert(t.about.subject_id, row);
        }
        for gone in changes.galleries_gone {
            self.galleries.remove(&gone);
            self.templates.retain(|_, (gallery, ..)| *gallery != gone);
        }
        self.galleries.extend(changes.galleries.into_iter().map(|gallery| (gallery.id, gallery.name)));
    }
}

#[tokio::test]
async fn a_feed_tells_of_every_kind_of_change() {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("team")).await.unwrap();
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    assert_eq!((memory.templates.len(), memory.galleries.len()), (1, 2));
    // While other databases of the server have transactions under way, what was loaded may come once more.
    memory.apply(feed.next().await.unwrap());
    assert_eq!((memory.templates.len(), memory.galleries.len()), (1, 2));
    assert!(feed.next().await.unwrap().is_empty());

    let bob = db.enroll("team", "Bob", &axis(1)).await;
    db.enroll("default", "Ada", &axis(2)).await;
    let rename = SubjectChange { name: Some(name("Ada L.")), ..SubjectChange::default() };
    db.galleries.update_subject("default", "Ada", &rename, &Expected::Any).await.unwrap();
    memory.apply(feed.next().await.unwrap());
    let (_, about, _) = &memory.templates[&ada.subject_id];
    assert_eq!((&*about.name, about.faces, about.face_id), ("Ada L.", 2, None));

    db.galleries.delete_face(bob.face_id).await.unwrap();
    db.galleries
        .update_gallery("team", &GalleryChange { name: Some(name("crew")), ..GalleryChange::default() }, &Expected::Any)
        .await
        .unwrap();
    memory.apply(feed.next().await.unwrap());
    assert!(!memory.templates.contains_key(&bob.subject_id));
    assert!(memory.galleries.values().any(|name| name == "crew"));

    db.enroll("crew", "Eve", &axis(3)).await;
    db.erase_gallery("crew").await.unwrap();
    memory.apply(feed.next().await.unwrap());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    assert!(feed.next().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_commits_late_is_not_missed() {
    let db = Fixture::new().await;
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    // Begun before and committed after others, which have higher numbers and are seen meanwhile.
    let mut slow = db.pool.begin().await.unwrap();
    sqlx::query("update subjects set name = 'Ada L.' where id = $1")
        .bind(ada.subject_id.0)
        .execute(&mut *slow)
        .await
        .unwrap();
    for n in 1..4 {
        db.enroll("default", &format!("{n}"), &axis(n)).await;
        memory.apply(feed.next().await.unwrap());
    }
    assert_eq!(memory.templates.len(), 4);
    assert_eq!(&*memory.templates[&ada.subject_id].1.name, "Ada");
    slow.commit().await.unwrap();
    let changes = feed.next().await.unwrap();
    assert_eq!(changes.templates.len(), 1, "only what was not seen before");
    memory.apply(changes);
    assert_eq!(&*memory.templates[&ada.subject_id].1.name, "Ada L.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn templates_are_true_whoever_writes_at_once() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    let writers = (0..4_u64).map(|writer| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut random = Random(writer + 1);
            let mut faces = Vec::new();
            for n in 0..25 {
                let subject = format!("subject {}", (n + writer) % 3);
                faces.push(db.enroll("default", &subject, &random.embedding()).await.face_id);
                if n % 4 == 3 {
                    db.galleries.delete_face(faces.remove(0)).await.unwrap();
                }
                if n % 6 == 5 {
                    // Two moves that cross can block one another; one of them is refused then.
                    let _ = db.galleries.move_face(faces[0], &name("subject 0")).await;
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        memory.apply(feed.next().await.unwrap());
        writer.await.unwrap();
    }
    memory.apply(feed.next().await.unwrap());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    let wrong: i64 = sqlx::query_scalar(
        "select count(*) from (select subject_id, count(*) as faces, l2_normalize(avg(embedding)) as mean \
         from embeddings group by subject_id) e full join templates t using (subject_id) \
         where t.faces is distinct from e.faces or (t.embedding <#> e.mean) > -0.999",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(wrong, 0);
}

/// Long enough ago to be deleted.
async fn age_changes(db: &Fixture) {
    run(db, "update changes set changed_at = now() - interval '2 hours'").await;
}

async fn run(db: &Fixture, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&db.pool).await.unwrap();
}

/// Whether what a feed lost is found by loading anew, and changes after it.
async fn assert_starts_over(db: &Fixture, feed: &mut Feed) {
    assert!(feed.next().await.is_err() && feed.is_lost());
    assert!(feed.next().await.is_err(), "it stays lost");
    let mut memory = Memory::load(feed).await;
    assert!(!feed.is_lost());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    db.enroll("default", "Late", &axis(9)).await;
    memory.apply(feed.next().await.unwrap());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    assert!(memory.templates.values().any(|(_, about, _)| &*about.name == "Late"));
}

#[tokio::test]
async fn a_reader_that_slept_while_changes_were_deleted_starts_over() {
    let db = Fixture::new().await;
    let mut feed = db.galleries.feed(db.model);
    Memory::load(&mut feed).await;
    db.enroll("default", "Bob", &axis(1)).await;
    age_changes(&db).await;
    // While other databases of the server have older transactions under way, it is kept.
    while db.rows("changes").await > 0 {
        db.galleries.feed(db.model).prune().await.unwrap();
    }
    assert_starts_over(&db, &mut feed).await;
}

#[tokio::test]
async fn changes_wait_for_readers_and_for_transactions_under_way() {
    let db = Fixture::new().await;
    let mut feed = db.galleries.feed(db.model);
    Memory::load(&mut feed).await;
    feed.confirm(Duration::from_secs(60)).await.unwrap();
    db.enroll("default", "Bob", &axis(1)).await;
    age_changes(&db).await;
    feed.prune().await.unwrap();
    assert!(db.rows("changes").await > 0, "the reader has not seen it");

    let mut slow = db.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *slow).await.unwrap();
    db.enroll("default", "Eve", &axis(2)).await;
    age_changes(&db).await;
    let read_until = async |feed: &mut Feed, left: i64| {
        while db.rows("changes").await > left {
            feed.next().await.unwrap();
            feed.confirm(Duration::from_secs(60)).await.unwrap();
            feed.prune().await.unwrap();
        }
    };
    let later: i64 = sqlx::query_scalar(
        "select count(*) from changes where transaction > (select max(transaction::text::bigint) from changes \
         where subject_id = (select id from subjects where name = 'Bob'))::text::xid8",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert!(later > 0);
    read_until(&mut feed, later).await;
    // Whoever begins now begins before the transaction under way, and has missed nothing.
    let mut another = db.galleries.feed(db.model);
    assert_eq!(Memory::load(&mut another).await.templates.len(), 2);
    another.next().await.unwrap();
    assert_eq!(db.rows("changes").await, later);
    slow.rollback().await.unwrap();
    read_until(&mut feed, 0).await;
    assert!(feed.next().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restored_dump_is_loaded_anew() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    db.enroll("default", "Bob", &axis(1)).await;
    let mut feed = db.galleries.feed(db.model);
    Memory::load(&mut feed).await;
    // Nothing of it is in the log.
    run(
        &db,
        "begin; create temporary table kept on commit drop as select * from templates; \
         alter table templates disable trigger user; truncate templates cascade; \
         insert into templates select k.* from kept k join subjects s on s.id = k.subject_id where s.name = 'Ada'; \
         alter table templates enable trigger user; commit",
    )
    .await;
    assert_starts_over(&db, &mut feed).await;
    run(
        &db,
        "begin; create table made_anew (like changes including all); drop table changes; \
         alter table made_anew rename to changes; commit",
    )
    .await;
    assert_starts_over(&db, &mut feed).await;
}

#[tokio::test]
async fn ids_of_another_cluster_are_set_anew() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    Memory::load(&mut feed).await;
    feed.confirm(Duration::from_secs(60)).await.unwrap();
    let log = "select cluster, resets from change_log";
    let own: (String, i64) = sqlx::query_as(log).fetch_one(&db.pool).await.unwrap();
    run(
        &db,
        "update change_log set cluster = '1/2', pruned_to = '9000000000000'; \
         update changes set transaction = '9000000000000'; \
         update review_queue set transaction = '9000000000000'; \
         insert into reviewed select model_id, gallery_id, subject_id, '9000000000001' from templates",
    )
    .await;
    assert!(db.rows("review_queue").await > 0 && db.rows("reviewed").await > 0);
    assert_starts_over(&db, &mut feed).await;
    let now: (String, i64) = sqlx::query_as(log).fetch_one(&db.pool).await.unwrap();
    assert_eq!(now, (own.0, own.1 + 1));
    assert_eq!(db.rows("readers").await, 0);
    let later: i64 = sqlx::query_scalar(
        "select (select count(*) from changes where transaction >= next) \
           + (select count(*) from review_queue where transaction >= next) \
           + (select count(*) from reviewed where seen >= next or seen > (select transaction from review_queue limit 1)) \
           + (select count(*) from change_log where pruned_to >= next) \
         from (select pg_snapshot_xmax(pg_current_snapshot()) as next) now",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(later, 0);
}

#[tokio::test]
async fn transactions_that_may_be_given_again_are_not_counted_on() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    Memory::load(&mut feed).await;
    // An older state of the database.
    feed.skip_to(9_000_000_000_000);
    assert_starts_over(&db, &mut feed).await;
    // What PostgreSQL does when it recovers from a crash.
    run(&db, "truncate change_run").await;
    assert_starts_over(&db, &mut feed).await;
}

#[tokio::test]
async fn whoever_erases_waits_for_all_readers() {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("team")).await.unwrap();
    db.enroll("team", "Ada", &axis(0)).await;
    let (minute, soon) = (Duration::from_secs(60), Duration::from_millis(50));
    let mut feeds = [db.galleries.feed(db.model), db.galleries.feed(db.model)];
    for feed in &mut feeds {
        Memory::load(feed).await;
        feed.confirm(minute).await.unwrap();
        feed.next().await.unwrap();
        assert!(feed.is_counted());
        feed.confirm(minute).await.unwrap();
    }
    let mut erasure = db.pool.begin().await.unwrap();
    let id: String = sqlx::query_scalar("select pg_current_xact_id()::text").fetch_one(&mut *erasure).await.unwrap();
    sqlx::query("delete from galleries where name = 'team'").execute(&mut *erasure).await.unwrap();
    erasure.commit().await.unwrap();
    let erased: u64 = id.parse().unwrap();
    let [one, other] = &mut feeds;
    assert_eq!(db.galleries.await_readers(erased, soon).await.unwrap(), 2);
    assert_eq!(one.next().await.unwrap().galleries_gone.len(), 1);
    assert_eq!(db.galleries.await_readers(erased, soon).await.unwrap(), 2, "it may not be in memory yet");
    one.confirm(minute).await.unwrap();
    assert_eq!(db.galleries.await_readers(erased, soon).await.unwrap(), 1);
    let wait = tokio::spawn({
        let galleries = db.galleries.clone();
        async move { galleries.await_readers(erased, minute).await.unwrap() }
    });
    other.next().await.unwrap();
    other.confirm(minute).await.unwrap();
    assert_eq!(wait.await.unwrap(), 0);

    // One that is not seen any more does not count once it cannot answer any longer, and knows.
    let ask = || db.galleries.await_readers(9_000_000_000_000, Duration::ZERO);
    assert_eq!(ask().await.unwrap(), 2);
    run(&db, "update readers set seen_at = now() - interval '65 seconds'").await;
    assert_eq!(ask().await.unwrap(), 2);
    let at_once = tokio::time::timeout(minute / 2, db.galleries.await_readers(9_000_000_000_000, minute)).await;
    assert_eq!(at_once.expect("nobody waits for them").unwrap(), 2);
    run(&db, "update readers set seen_at = now() - interval '71 seconds'").await;
    assert_eq!(ask().await.unwrap(), 0);
    one.next().await.unwrap();
    assert!(!one.is_counted());
    one.confirm(minute).await.unwrap();
    one.next().await.unwrap();
    assert!(one.is_counted());
    one.prune().await.unwrap();
    assert_eq!(db.rows("readers").await, 1);
    one.leave().await.unwrap();
    assert_eq!(db.rows("readers").await, 0);
}
