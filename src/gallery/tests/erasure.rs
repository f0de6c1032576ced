use super::*;

async fn two_galleries() -> (Fixture, Vec<Enrolled>) {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("team")).await.unwrap();
    let mut enrolled = Vec::new();
    for (gallery, subject) in [("team", "Ada"), ("team", "Ada"), ("team", "Bob"), ("default", "Ada")] {
        enrolled.push(db.enroll(gallery, subject, &axis(0)).await);
    }
    (db, enrolled)
}

#[tokio::test]
async fn a_deleted_face_is_gone_and_its_subject_stays() {
    let (db, enrolled) = two_galleries().await;
    let bob = &enrolled[2];
    let erased = db.galleries.delete_face(bob.face_id).await.unwrap();
    assert_eq!(erased, Erased { subjects: 0, faces: 1, embeddings: 1 });
    assert!(matches!(db.galleries.face(bob.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert!(matches!(db.galleries.chip(bob.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert!(matches!(db.galleries.delete_face(bob.face_id).await, Err(GalleryError::FaceNotFound(_))));
    assert_eq!((db.rows("faces").await, db.rows("embeddings").await), (3, 3));

    assert_eq!(db.galleries.subject("team", "Bob").await.unwrap().faces, 0);
    let again = db.enroll("team", "Bob", &axis(0)).await;
    assert_eq!((again.subject_id, again.subject_created), (bob.subject_id, false));
}

#[tokio::test]
async fn a_deleted_subject_leaves_no_row() {
    let (db, enrolled) = two_galleries().await;
    let erased = db.galleries.delete_subject("team", &enrolled[0].subject_id.to_string()).await.unwrap();
    assert_eq!(erased, Erased { subjects: 1, faces: 2, embeddings: 2 });
    assert!(matches!(db.galleries.subject("team", "Ada").await, Err(GalleryError::SubjectNotFound(_))));
    assert!(matches!(db.galleries.delete_subject("team", "Ada").await, Err(GalleryError::SubjectNotFound(_))));
    let team = db.galleries.gallery_id("team").await.unwrap();
    let found = db.search(team, &[axis(0)], 5, None).await.remove(0);
    assert_eq!(found.iter().map(|found| &*found.about.name).collect::<Vec<_>>(), ["Bob"]);
    // The Ada of another gallery is another person.
    assert_eq!(db.galleries.subject("default", "Ada").await.unwrap().faces, 1);
    for table in ["faces", "embeddings", "subjects", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 2, "{table}");
    }
}

#[tokio::test]
async fn a_deleted_gallery_takes_all_with_it() {
    let (db, _) = two_galleries().await;
    let erased = db.galleries.delete_gallery("team").await.unwrap();
    assert_eq!(erased, Erased { subjects: 2, faces: 3, embeddings: 3 });
    assert!(matches!(db.galleries.gallery("team").await, Err(GalleryError::GalleryNotFound(_))));
    for table in ["galleries", "subjects", "faces", "embeddings", "templates"] {
        assert_eq!(db.rows(table).await, 1, "{table}");
    }
}

#[tokio::test]
async fn the_schema_cascades_by_itself() {
    let (db, _) = two_galleries().await;
    sqlx::query("delete from galleries").execute(&db.pool).await.unwrap();
    for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn no_embedding_can_claim_another_subject() {
    let (db, enrolled) = two_galleries().await;
    let moved = sqlx::query("update embeddings set subject_id = $1 where face_id = $2")
        .bind(enrolled[2].subject_id.0)
        .bind(enrolled[0].face_id.0)
        .execute(&db.pool)
        .await
        .unwrap_err();
    assert!(crate::db::violates(&moved, "embedding_face_fkey"), "{moved}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn enrolling_while_deleting_leaves_nothing_half_there() {
    let db = std::sync::Arc::new(Fixture::new().await);
    for round in 0..10 {
        let gallery = format!("gallery {round}");
        db.galleries.create_gallery(&name(&gallery)).await.unwrap();
        let enrolments = (0..4).map(|n| {
            let (db, gallery) = (db.clone(), gallery.clone());
            tokio::spawn(async move {
                match db.enroll_as(OnDoubt::Allow, &gallery, "Ada", &axis(n)).await {
                    Ok(_) | Err(GalleryError::GalleryNotFound(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            })
        });
        let enrolments: Vec<_> = enrolments.collect();
        match db.galleries.delete_subject(&gallery, "Ada").await {
            Ok(_) | Err(GalleryError::SubjectNotFound(_)) => {}
            Err(other) => panic!("{other}"),
        }
        db.galleries.delete_gallery(&gallery).await.unwrap();
        for enrolment in enrolments {
            enrolment.await.unwrap();
        }
    }
    for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 0, "{table}");
    }
}
