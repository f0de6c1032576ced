use super::*;

pub(super) async fn two_galleries() -> (Fixture, Vec<Enrolled>) {
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
    let ErasedFaces { erased, .. } = db.galleries.delete_face(bob.face_id).await.unwrap();
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
    let erased = db.erase_subject("team", &enrolled[0].subject_id.to_string()).await.unwrap();
    assert_eq!(erased, Erased { subjects: 1, faces: 2, embeddings: 2 });
    assert!(matches!(db.galleries.subject("team", "Ada").await, Err(GalleryError::SubjectNotFound(_))));
    assert!(matches!(db.erase_subject("team", "Ada").await, Err(GalleryError::SubjectNotFound(_))));
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
    let erased = db.erase_gallery("team").await.unwrap();
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
        match db.erase_subject(&gallery, "Ada").await {
            Ok(_) | Err(GalleryError::SubjectNotFound(_)) => {}
            Err(other) => panic!("{other}"),
        }
        db.erase_gallery(&gallery).await.unwrap();
        for enrolment in enrolments {
            enrolment.await.unwrap();
        }
    }
    for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 0, "{table}");
    }
}

/// Far more than is erased at once: subjects, and faces of each.
pub(super) async fn large(db: &Fixture, gallery: &str, subjects: usize, each: usize) {
    db.galleries.create_gallery(&name(gallery)).await.unwrap();
    let mut random = Random(11);
    for subject in 0..subjects {
        for _ in 0..each {
            db.enroll(gallery, &format!("subject {subject}"), &random.embedding()).await;
        }
    }
}

#[tokio::test]
async fn a_large_gallery_is_hidden_at_once_and_erased_in_pieces() {
    let db = Fixture::new().await;
    large(&db, "team", 400, 2).await;
    let kept = db.enroll("default", "Ada", &axis(0)).await;
    assert_eq!(db.galleries.erase_small_gallery("team", &Expected::Any).await.unwrap(), None);
    let id = db.galleries.gallery_id("team").await.unwrap();
    // An enrolment is under way, and does not hinder it.
    let (subject, metadata, embedding) = (name("late"), Metadata::default(), axis(3));
    let late = face(db.model, "team", &subject, &metadata, &embedding);
    let under_way = db.galleries.begin_enrolment(&late).await.unwrap();
    let mut transaction = db.galleries.begin().await.unwrap();
    assert_eq!(db.galleries.hide_gallery(&mut transaction, "team", &Expected::Any).await.unwrap().gallery, id);
    transaction.commit().await.unwrap();

    // Nobody finds it, or anything of it, by name or by id; and the name is free.
    for address in ["team".to_owned(), id.to_string()] {
        assert!(matches!(db.galleries.gallery(&address).await, Err(GalleryError::GalleryNotFound(_))));
        assert!(matches!(
            db.galleries.hide_gallery(&mut db.galleries.begin().await.unwrap(), &address, &Expected::Any).await,
            Err(GalleryError::GalleryNotFound(_))
        ));
        let refused = db.enroll_as(OnDoubt::Allow, &address, "Eve", &axis(1)).await;
        assert!(matches!(refused, Err(GalleryError::GalleryNotFound(_))));
    }
    let listed = db.galleries.list_galleries(crate::db::PageRequest::new(None, None).unwrap()).await.unwrap().items;
    assert_eq!(listed.iter().map(|gallery| gallery.name.as_str()).collect::<Vec<_>>(), ["default"]);
    let some: uuid::Uuid = sqlx::query_scalar("select id from faces where gallery_id = $1 limit 1")
        .bind(id.0)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    for result in [db.galleries.face(FaceId(some)).await.map(drop), db.galleries.chip(FaceId(some)).await.map(drop)] {
        assert!(matches!(result, Err(GalleryError::FaceNotFound(_))));
    }
    // Nor does whoever knows the gallery from before.
    assert!(db.search(id, &[axis(0)], 5, None).await.concat().is_empty());
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    assert_eq!(db.galleries.count_missing_embeddings(next).await.unwrap(), 1);
    assert_eq!(db.galleries.next_gallery_to_review(db.model, id).await.unwrap(), Some(DEFAULT_GALLERY));
    db.galleries.create_gallery(&name("team")).await.unwrap();
    under_way.finish(&late, Vec::new()).await.unwrap().1.commit().await.unwrap();

    // One server dies after a few pieces; another goes on.
    sqlx::query("delete from changes").execute(&db.pool).await.unwrap();
    let mut place = Place::default();
    for _ in 0..2 {
        let piece = db.galleries.erase_gallery_piece(id, &mut place).await.unwrap();
        // Their faces were the last of 150 subjects.
        assert_eq!((piece.done, piece.erased.faces, piece.erased.subjects), (false, 300, 150));
    }
    let erased = db.erase_hidden(id).await.unwrap();
    assert_eq!((erased.faces, erased.embeddings, erased.subjects), (201, 201, 101));
    assert!(db.galleries.erase_gallery_piece(id, &mut Place::default()).await.unwrap().done);
    for table in ["subjects", "faces", "embeddings", "templates", "review_queue"] {
        assert_eq!(db.rows(table).await, 1, "{table}");
    }
    // What nobody can find is no change to anybody; the gallery itself is, that was made anew.
    assert_eq!(db.rows("changes where subject_id is not null").await, 0);
    assert_eq!(db.galleries.gallery("team").await.unwrap().faces, 0);
    assert_eq!(db.galleries.face(kept.face_id).await.unwrap().subject, "Ada");
}

