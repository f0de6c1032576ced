//! Answers are gathered and written together, and what cannot be written is not forgotten.

use super::*;

fn answer() -> Entry {
    Entry::new(&"a test".into(), Action::Identify).outcome("unknown")
}

#[tokio::test]
async fn answers_are_written_together_and_questions_only_if_wanted() {
    let db = Fixture::new().await;
    for _ in 0..1200 {
        db.audit.gather(answer());
    }
    assert_eq!(db.audit.count_unsealed().await.unwrap(), 0);
    db.audit.write_gathered().await.unwrap();
    db.audit.write_gathered().await.unwrap();
    assert_eq!(db.audit.count_unsealed().await.unwrap(), 1200);

    let without = Audit::new(&db.pools, false);
    assert!(!without.notes_questions());
    without.gather(answer());
    without.gather(Entry::new(&"a test".into(), Action::FaceEnroll).outcome("no_face"));
    without.write_gathered().await.unwrap();
    assert_eq!(db.audit.count_unsealed().await.unwrap(), 1201);
}

#[tokio::test]
async fn what_finds_no_room_while_the_database_is_away_is_counted() {
    let db = Fixture::new().await;
    db.tamper("alter table audit rename to away; create table audit (id uuid)").await;
    // Refusals leave half of the room to answers.
    (0..10_002).for_each(|_| db.audit.gather_refusal(answer().outcome("no_face")));
    (0..10_001).for_each(|_| db.audit.gather(answer()));
    for _ in 0..2 {
        assert!(db.audit.write_gathered().await.is_err());
    }
    sqlx::raw_sql("drop table audit; alter table away rename to audit").execute(&db.pools.beside).await.unwrap();
    db.audit.write_gathered().await.unwrap();
    assert_eq!(db.audit.count_unsealed().await.unwrap(), 20_001);
    let lost = db.all(&Filter { action: Some("audit.lost".to_owned()), ..Filter::default() }).await;
    assert_eq!(lost.iter().map(|entry| entry.details["entries"].clone()).collect::<Vec<_>>(), [json!(3)]);
    db.audit.seal().await.unwrap();
    assert_eq!(db.audit.verify(Vec::new()).await.unwrap().faults, []);
}

#[tokio::test]
async fn who_gives_up_writing_loses_nothing() {
    let db = Fixture::new().await;
    (0..600).for_each(|_| db.audit.gather(answer()));
    for _ in 0..3 {
        let hurry = std::time::Duration::from_micros(1);
        let _ = tokio::time::timeout(hurry, db.audit.write_gathered()).await;
    }
    db.audit.write_gathered().await.unwrap();
    // What may have been written before it was given up is not written again.
    assert_eq!(db.audit.count_unsealed().await.unwrap(), 600);
}
