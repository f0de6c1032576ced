//! Sealing, verifying, and what an owner of the tables may have done to them.

use std::collections::HashMap;

use chrono::{TimeDelta, TimeZone};
use uuid::Uuid;

use super::super::chain::Hash;
use super::*;
use crate::types::hex;

#[test]
fn a_hash_is_what_the_page_says() {
    let id = |number: u128| Uuid::from_u128(0x0189_0000_0000_7000_8000_0000_0000_0000 | number);
    let record = Record {
        position: 1,
        id: id(1),
        at: Utc.with_ymd_and_hms(2026, 11, 30, 20, 0, 0).unwrap() + TimeDelta::microseconds(120),
        actor: "Tür 3".to_owned(),
        key_id: None,
        request_id: Some(id(2).to_string()),
        action: "identify".to_owned(),
        outcome: Some("known".to_owned()),
        galleries: vec![Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0000), id(3)],
        subjects: Vec::new(),
        model_id: Some(id(4)),
        details: "{\"faces\":1}".to_owned(),
        previous: None,
        hash: Hash::BEGINNING,
    };
    // Computed by Python, as docs/audit.md shows.
    let expected = "22a9a25cbcd4e57a5599087695b7a45b921779c59fbc31ef42f68dad249ba042";
    assert_eq!(hex(&record.seal(Hash::BEGINNING).0), expected);
    let read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(read, record);
}