#[tokio::test]
async fn a_subject_with_many_faces_is_hidden_at_once_and_erased_in_pieces() {
    let db = Fixture::new().await;
    large(&db, "team", 1, 650).await;
    db.enroll("team", "Bob", &axis(0)).await;
    assert_eq!(db.galleries.erase_small_subject("team", "subject 0", &Expected::Any).await.unwrap(), None);
    assert_eq!(db.galleries.subject("team", "subject 0").await.unwrap().faces, 650);
    let mut transaction = db.galleries.begin().await.unwrap();
    let hidden = db.galleries.hide_subject(&mut transaction, "team", "subject 0", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    let (gallery, subject) = (hidden.gallery, hidden.subject.unwrap());
    let gone = db.galleries.subject("team", &subject.to_string()).await;
    assert!(matches!(gone, Err(GalleryError::SubjectNotFound(_))));
    let found = db.search(gallery, &[axis(0)], 5, None).await.remove(0);
    assert_eq!(found.iter().map(|found| &*found.about.name).collect::<Vec<_>>(), ["Bob"]);
    let contents = db.galleries.gallery("team").await.unwrap();
    assert_eq!((contents.subjects, contents.faces), (1, 1));
    assert_eq!(db.galleries.faces_with_chip(gallery).await.unwrap().len(), 1);
    // Under the same name somebody else comes.
    let other = db.enroll("team", "subject 0", &axis(5)).await;
    assert!(other.subject_created && other.subject_id != subject);
    let mut pieces = Vec::new();
    while pieces.last().is_none_or(|piece: &Piece| !piece.done) {
        pieces.push(db.galleries.erase_subject_piece(gallery, subject).await.unwrap());
    }
    assert_eq!(pieces.iter().map(|piece| piece.erased.faces).collect::<Vec<_>>(), [300, 300, 50]);
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("templates").await), (2, 2, 2));
}

