//! Enrolments that wait for locks, and those that need not.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::db::{DbError, PoolSettings, Transaction, migrate};

/// More than any enrolment takes, however busy the machine is.
const AGES: Duration = Duration::from_secs(60);

/// Galleries on a pool of 4 connections, and another server's pools.
async fn servers(lock_timeout: Duration) -> (Arc<Fixture>, Pools) {
    let options = empty_database().await;
    let settings = PoolSettings { max_connections: 4, lock_timeout, acquire_timeout: AGES, ..PoolSettings::default() };
    let pools = Pools::connect(options.clone(), settings.clone()).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    let db = Arc::new(Fixture::on(pools).await);
    for gallery in ["busy", "free"] {
        db.galleries.create_gallery(&name(gallery)).await.unwrap();
    }
    db.enroll("busy", "Ada", &axis(0)).await;
    (db, Pools::connect(options, settings).await.unwrap())
}

fn enroll_twenty_times(db: &Arc<Fixture>) -> Vec<JoinHandle<Result<Enrolled, GalleryError>>> {
    let enroll = |_| {
        let db = db.clone();
        tokio::spawn(async move { db.enroll_as(OnDoubt::Warn, "busy", "Ada", &axis(0)).await })
    };
    (0..20).map(enroll).collect()
}

/// Processes of the database that wait for somebody.
async fn waiting(pools: &Pools) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    )
    .fetch_one(&pools.beside)
    .await
    .unwrap()
}

/// Enrolments wait until `holder` lets go, by one connection of four, while others are not held up.
async fn others_go_on(db: Arc<Fixture>, other: Pools, holder: Transaction) {
    let held_up = enroll_twenty_times(&db);
    timeout(AGES, async {
        while waiting(&other).await == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    for n in 0..20 {
        let (subject, embedding) = (format!("{n}"), axis(n));
        let free = db.enroll("free", &subject, &embedding);
        timeout(AGES / 2, free).await.expect("an enrolment into another gallery was held up");
    }
    // One has waited the whole time; an attempt that hardly waits may be seen beside it.
    assert!((1..=4).contains(&waiting(&other).await));
    assert!(held_up.iter().all(|enrolment| !enrolment.is_finished()));
    holder.rollback().await.unwrap();
    for enrolment in held_up {
        timeout(AGES, enrolment).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(db.galleries.subject("busy", "Ada").await.unwrap().faces, 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_of_one_gallery_do_not_hold_up_another() {
    let (db, other) = servers(AGES).await;
    let gallery = db.galleries.gallery_id("busy").await.unwrap();
    let mut holder = other.requests.begin().await.unwrap();
    enroll::await_turn(&mut holder, gallery, OnDoubt::Reject).await.unwrap();
    others_go_on(db, other, holder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_of_one_subject_do_not_hold_up_others() {
    let (db, other) = servers(AGES).await;
    let mut holder = other.requests.begin().await.unwrap();
    sqlx::query("select from subjects where name = 'Ada' for update").execute(&mut *holder).await.unwrap();
    others_go_on(db, other, holder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn none_waits_for_ever() {
    let (db, other) = servers(Duration::from_millis(200)).await;
    let gallery = db.galleries.gallery_id("busy").await.unwrap();
    let mut holder = other.requests.begin().await.unwrap();
    enroll::await_turn(&mut holder, gallery, OnDoubt::Reject).await.unwrap();
    for enrolment in enroll_twenty_times(&db) {
        let refused = timeout(AGES, enrolment).await.unwrap().unwrap();
        assert!(matches!(refused, Err(GalleryError::Db(DbError::Locked(_)))), "{refused:?}");
    }
    assert_eq!(db.galleries.subject("busy", "Ada").await.unwrap().faces, 1);
}
