//! Subjects and faces that expire, by a time of their own or by their gallery.

use super::*;
use crate::gallery::retention::{FACES_DUE, SUBJECTS_DUE, SWEPT};
use crate::gallery::transfer::{FaceRecord, Ids, Record, SubjectRecord};

impl Fixture {
    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    /// Sweeps as servers do, until nothing is due.
    async fn sweep(&self) -> Erased {
        let mut all = Erased::default();
        while let Some((gallery, subjects)) = self.galleries.subjects_due().await.unwrap() {
            let mut transaction = self.galleries.begin().await.unwrap();
            let hidden =
                self.galleries.hide_subjects(&mut transaction, gallery, Many::Expired(&subjects)).await.unwrap();
            transaction.commit().await.unwrap();
            all += hidden.unwrap().erased;
        }
        while let Some((erased, _)) = self.galleries.erase_faces_due().await.unwrap() {
            all += erased;
        }
        all
    }

    async fn names(&self, gallery: &str) -> Vec<String> {
        let page = self.galleries.list_subjects(gallery, &SubjectFilter::default(), Default::default()).await.unwrap();
        page.items.into_iter().map(|subject| subject.name).collect()
    }

    async fn keep(&self, gallery: &str, retention: Option<Retention>) -> Result<Gallery, GalleryError> {
        let change = GalleryChange { retention: Some(retention), ..GalleryChange::default() };
        self.galleries.update_gallery(gallery, &change, &Expected::Any).await
    }
}

fn days(faces_days: Option<u32>, subjects_days: Option<u32>) -> Retention {
    Retention { faces_days, subjects_days }
}

fn erased(subjects: u64, faces: u64) -> Erased {
    Erased { subjects, faces, embeddings: faces }
}

const ADA_EXPIRES: &str = "update subjects set expires_at = now() - interval '1 second' where name = 'Ada'";