#[tokio::test]
async fn a_subject_with_many_faces_goes_to_another_in_pieces() {
    let db = Fixture::new().await;
    large(&db, "team", 1, 650).await;
    let bob = db.enroll("team", "Bob", &axis(0)).await;
    let begin = async |into: &str, from: &str| {
        assert_eq!(db.galleries.merge_small_subject("team", into, from, &Expected::Any).await.unwrap(), None);
        let mut transaction = db.galleries.begin().await.unwrap();
        let (hidden, from, _) =
            db.galleries.hide_merged(&mut transaction, "team", (into, from), &Expected::Any).await.unwrap();
        transaction.commit().await.unwrap();
        (hidden.gallery, from)
    };
    let (gallery, from) = begin("Bob", "subject 0").await;
    assert!(matches!(db.galleries.subject("team", "subject 0").await, Err(GalleryError::SubjectNotFound(_))));
    let piece = db.galleries.erase_subject_piece(gallery, from).await.unwrap();
    assert_eq!((piece.moved, piece.done), (300, false));
    let template: i32 = sqlx::query_scalar("select faces from templates").fetch_one(&db.pool).await.unwrap();
    assert_eq!(template, 301);
    for moved in [300, 50] {
        assert_eq!(db.galleries.erase_subject_piece(gallery, from).await.unwrap().moved, moved);
    }
    assert_eq!(db.galleries.subject("team", "Bob").await.unwrap().faces, 651);
    assert_eq!((db.rows("subjects").await, db.rows("templates").await), (1, 1));

    // Whoever gets the faces is erased meanwhile: so are they.
    let (carl, mut random) = (db.enroll("team", "Carl", &axis(1)).await, Random(5));
    let (gallery, from) = begin("Carl", "Bob").await;
    assert_eq!(from, bob.subject_id);
    db.galleries.erase_subject_piece(gallery, from).await.unwrap();
    let mut transaction = db.galleries.begin().await.unwrap();
    db.galleries.hide_subject(&mut transaction, "team", "Carl", &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    db.enroll("team", "Dora", &random.embedding()).await;
    for subject in [from, carl.subject_id] {
        while !db.galleries.erase_subject_piece(gallery, subject).await.unwrap().done {}
    }
    assert_eq!((db.rows("faces").await, db.rows("subjects").await, db.rows("templates").await), (1, 1, 1));
}

/// For a lock.
async fn until_somebody_waits(db: &Fixture) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(&db.pool).await.unwrap() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What comes of a call that finds something by its name, and waits for who gives that another one.
async fn while_renamed<T: Send + 'static>(
    db: &Fixture,
    rename: &'static str,
    call: impl Future<Output = Result<Option<T>, GalleryError>> + Send + 'static,
) -> GalleryError {
    let mut transaction = db.galleries.begin().await.unwrap();
    sqlx::query(rename).execute(&mut *transaction).await.unwrap();
    let call = tokio::spawn(call);
    until_somebody_waits(db).await;
    transaction.commit().await.unwrap();
    call.await.unwrap().map(drop).unwrap_err()
}

#[tokio::test]
async fn who_gets_another_name_meanwhile_is_not_erased() {
    let (db, _) = two_galleries().await;
    let galleries = db.galleries.clone();
    let erase = async move { galleries.erase_small_subject("team", "Ada", &Expected::Any).await };
    let refused = while_renamed(&db, "update subjects set name = 'Eve' where name = 'Ada'", erase).await;
    assert!(matches!(&refused, GalleryError::SubjectNotFound(asked) if asked == "Ada"), "{refused}");
    let galleries = db.galleries.clone();
    let merge = async move { galleries.merge_small_subject("team", "Bob", "Eve", &Expected::Any).await };
    let refused = while_renamed(&db, "update subjects set name = 'Ada' where name = 'Eve'", merge).await;
    assert!(matches!(&refused, GalleryError::SubjectNotFound(asked) if asked == "Eve"), "{refused}");
    let galleries = db.galleries.clone();
    let erase = async move { galleries.erase_small_gallery("team", &Expected::Any).await };
    let refused = while_renamed(&db, "update galleries set name = 'staff' where name = 'team'", erase).await;
    assert!(matches!(&refused, GalleryError::GalleryNotFound(asked) if asked == "team"), "{refused}");
    assert_eq!((db.rows("galleries").await, db.rows("subjects").await, db.rows("faces").await), (2, 3, 4));
}