#[tokio::test]
async fn what_is_sealed_verifies_and_goes_on() {
    let db = Fixture::new().await;
    assert_eq!(db.audit.head().await.unwrap().position, 0);
    assert_eq!(db.audit.verify(Vec::new()).await.unwrap().entries, 0);
    db.sealed(3).await;
    let head = db.audit.head().await.unwrap();
    db.change(2).await;
    let verdict = db.audit.verify(vec![head]).await.unwrap();
    assert_eq!((verdict.entries, verdict.last, verdict.unsealed), (3, Some(3), Some(2)));
    assert_eq!(verdict.hash, Some(head.hash));
    assert_eq!(verdict.faults, []);
    db.audit.seal_waiting().await.unwrap();
    let verdict = db.audit.verify(vec![head]).await.unwrap();
    assert_eq!((verdict.entries, verdict.unsealed, verdict.faults.len()), (5, Some(0), 0));
    // In the order in which they were noted.
    let details: Vec<String> = db.all(&Filter::default()).await.iter().map(|entry| entry.details.to_string()).collect();
    assert_eq!(details[4..], ["{\"number\":0}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_make_one_chain() {
    let db = Fixture::new().await;
    let servers = [db.audit.clone(), Audit::new(&db.pools, true)];
    let sealing = servers.map(|server| {
        tokio::spawn(async move {
            for _ in 0..40 {
                server.seal().await.unwrap();
            }
        })
    });
    let changing = (0..4).map(|_| {
        let db = Fixture { pools: db.pools.clone(), audit: db.audit.clone() };
        tokio::spawn(async move { db.change(25).await })
    });
    for task in changing.collect::<Vec<_>>().into_iter().chain(sealing) {
        task.await.unwrap();
    }
    db.audit.seal_waiting().await.unwrap();
    let verdict = db.audit.verify(Vec::new()).await.unwrap();
    assert_eq!((verdict.entries, verdict.first, verdict.last), (100, Some(1), Some(100)));
    assert_eq!(verdict.faults, []);
}

#[tokio::test]
async fn an_entry_is_only_sealed_and_nothing_else() {
    let db = Fixture::new().await;
    db.sealed(2).await;
    db.change(1).await;
    for sql in [
        "update audit set actor = 'nobody' where position = 1",
        "update audit set position = 9 where position = 1",
        "update audit set position = null, hash = null where position = 1",
        "update audit set actor = 'nobody' where position is null",
        "update audit set actor = 'nobody', position = 3, hash = decode(repeat('00', 32), 'hex') where position is null",
        "delete from audit where position = 1",
        "delete from audit where position is null",
        "truncate audit",
        // No place beyond the end, whose ends go nowhere but on.
        "update audit set position = 3, hash = decode(repeat('00', 32), 'hex') where position is null",
        "update audit_chain set position = 1",
        "update audit_chain set hash = decode(repeat('00', 32), 'hex')",
        "update audit_chain set dropped_position = 1",
        "update audit_chain set dropped_position = 9, dropped_hash = hash",
        "delete from audit_chain",
        "truncate audit_chain",
        "with moved as (update audit_chain set dropped_position = 2, dropped_hash = hash returning 1) \
         delete from audit where position = 2",
        "insert into audit (id, at, actor, action, position, hash) \
         values (gen_random_uuid(), now(), 'me', 'identify', 3, decode(repeat('00', 32), 'hex'))",
    ] {
        assert!(db.refused(sql).await, "{sql}");
    }
    // Nor by tables that are taken for them.
    let mut transaction = db.pools.requests.begin().await.unwrap();
    let other = "create temp table audit_chain as select 9 as position, 9 as dropped_position; \
                 delete from audit where position = 1";
    assert!(sqlx::raw_sql(other).execute(&mut *transaction).await.is_err());
    transaction.rollback().await.unwrap();
    assert_eq!(db.audit.seal().await.unwrap(), 1);
    assert_eq!(db.faults(Vec::new()).await.0, [0_i64; 0]);
}

#[tokio::test]
async fn what_is_dropped_as_retention_does_it_needs_an_entry_that_says_so() {
    let db = Fixture::new().await;
    db.sealed(3).await;
    let early = db.audit.head().await.unwrap();
    db.sealed(5).await;
    // Somebody who may write to the tables.
    for sql in [
        "update audit_chain set dropped_position = a.position, dropped_hash = a.hash from audit a where a.position = 5",
        "delete from audit where position <= 5",
    ] {
        sqlx::query(sql).execute(&db.pools.beside).await.unwrap();
    }
    let (positions, what) = db.faults(Vec::new()).await;
    assert_eq!(positions, [5]);
    assert!(what.contains("audit.expire"), "{what}");
    let said = json!({"entries": 5, "up_to": 5});
    db.append(&Entry::new(&"a test".into(), Action::AuditExpire).details(said)).await;
    assert_eq!(db.faults(Vec::new()).await.0, [0_i64; 0]);
    // A head from before does not pass as if it had been looked at.
    let (positions, what) = db.faults(vec![early]).await;
    assert_eq!(positions, [3]);
    assert!(what.contains("is gone"), "{what}");
    let other = Head { position: 5, ..early };
    let (positions, what) = db.faults(vec![other]).await;
    assert_eq!(positions, [5]);
    assert!(what.contains("written anew"), "{what}");
}

#[tokio::test]
async fn what_is_dropped_during_a_walk_is_not_missed() {
    let db = Fixture::new().await;
    db.sealed(6).await;
    let kept = db.audit.head().await.unwrap();
    let mut dropping = db.pools.requests.begin().await.unwrap();
    sqlx::query("lock table audit in access exclusive mode").execute(&mut *dropping).await.unwrap();
    let audit = db.audit.clone();
    let walking = tokio::spawn(async move { audit.verify(vec![kept]).await.unwrap() });
    // It knows where the chain begins, and waits for the entries.
    let waits = "select exists (select from pg_locks where relation = 'audit'::regclass and not granted)";
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut *dropping).await.unwrap() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for sql in [
        "update audit_chain set dropped_position = a.position, dropped_hash = a.hash from audit a where a.position = 4",
        "delete from audit where position <= 4",
    ] {
        sqlx::query(sql).execute(&mut *dropping).await.unwrap();
    }
    let said = json!({"entries": 4, "up_to": 4});
    append(&mut dropping, &Entry::new(&"a test".into(), Action::AuditExpire).details(said)).await.unwrap();
    dropping.commit().await.unwrap();
    let verdict = walking.await.unwrap();
    assert_eq!((verdict.faults, verdict.first, verdict.last), (Vec::new(), Some(5), Some(6)));
}

#[tokio::test]
async fn what_an_owner_of_the_tables_changes_is_found_where_it_is() {
    for (sql, position, says) in [
        ("update audit set actor = 'nobody' where position = 4", 4, "changed"),
        ("update audit set outcome = 'unknown' where position = 4", 4, "changed"),
        ("update audit set details = '{\"number\": 3}' where position = 4", 4, "changed"),
        ("update audit set at = at + interval '1 microsecond' where position = 4", 4, "changed"),
        ("update audit set galleries = array[id] where position = 4", 4, "changed"),
        ("update audit set hash = decode(repeat('00', 32), 'hex') where position = 4", 4, "changed"),
        ("delete from audit where position = 4", 4, "missing"),
        ("delete from audit where position between 4 and 6", 4, "missing, and the 2 after"),
        ("delete from audit where position = 1", 1, "missing"),
        // The last.
        ("delete from audit where position >= 8", 8, "missing: the chain went on to position 10"),
        // Two change places.
        (
            "update audit set position = -position where position in (4, 6); \
          update audit set position = 10 + position where position < 0",
            4,
            "changed",
        ),
        // What comes after moves up, and the hole is gone.
        (
            "delete from audit where position = 4; update audit set position = -position where position > 4; \
             update audit set position = -position - 1 where position < 0",
            4,
            "changed",
        ),
        (
            "insert into audit (id, at, actor, action, position, hash) \
          select gen_random_uuid(), now(), 'me', 'identify', 11, hash from audit where position = 10",
            11,
            "changed",
        ),
    ] {
        let db = Fixture::new().await;
        db.sealed(10).await;
        db.tamper("alter table audit drop constraint audit_position_positive").await;
        db.tamper(sql).await;
        let (positions, what) = db.faults(Vec::new()).await;
        assert_eq!(positions.first(), Some(&position), "{sql}");
        assert!(what.contains(says), "{sql}: {what}");
    }
}

/// Seals anew from a position on, as somebody could who knows how.
async fn forge(db: &Fixture, from: i64) {
    let (entries, _) = db.audit.read_on(&Filter::default(), 0).await.unwrap();
    let mut hashes: HashMap<i64, Hash> = HashMap::from([(0, Hash::BEGINNING)]);
    for entry in &entries {
        let hash = if entry.position < from { entry.hash } else { entry.seal(hashes[&(entry.position - 1)]) };
        hashes.insert(entry.position, hash);
        db.tamper(&format!("update audit set hash = '\\x{}' where position = {}", hex(&hash.0), entry.position)).await;
    }
    let last = entries.last().unwrap().position;
    db.tamper(&format!("update audit_chain set position = {last}, hash = '\\x{}'", hex(&hashes[&last].0))).await;
}

#[tokio::test]
async fn a_chain_that_is_written_anew_does_not_pass_a_head_that_was_kept() {
    let db = Fixture::new().await;
    db.sealed(6).await;
    let kept = db.audit.head().await.unwrap();
    db.sealed(4).await;
    db.tamper("update audit set actor = 'nobody' where position = 4").await;
    forge(&db, 4).await;
    assert_eq!(db.faults(Vec::new()).await.0, [0_i64; 0], "without a head it cannot be seen");
    let (positions, what) = db.faults(vec![kept]).await;
    assert_eq!(positions, [6]);
    assert!(what.contains("written anew"), "{what}");
    // And the end cut off, with the chain's own word for it.
    db.tamper("delete from audit where position > 5").await;
    forge(&db, 9).await;
    assert_eq!(db.faults(Vec::new()).await.0, [0_i64; 0]);
    let (positions, what) = db.faults(vec![kept]).await;
    assert_eq!(positions, [6]);
    assert!(what.contains("missing"), "{what}");
}

#[tokio::test]
async fn old_entries_are_dropped_and_the_rest_verifies() {
    let db = Fixture::new().await;
    db.sealed(5).await;
    let kept = db.audit.head().await.unwrap();
    let time = Utc::now();
    db.sealed(3).await;
    db.change(1).await;
    assert!(!db.audit.drop_before(time - TimeDelta::hours(1)).await.unwrap());
    assert_eq!(db.audit.verify(Vec::new()).await.unwrap().entries, 8);

    assert!(!db.audit.drop_before(time).await.unwrap(), "that was less than a piece");
    db.audit.seal_waiting().await.unwrap();
    let verdict = db.audit.verify(vec![kept]).await.unwrap();
    assert_eq!((verdict.first, verdict.last, verdict.entries), (Some(6), Some(10), 5));
    assert_eq!(verdict.faults, []);
    let last = db.all(&Filter::default()).await.swap_remove(0);
    assert_eq!((last.record.action.as_str(), last.details), ("audit.expire", json!({"entries": 5, "up_to": 5})));
    // An export begins after the anchor.
    let (entries, _) = db.audit.read_on(&Filter::default(), 0).await.unwrap();
    assert_eq!((entries[0].position, entries[0].previous), (6, Some(kept.hash)));
    // Nothing else can be deleted for that, and what is dropped beside it is found.
    assert!(db.refused("delete from audit where position = 6").await);
    db.tamper("delete from audit where position = 6").await;
    assert_eq!(db.faults(Vec::new()).await.0, [6]);

    // All of them: the chain goes on from there.
    let db = Fixture::new().await;
    db.sealed(2).await;
    db.audit.drop_before(Utc::now() + TimeDelta::hours(1)).await.unwrap();
    db.change(1).await;
    db.audit.seal_waiting().await.unwrap();
    let verdict = db.audit.verify(Vec::new()).await.unwrap();
    assert_eq!((verdict.first, verdict.last, verdict.faults.len()), (Some(3), Some(4), 0));
}

#[tokio::test]
async fn an_entry_of_a_day_to_come_keeps_no_others() {
    let db = Fixture::new().await;
    let from_the_future = async |id: &str| {
        let sql =
            "insert into audit (id, at, actor, action) values ($1::uuid, now() + interval '9 years', 'me', 'identify')";
        sqlx::query(sql).bind(id).execute(&db.pools.beside).await.unwrap();
    };
    from_the_future("00000000-0000-7000-8000-000000000001").await;
    db.change(3).await;
    from_the_future("ffffffff-ffff-7000-8000-000000000001").await;
    db.audit.seal_waiting().await.unwrap();
    db.audit.drop_before(Utc::now()).await.unwrap();
    let left = db.audit.verify(Vec::new()).await.unwrap();
    assert_eq!((left.first, left.faults), (Some(5), Vec::new()), "the last stays, as nothing old comes after it");
}

#[tokio::test]
async fn many_are_dropped_in_pieces() {
    let db = Fixture::new().await;
    let entries: Vec<Entry> = (0..2500).map(|_| Entry::new(&"a test".into(), Action::Identify)).collect();
    super::super::entry::append_all(&mut db.pools.beside.acquire().await.unwrap(), &entries).await.unwrap();
    assert_eq!(db.audit.seal().await.unwrap(), 2500);
    let time = Utc::now();
    assert!(db.audit.drop_before(time).await.unwrap());
    assert!(db.audit.drop_before(time).await.unwrap());
    assert!(!db.audit.drop_before(time).await.unwrap());
    db.audit.seal().await.unwrap();
    let verdict = db.audit.verify(Vec::new()).await.unwrap();
    assert_eq!((verdict.first, verdict.entries, verdict.faults.len()), (Some(2501), 3, 0));
}

#[test]
fn an_export_is_walked_as_well() {
    let mut previous = Hash::BEGINNING;
    let mut records: Vec<Record> = Vec::new();
    for position in 1..=5 {
        let mut record = Record {
            position,
            id: Uuid::now_v7(),
            at: Utc::now(),
            actor: "a test".to_owned(),
            key_id: None,
            request_id: None,
            action: "identify".to_owned(),
            outcome: None,
            galleries: Vec::new(),
            subjects: Vec::new(),
            model_id: None,
            details: "{}".to_owned(),
            previous: Some(previous),
            hash: Hash::BEGINNING,
        };
        record.hash = record.seal(previous);
        previous = record.hash;
        records.push(record);
    }
    let walk = |records: &[Record]| {
        let mut walk = Walk::new(Vec::new());
        records.iter().for_each(|record| walk.step(record));
        walk.end().faults.into_iter().map(|fault| fault.position).collect::<Vec<_>>()
    };
    let none: Vec<i64> = Vec::new();
    assert_eq!(walk(&records), none);
    // A part of it says of each line whether it was changed.
    assert_eq!(walk(&records[2..]), none);
    let without = |at: usize| records.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, r)| r.clone()).collect();
    let missing: Vec<Record> = without(2);
    assert_eq!(walk(&missing), [3]);
    let mut swapped = records.clone();
    swapped.swap(1, 2);
    assert_eq!(walk(&swapped)[0], 2);
    // Nor does the first of a part pass that does not let itself be checked, or a head that lies before it.
    let mut unsaid = records[2..].to_vec();
    unsaid[0].previous = None;
    assert_eq!(walk(&unsaid), [3]);
    let head = |position: i64, hash: Hash| Head { position, hash, at: Utc::now() };
    let against = |records: &[Record], head: Head| {
        let mut walk = Walk::new(vec![head]);
        records.iter().for_each(|record| walk.step(record));
        walk.end().faults.into_iter().map(|fault| (fault.position, fault.what)).collect::<Vec<_>>()
    };
    let faults = against(&records[2..], head(1, records[0].hash));
    assert!(faults.len() == 1 && faults[0].0 == 1 && faults[0].1.contains("is gone"), "{faults:?}");
    assert_eq!(against(&records[2..], head(2, records[1].hash)), []);
    assert_eq!(against(&records[2..], head(2, records[0].hash))[0].0, 2);
    assert_eq!(against(&unsaid, head(2, records[1].hash)).len(), 2);
    assert_eq!(against(&records, head(0, Hash::BEGINNING)), []);
    let mut twice = records.clone();
    twice.insert(2, records[1].clone());
    assert_eq!(walk(&twice), [2]);
    let mut changed = records.clone();
    changed[3].actor = "nobody".to_owned();
    assert_eq!(walk(&changed), [4]);
    // Sealed anew, it no longer leads to what follows.
    changed[3].hash = changed[3].seal(changed[2].hash);
    assert_eq!(walk(&changed)[0], 5);
}
