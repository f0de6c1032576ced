//! Many at once, and many who erase at once.

use super::erasure::{large, two_galleries};
use super::*;

/// Hides many as servers do.
async fn hide_many(db: &Fixture, gallery: GalleryId, many: Many<'_>) -> Option<HiddenSubjects> {
    let mut transaction = db.galleries.begin().await.unwrap();
    let hidden = db.galleries.hide_subjects(&mut transaction, gallery, many).await.unwrap();
    transaction.commit().await.unwrap();
    hidden
}

fn beginning_with(prefix: &str) -> SubjectFilter {
    SubjectFilter { prefix: Some(NamePrefix::try_from(prefix.to_owned()).unwrap()), metadata: None }
}

#[tokio::test]
async fn who_comes_later_or_is_passed_does_not_match() {
    let db = Fixture::new().await;
    let create =
        async |text: &str| db.galleries.create_subject("default", &name(text), &Metadata::default()).await.unwrap().id;
    let [first, second] = [create("Ada Lovelace").await, create("Ada B.").await];
    let others = [create("Adam").await, create("ada l.").await];
    let (filter, until) = (beginning_with("Ada "), db.galleries.clock().await.unwrap());
    let late = create("Ada Late").await;
    let has = async |after| {
        db.galleries.has_matching(DEFAULT_GALLERY, Matching { filter: &filter, until, after }).await.unwrap()
    };
    assert_eq!([has(None).await, has(Some(first)).await, has(Some(second)).await], [true, true, false]);
    let matching = |after| Many::Matching(Matching { filter: &filter, until, after });
    let hidden = hide_many(&db, DEFAULT_GALLERY, matching(Some(first))).await.unwrap();
    assert_eq!(hidden.subjects, [second]);
    let hidden = hide_many(&db, DEFAULT_GALLERY, matching(None)).await.unwrap();
    assert_eq!(hidden.subjects, [first]);
    assert!(!has(None).await);
    for left in [others.as_slice(), &[late]].concat() {
        db.galleries.subject_by_id(left).await.unwrap();
    }
}

#[tokio::test]
async fn many_subjects_are_hidden_together_and_erased_in_pieces() {
    let db = Fixture::new().await;
    large(&db, "team", 350, 2).await;
    let kept = db.enroll("team", "Ada", &axis(0)).await;
    let team = db.galleries.gallery_id("team").await.unwrap();
    let filter = beginning_with("subject");
    let matching = Matching { filter: &filter, until: db.galleries.clock().await.unwrap(), after: None };
    let hidden = hide_many(&db, team, Many::Matching(matching)).await.unwrap();
    assert_eq!(hidden.erased, Erased { subjects: 350, faces: 700, embeddings: 700 });
    assert_eq!(hide_many(&db, team, Many::Matching(matching)).await, None);
    assert_eq!(hide_many(&db, team, Many::These(&hidden.subjects)).await, None);
    let contents = db.galleries.gallery("team").await.unwrap();
    assert_eq!((contents.subjects, contents.faces), (1, 1));
    // Others come under their names, and stay.
    db.enroll("team", "subject 7", &axis(1)).await;

    let with = hidden.rest.unwrap();
    assert_eq!(db.galleries.count_hidden_together(with).await.unwrap(), hidden.erased);
    let mut pieces = Vec::new();
    while pieces.last().is_none_or(|piece: &Piece| !piece.done) {
        pieces.push(db.galleries.erase_piece_together(team, with).await.unwrap());
    }
    assert!(pieces.iter().all(|piece| piece.erased.faces <= 300 && piece.erased.subjects <= 300), "{pieces:?}");
    let mut erased = Erased::default();
    pieces.iter().for_each(|piece| erased += piece.erased);
    assert_eq!(erased, hidden.erased);
    assert_eq!(db.galleries.count_hidden_together(with).await.unwrap(), Erased::default());
    for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 2, "{table}");
    }
    assert_eq!(db.galleries.face(kept.face_id).await.unwrap().subject, "Ada");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_are_deleted_while_others_enroll_merge_and_delete_without_a_deadlock() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let team = db.galleries.create_gallery(&name("team")).await.unwrap().id;
    for round in 0..10 {
        let mut faces = Vec::new();
        for n in 0..8 {
            faces.push(db.enroll("team", &format!("subject {n}"), &axis(n)).await.face_id);
        }
        let ids: Vec<Name> = (0..8).map(|n| name(&format!("subject {n}"))).collect();
        let mut ids: Vec<SubjectId> =
            db.galleries.find_subjects(team, &ids).await.unwrap().into_iter().map(Option::unwrap).collect();
        let mut tasks = Vec::new();
        for turned in [false, true] {
            if turned {
                ids.reverse();
                faces.reverse();
            }
            let (db, ids) = (db.clone(), ids.clone());
            tasks.push(tokio::spawn(async move {
                hide_many(&db, team, Many::These(&ids)).await;
            }));
        }
        for part in [&faces[..6], &faces[2..]] {
            let (db, part) = (db.clone(), part.to_vec());
            tasks.push(tokio::spawn(async move {
                db.galleries.delete_faces(&part).await.unwrap();
            }));
        }
        for n in 0..8 {
            let db = db.clone();
            tasks.push(tokio::spawn(async move {
                db.enroll("team", &format!("subject {n}"), &axis(n + 8)).await;
                let into = format!("subject {}", 7 - n);
                let merged =
                    db.galleries.merge_small_subject("team", &into, &format!("subject {n}"), &Expected::Any).await;
                assert!(matches!(merged, Ok(_) | Err(GalleryError::SubjectNotFound(_))), "{merged:?}");
            }));
        }
        for task in tasks {
            task.await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        let filter = beginning_with("subject");
        let matching = Matching { filter: &filter, until: db.galleries.clock().await.unwrap(), after: None };
        while hide_many(&db, team, Many::Matching(matching)).await.is_some() {}
        for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
            assert_eq!(db.rows(table).await, 0, "{table}");
        }
    }
}