#[tokio::test]
async fn faces_on_their_way_to_somebody_who_is_merged_arrive_where_that_one_went() {
    let db = Fixture::new().await;
    large(&db, "team", 1, 650).await;
    db.enroll("team", "Bob", &axis(0)).await;
    db.enroll("team", "Carl", &axis(1)).await;
    let mut transaction = db.galleries.begin().await.unwrap();
    let (hidden, from, _) =
        db.galleries.hide_merged(&mut transaction, "team", ("Bob", "subject 0"), &Expected::Any).await.unwrap();
    transaction.commit().await.unwrap();
    db.galleries.erase_subject_piece(hidden.gallery, from).await.unwrap();
    // While they are on their way, another model embeds them as well: they stay.
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    let on_their_way = db.galleries.missing_embeddings(next, None).await.unwrap().0;
    assert_eq!((on_their_way.len(), db.galleries.count_missing_embeddings(next).await.unwrap()), (652, 652));
    let ReadChips { chips, .. } = db.galleries.chips_to_embed(&on_their_way).await.unwrap();
    assert_eq!(chips.len(), 652);
    let made: Vec<_> = on_their_way.iter().map(|face| (*face, Random(7).embedding_of(8))).collect();
    assert_eq!(db.galleries.store_embeddings(next, &made).await.unwrap(), 652);

    // Bob has 301 faces by now: he goes to Carl by a job as well. His is done first. A piece that waits meanwhile erases nothing.
    let mut transaction = db.galleries.begin().await.unwrap();
    let (_, bob, _) =
        db.galleries.hide_merged(&mut transaction, "team", ("Carl", "Bob"), &Expected::Any).await.unwrap();
    let piece = tokio::spawn({
        let (galleries, gallery) = (db.galleries.clone(), hidden.gallery);
        async move { galleries.erase_subject_piece(gallery, from).await.unwrap() }
    });
    until_somebody_waits(&db).await;
    transaction.commit().await.unwrap();
    assert_eq!(piece.await.unwrap(), Piece::default());
    for subject in [bob, from] {
        while !db.galleries.erase_subject_piece(hidden.gallery, subject).await.unwrap().done {}
    }
    assert_eq!(db.galleries.subject("team", "Carl").await.unwrap().faces, 652);
    let templates: Vec<i32> = sqlx::query_scalar("select faces from templates").fetch_all(&db.pool).await.unwrap();
    assert_eq!(templates, [652, 652]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faces_and_their_subject_are_deleted_at_once_without_a_deadlock() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let next = db.registry.register("next", [2; 32], 8).await.unwrap().id;
    for round in 0..12 {
        let mut faces = Vec::new();
        for n in 0..6 {
            faces.push(db.enroll("default", "Ada", &axis(n)).await.face_id);
        }
        let mut calls = Vec::new();
        for face in faces.clone() {
            let db = db.clone();
            calls.push(tokio::spawn(async move { db.galleries.delete_face(face).await.map(drop) }));
        }
        for chunk in faces.chunks(3) {
            let made: Vec<_> = chunk.iter().map(|face| (*face, Random(round + 1).embedding_of(8))).collect();
            let db = db.clone();
            calls.push(tokio::spawn(async move { db.galleries.store_embeddings(next, &made).await.map(drop) }));
        }
        let moving = (db.clone(), faces[0]);
        calls.push(tokio::spawn(async move { moving.0.galleries.move_face(moving.1, &name("Bob")).await.map(drop) }));
        let subject = db.clone();
        calls.push(tokio::spawn(async move { subject.erase_subject("default", "Ada").await.map(drop) }));
        for call in calls {
            match call.await.unwrap() {
                Ok(()) | Err(GalleryError::FaceNotFound(_) | GalleryError::SubjectNotFound(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}