#[tokio::test]
async fn who_has_expired_is_found_by_nobody_and_then_erased() {
    let (db, enrolled) = super::erasure::two_galleries().await;
    assert_eq!(db.sweep().await, Erased::default());
    db.sql("update subjects set expires_at = now() - interval '1 second' where name = 'Ada' and gallery_id <> \
        '00000000-0000-7000-8000-000000000000'; update subjects set expires_at = now() + interval '1 day' where name = 'Bob'")
        .await;
    // Even before the sweep.
    let ada = &enrolled[0];
    for asked in ["Ada", &ada.subject_id.to_string()] {
        let found = db.galleries.subject("team", asked).await;
        assert!(matches!(found, Err(GalleryError::SubjectNotFound(_))), "{found:?}");
    }
    assert!(matches!(db.galleries.face(ada.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert!(matches!(db.galleries.chip(ada.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert!(matches!(db.galleries.known_face(ada.face_id, db.model).await, Err(GalleryError::FaceNotFound(_))));
    assert!(db.galleries.known_subject("team", "Ada", db.model).await.is_err());
    assert_eq!(db.names("team").await, ["Bob"]);
    assert_eq!(db.galleries.gallery("team").await.unwrap().subjects, 1);
    // Nobody is enrolled only to be erased.
    let again = db.enroll_as(OnDoubt::Allow, "team", "Ada", &axis(1)).await;
    assert!(matches!(again, Err(GalleryError::SubjectExpired(name)) if name == "Ada"));

    assert_eq!(db.sweep().await, erased(1, 2));
    assert_eq!(db.sweep().await, Erased::default());
    let team = db.galleries.gallery("team").await.unwrap();
    assert_eq!((team.subjects, team.faces), (1, 1));
    assert_eq!((team.gallery.expired.subjects, team.gallery.expired.faces), (1, 2));
    assert!(team.gallery.expired.last_at.is_some());
    assert_eq!((db.rows("faces").await, db.rows("templates").await), (2, 2));
    assert!(db.enroll("team", "Ada", &axis(1)).await.subject_created);
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 1);
}

#[tokio::test]
async fn who_is_to_be_kept_longer_is_kept_even_at_the_last_moment() {
    let db = Fixture::new().await;
    db.enroll("default", "Ada", &axis(0)).await;
    let before = db.galleries.subject("default", "Ada").await.unwrap();
    let set = |expires_at| SubjectChange { expires_at: Some(expires_at), ..SubjectChange::default() };
    let soon = chrono::Utc::now() + chrono::TimeDelta::days(1);
    let changed = db.galleries.update_subject("default", "Ada", &set(Some(soon)), &Expected::Any).await.unwrap();
    assert_eq!(changed.expires_at.unwrap().timestamp_micros(), soon.timestamp_micros());
    assert_ne!(changed.revision, before.revision);
    let renamed = SubjectChange { name: Some(name("Ada")), ..SubjectChange::default() };
    let same = db.galleries.update_subject("default", "Ada", &renamed, &Expected::Any).await.unwrap();
    assert_eq!((same.expires_at, same.revision), (changed.expires_at, changed.revision));
    let never = db.galleries.update_subject("default", "Ada", &set(None), &Expected::Any).await.unwrap();
    assert_eq!(never.expires_at, None);

    // The sweep saw it as due, and somebody was faster.
    db.sql(ADA_EXPIRES).await;
    let (gallery, due) = db.galleries.subjects_due().await.unwrap().unwrap();
    assert_eq!(due, [never.id]);
    db.sql("update subjects set expires_at = now() + interval '1 hour'").await;
    let mut transaction = db.galleries.begin().await.unwrap();
    let hidden = db.galleries.hide_subjects(&mut transaction, gallery, Many::Expired(&due)).await.unwrap();
    assert_eq!(hidden, None);
    transaction.commit().await.unwrap();
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 1);
}

#[tokio::test]
async fn a_face_that_has_expired_is_gone_and_its_subject_stays() {
    let db = Fixture::new().await;
    let [first, second] = [db.enroll("default", "Ada", &axis(0)).await, db.enroll("default", "Ada", &axis(1)).await];
    db.enroll("default", "Bob", &axis(2)).await;
    sqlx::query("update faces set expires_at = now() - interval '1 second' where id = $1")
        .bind(first.face_id.0)
        .execute(&db.pool)
        .await
        .unwrap();
    assert!(matches!(db.galleries.face(first.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert_eq!(db.galleries.gallery("default").await.unwrap().faces, 2);
    assert_eq!(db.sweep().await, erased(0, 1));
    let found = &db.search(DEFAULT_GALLERY, &[axis(0)], 1, Some(0.5)).await[0];
    assert!(found.is_empty(), "the template is what is left: {found:?}");
    db.sql("update faces set expires_at = now() - interval '1 second' where subject_id in (select id from subjects where name = 'Ada')")
        .await;
    assert_eq!(db.sweep().await, erased(0, 1));
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 0);
    assert!(matches!(db.galleries.face(second.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert_eq!(db.galleries.subject("default", "Bob").await.unwrap().faces, 1);
}

#[tokio::test]
async fn a_gallery_keeps_what_is_in_it_for_so_many_days() {
    let (db, enrolled) = super::erasure::two_galleries().await;
    db.galleries.create_subject("team", &name("Nobody yet"), &Metadata::default()).await.unwrap();
    db.sql(
        "update faces set created_at = created_at - interval '10 days'; \
        update subjects set created_at = created_at - interval '10 days'",
    )
    .await;
    // Ada is enrolled again, whoever counts by days.
    let again = db.enroll("team", "Ada", &axis(5)).await;
    assert_eq!(again.subject_id, enrolled[0].subject_id);
    let kept = db.keep("team", Some(days(None, Some(9)))).await.unwrap().kept.unwrap();
    assert_eq!(kept.retention, days(None, Some(9)));
    let team = db.galleries.gallery_id("team").await.unwrap();
    assert_eq!(db.galleries.overdue(team).await.unwrap(), Overdue { subjects: 2, faces: 0 });
    // It can be taken back for an hour.
    assert_eq!(db.sweep().await, Erased::default());
    db.keep("team", Some(days(Some(9), Some(9)))).await.unwrap();
    assert_eq!(db.galleries.overdue(team).await.unwrap(), Overdue { subjects: 2, faces: 3 });
    assert_eq!(db.sweep().await, Erased::default());
    db.sql("update galleries set retention_from = now() where retention is not null").await;
    assert_eq!(db.sweep().await, erased(2, 3));
    assert_eq!(db.names("team").await, ["Ada"]);
    assert_eq!(db.galleries.subject("team", "Ada").await.unwrap().faces, 1);
    // Other galleries keep what they have.
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 1);
    db.keep("team", None).await.unwrap();
    db.sql("update faces set created_at = created_at - interval '10 days'").await;
    assert_eq!(db.sweep().await, Erased::default());
}

#[tokio::test]
async fn another_retention_holds_an_hour_later_and_the_same_one_at_once() {
    let db = Fixture::new().await;
    let first = db.keep("default", Some(days(Some(30), None))).await.unwrap();
    let from = first.kept.unwrap().from;
    let minutes = (from - db.galleries.clock().await.unwrap()).num_minutes();
    assert!((58..=60).contains(&minutes), "{minutes}");
    let same = db.keep("default", Some(days(Some(30), None))).await.unwrap();
    assert_eq!((same.kept, same.revision), (first.kept, first.revision));
    let other = db.keep("default", Some(days(Some(31), None))).await.unwrap();
    assert!(other.kept.unwrap().from > from && other.revision != first.revision);
    assert_eq!(db.keep("default", None).await.unwrap().kept, None);
    for nonsense in [days(None, None), days(Some(0), None), days(Some(1), Some(36_501))] {
        assert!(matches!(db.keep("default", Some(nonsense)).await, Err(GalleryError::InvalidRetention(_))));
    }
}

#[tokio::test]
async fn the_earlier_of_two_times_counts_and_faces_take_theirs_along() {
    let db = Fixture::new().await;
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    db.enroll("default", "Bob", &axis(1)).await;
    db.keep("default", Some(days(None, Some(5)))).await.unwrap();
    db.sql("update galleries set retention_from = now(); update faces set created_at = created_at - interval '6 days'; \
        update subjects set created_at = created_at - interval '6 days', expires_at = now() + interval '1 day'; \
        update faces set expires_at = now() + interval '1 day' where subject_id in (select id from subjects where name = 'Ada')")
        .await;
    // Bob is given a face that was enrolled today, and stays for that.
    let today = db.enroll("default", "Cyd", &axis(2)).await;
    db.galleries.move_face(today.face_id, &name("Bob")).await.unwrap();
    let moved = db.galleries.move_face(ada.face_id, &name("Bob")).await.unwrap();
    assert!(moved.expires_at.is_some());
    let bob = db.galleries.subject("default", "Bob").await.unwrap();
    let (_, into) = db.galleries.merge_small_subject("default", "Bob", "Cyd", &Expected::Any).await.unwrap().unwrap();
    assert_eq!(db.galleries.subject_by_id(into).await.unwrap().expires_at, bob.expires_at, "its own stays");
    assert_eq!(db.sweep().await, erased(1, 0));
    assert_eq!(db.names("default").await, ["Bob"]);
    assert_eq!(db.galleries.face(ada.face_id).await.unwrap().expires_at, moved.expires_at);
}

#[tokio::test]
async fn what_expires_is_imported_with_its_time_unless_that_is_over() {
    let db = Fixture::new().await;
    let at = |days| chrono::Utc::now() + chrono::TimeDelta::days(days);
    let whole = |time: chrono::DateTime<chrono::Utc>| chrono::DateTime::from_timestamp(time.timestamp(), 0).unwrap();
    let (later, over) = (whole(at(3)), whole(at(-3)));
    let record = |who: &str, subject_until, face_until| Record {
        subject: SubjectRecord {
            id: None,
            name: name(who),
            metadata: Metadata::default(),
            created_at: None,
            expires_at: subject_until,
        },
        face: Some(FaceRecord {
            embedding: Some(StoredEmbedding::from(&axis(0))),
            expires_at: face_until,
            ..FaceRecord::default()
        }),
    };
    let records = vec![
        record("Ada", Some(later), Some(later)),
        record("Bob", Some(over), None),
        record("Cyd", None, Some(over)),
        record("Dee", None, None),
    ];
    let mut intake = db.galleries.intake(name("copy"), None, Some(db.model), Ids::New);
    let stored = intake.store(records).await.unwrap();
    assert_eq!((stored.faces, stored.subjects_created, stored.expired), (2, 3, 2));
    let mut snapshot = db.galleries.snapshot("copy").await.unwrap();
    let read = snapshot.next(Some(db.model), true).await.unwrap();
    let times: Vec<_> = read
        .iter()
        .map(|record| (record.subject.expires_at, record.face.as_ref().map(|face| face.expires_at)))
        .collect();
    assert_eq!(times, [(Some(later), Some(Some(later))), (None, None), (None, Some(None))]);
    drop(snapshot);

    // Who expires meanwhile is left out with all that belongs to them, and confuses nobody else's.
    db.sql(ADA_EXPIRES).await;
    let mut snapshot = db.galleries.snapshot("copy").await.unwrap();
    let read = snapshot.next(Some(db.model), true).await.unwrap();
    let names: Vec<_> = read.iter().map(|record| (record.subject.name.to_string(), record.face.is_some())).collect();
    assert_eq!(names, [("Cyd".to_owned(), false), ("Dee".to_owned(), true)]);
    drop(snapshot);
    let again = intake.store(vec![record("Ada", None, None)]).await;
    assert!(matches!(again, Err(crate::gallery::IntakeError::BeingErased)), "{again:?}");
}

#[tokio::test]
async fn many_who_expire_go_in_pieces() {
    let db = Fixture::new().await;
    super::erasure::large(&db, "team", 400, 1).await;
    db.enroll("team", "Bob", &axis(0)).await;
    db.sql("update subjects set expires_at = now() - interval '1 second' where name like 'subject%'").await;
    let (_, due) = db.galleries.subjects_due().await.unwrap().unwrap();
    assert_eq!(due.len(), 300);
    assert_eq!(db.sweep().await, erased(400, 400));
    assert_eq!(db.names("team").await, ["Bob"]);
    for table in ["faces", "embeddings", "templates"] {
        assert_eq!(db.rows(table).await, 1, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_expire_while_others_enroll_merge_and_delete_without_a_deadlock() {
    let db = std::sync::Arc::new(Fixture::new().await);
    db.galleries.create_gallery(&name("team")).await.unwrap();
    for round in 0..10 {
        for n in 0..16 {
            db.enroll("team", &format!("subject {n}"), &axis(n)).await;
        }
        db.sql("update subjects set expires_at = now() where name in ('subject 1', 'subject 3', 'subject 5', 'subject 7'); \
            update faces set expires_at = now() \
            where subject_id in (select id from subjects where name in ('subject 8', 'subject 9', 'subject 10', 'subject 11'))")
            .await;
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let db = db.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..2 {
                    if let Some((gallery, due)) = db.galleries.subjects_due().await.unwrap() {
                        let mut transaction = db.galleries.begin().await.unwrap();
                        let many = Many::Expired(&due);
                        db.galleries.hide_subjects(&mut transaction, gallery, many).await.unwrap();
                        transaction.commit().await.unwrap();
                    }
                    db.galleries.erase_faces_due().await.unwrap();
                }
            }));
        }
        for n in 0..16 {
            let db = db.clone();
            tasks.push(tokio::spawn(async move {
                let subject = format!("subject {n}");
                let again = db.enroll_as(OnDoubt::Allow, "team", &subject, &axis(n + 16)).await;
                assert!(matches!(again, Ok(_) | Err(GalleryError::SubjectExpired(_))), "{again:?}");
                let into = format!("subject {}", 15 - n);
                let merged = db.galleries.merge_small_subject("team", &into, &subject, &Expected::Any).await;
                assert!(matches!(merged, Ok(_) | Err(GalleryError::SubjectNotFound(_))), "{merged:?}");
            }));
        }
        for task in tasks {
            task.await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        db.sql("update subjects set expires_at = now()").await;
        db.sweep().await;
        for table in ["subjects", "faces", "embeddings", "templates"] {
            assert_eq!(db.rows(table).await, 0, "{table}");
        }
    }
}

/// What one looks at to find that nothing is due does not grow with what there is.
#[tokio::test]
async fn nothing_is_read_when_nothing_is_due() {
    let db = Fixture::new().await;
    db.sql("insert into subjects (id, gallery_id, name) select gen_random_uuid(), id, 'subject ' || n \
          from galleries, generate_series(1, 20000) n; \
        insert into faces (id, gallery_id, subject_id) select gen_random_uuid(), gallery_id, id from subjects; \
        update subjects set expires_at = now() + interval '1 day'; update faces set expires_at = now() + interval '1 day'; \
        update galleries set retention = '{\"faces_days\": 3, \"subjects_days\": 3}', retention_from = now(); \
        analyze")
        .await;
    let indexes = ["subject_expiry_idx", "subject_age_idx", "face_expiry_idx", "face_age_idx"];
    for (sql, index) in SUBJECTS_DUE.into_iter().chain(FACES_DUE).zip(indexes) {
        let explain = sqlx::AssertSqlSafe(format!("explain (analyze, costs off, timing off) {sql}"));
        let plan: Vec<String> = sqlx::query_scalar(explain).bind(SWEPT).fetch_all(&db.pool).await.unwrap();
        let plan = plan.join("\n");
        let of_index = plan.lines().find(|line| line.contains(index)).unwrap_or_else(|| panic!("{plan}"));
        assert!(of_index.contains("rows=0"), "{plan}");
        assert!(!plan.contains("Seq Scan on faces") && !plan.contains("Seq Scan on subjects"), "{plan}");
    }
    assert_eq!(db.sweep().await, Erased::default());
}