/// What is looked up in a transaction takes no second connection: each of many who have one would wait for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_merge_and_hide_at_once_by_few_connections() {
    let settings = PoolSettings {
        max_connections: 2,
        acquire_timeout: std::time::Duration::from_secs(20),
        ..PoolSettings::default()
    };
    let db = std::sync::Arc::new(Fixture::on(database_with(settings).await).await);
    db.enroll("default", "Ada", &axis(0)).await;
    for n in 0..16 {
        db.enroll("default", &format!("merged {n}"), &axis(n)).await;
        db.enroll("default", &format!("hidden {n}"), &axis(n)).await;
        db.galleries.create_gallery(&name(&format!("hidden {n}"))).await.unwrap();
    }
    let mut tasks = Vec::new();
    for n in 0..16 {
        let merging = db.clone();
        tasks.push(tokio::spawn(async move {
            let from = format!("merged {n}");
            merging.galleries.merge_small_subject("default", "Ada", &from, &Expected::Any).await.map(drop)
        }));
        let hiding = db.clone();
        tasks.push(tokio::spawn(async move {
            let (asked, mut transaction) = (format!("hidden {n}"), hiding.galleries.begin().await?);
            hiding.galleries.hide_subject(&mut transaction, "default", &asked, &Expected::Any).await?;
            hiding.galleries.hide_gallery(&mut transaction, &asked, &Expected::Any).await?;
            Ok(transaction.commit().await?)
        }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 17);
    let contents = db.galleries.gallery("default").await.unwrap();
    assert_eq!((contents.subjects, contents.faces), (1, 17));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn subjects_whom_findings_connect_are_deleted_at_once_without_a_deadlock() {
    let db = std::sync::Arc::new(Fixture::new().await);
    for round in 0..12 {
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
            "insert into subjects (id, gallery_id, name) select gen_random_uuid(), $1, 'subject ' || n \
             from generate_series(1, 24) n returning id",
        )
        .bind(DEFAULT_GALLERY.0)
        .fetch_all(&db.pool)
        .await
        .unwrap();
        sqlx::query(
            "insert into findings (id, model_id, gallery_id, kind, subject_id, other_id, score) \
             select gen_random_uuid(), $1, $2, 'duplicate', a.id, b.id, 0.5 from subjects a, subjects b where a.id <> b.id",
        )
        .bind(db.model.0)
        .bind(DEFAULT_GALLERY.0)
        .execute(&db.pool)
        .await
        .unwrap();
        let mut tasks = Vec::new();
        // Many by two requests, and by one request each.
        for part in ids.chunks(if round % 2 == 0 { 12 } else { 1 }) {
            let (db, part): (_, Vec<SubjectId>) = (db.clone(), part.iter().copied().map(SubjectId).collect());
            tasks.push(tokio::spawn(async move {
                match part.as_slice() {
                    [one] => drop(db.erase_subject("default", &one.to_string()).await.unwrap()),
                    many => drop(hide_many(&db, DEFAULT_GALLERY, Many::These(many)).await.unwrap()),
                }
            }));
        }
        for task in tasks {
            task.await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_eq!((db.rows("subjects").await, db.rows("findings").await), (0, 0));
    }
}

#[tokio::test]
async fn faces_that_are_listed_are_deleted_and_those_that_were_there_are_told() {
    let (db, enrolled) = two_galleries().await;
    let [ada, _, bob, other] = [0, 1, 2, 3].map(|n| enrolled[n].face_id);
    db.erase_subject("default", "Ada").await.unwrap();
    let listed = [ada, bob, other, ada, FaceId::new()];
    let ErasedFaces { found, erased, transaction, erasures } = db.galleries.delete_faces(&listed).await.unwrap();
    assert_eq!((found, erased.faces, erased.embeddings), ([ada, bob].into(), 2, 2));
    assert!(transaction.is_some());
    let receipt = db.galleries.erasure(erasures[0]).await.unwrap();
    let mut faces = [ada.0, bob.0];
    faces.sort();
    assert_eq!((erasures.len(), receipt.faces, receipt.erased), (1, Some(faces.to_vec()), erased));
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("templates").await), (1, 2, 1));
    let ErasedFaces { found, erased, transaction, erasures } = db.galleries.delete_faces(&listed).await.unwrap();
    assert_eq!((found.len(), erased, transaction, erasures.len()), (0, Erased::default(), None, 0));
}
