use super::*;

#[tokio::test]
async fn what_there_is_to_train_on() {
    let db = Fixture::new().await;
    let other = db.galleries.create_gallery(&name("other")).await.unwrap().id;
    let mut faces = Vec::new();
    for (subject, count) in [("Ada", 4), ("Bob", 2), ("Cem", 1), ("Dora", 2)] {
        for n in 0..count {
            faces.push(db.enroll("default", subject, &axis(n)).await);
        }
    }
    db.enroll("other", "Ada", &axis(0)).await;
    // Imported without chips.
    let without = [&faces[6], &faces[7]].map(|face| face.face_id.0);
    sqlx::query("update faces set chip = null where id = any($1)").bind(without).execute(&db.pool).await.unwrap();

    let stock = db.galleries.training_stock(DEFAULT_GALLERY).await.unwrap();
    assert_eq!(stock, TrainingStock { mated: 2, without_chip: 2, copies: 0 });
    assert_eq!(db.galleries.training_stock(GalleryId::new()).await.unwrap(), TrainingStock::default());
    let names = async |subjects| -> Vec<String> {
        let found = db.galleries.some_with_mated(subjects, 5, 10).await.unwrap();
        found.into_iter().map(|gallery| gallery.name).collect()
    };
    assert_eq!((names(2).await, names(3).await), (vec!["default".to_owned()], vec![]));

    let known = db.galleries.faces_with_chip(DEFAULT_GALLERY).await.unwrap();
    assert!(known.len() == 7 && known.is_sorted_by_key(|known| known.subject));
    assert!(known.iter().all(|known| !without.contains(&known.face.0)));
    assert_eq!(db.galleries.faces_with_chip(other).await.unwrap().len(), 1);
    let sample = db.galleries.sample_of_faces(DEFAULT_GALLERY, 10, 3).await.unwrap();
    assert_eq!(sample.len(), 5, "three of Ada, two of Bob: {sample:?}");
    assert_eq!(db.galleries.sample_of_faces(DEFAULT_GALLERY, 10, 3).await.unwrap(), sample);
    let one = db.galleries.sample_of_faces(DEFAULT_GALLERY, 1, 10).await.unwrap();
    assert!(one.len() > 1 && one.iter().all(|known| known.subject == one[0].subject));

    let asked = [faces[0].face_id, faces[6].face_id, FaceId::new()];
    let chips = db.galleries.chips_of(&asked).await.unwrap();
    assert_eq!(chips.len(), 1);
    let jpeg = db.galleries.chip(faces[0].face_id).await.unwrap();
    assert_eq!((chips[0].face, &chips[0].jpeg), (faces[0].face_id, &jpeg));
}

#[tokio::test]
async fn a_photo_that_was_enrolled_again_counts_once() {
    let db = Fixture::new().await;
    let mut faces = Vec::new();
    for (subject, count) in [("Ada", 4), ("Bob", 3), ("Cem", 2)] {
        for n in 0..count {
            faces.push(db.enroll("default", subject, &axis(n)).await.face_id.0);
        }
    }
    let alike = async |faces: &[uuid::Uuid], assignment: &str| {
        let update = format!("update faces set {assignment} where id = any($1)");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(faces).execute(&db.pool).await.unwrap();
    };
    // Three faces of Ada and one of Bob are of one image; two of Bob are known by their chips alone; Cem has one photo twice.
    alike(&[faces[0], faces[1], faces[2], faces[4]], "image_sha256 = sha256('a')").await;
    alike(&[faces[5], faces[6]], "image_sha256 = null, chip = 'chip'").await;
    alike(&[faces[7], faces[8]], "image_sha256 = sha256('c')").await;
    let stock = db.galleries.training_stock(DEFAULT_GALLERY).await.unwrap();
    assert_eq!(stock, TrainingStock { mated: 2, without_chip: 0, copies: 4 });
    let known = db.galleries.faces_with_chip(DEFAULT_GALLERY).await.unwrap();
    let mut expected = [0, 3, 4, 5, 7].map(|n| faces[n]);
    expected.sort_unstable();
    let mut found: Vec<_> = known.iter().map(|known| known.face.0).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    let sample = db.galleries.sample_of_faces(DEFAULT_GALLERY, 10, 10).await.unwrap();
    assert_eq!(sample.len(), 4, "two of Ada, two of Bob: {sample:?}");
    let names = |found: Vec<crate::gallery::Gallery>| found.len();
    assert_eq!(names(db.galleries.some_with_mated(2, 5, 10).await.unwrap()), 1);
    assert_eq!(names(db.galleries.some_with_mated(3, 5, 10).await.unwrap()), 0);
    let model = db.model;
    let sample = db.galleries.sample_of_embeddings(DEFAULT_GALLERY, model, 10, 5).await.unwrap();
    let mut counts: Vec<usize> = sample.iter().map(Vec::len).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 2]);
    let photos: std::collections::HashSet<_> = sample.iter().flatten().map(|(photo, _)| *photo).collect();
    assert_eq!(photos.len(), 4, "Ada and Bob share one");
}

#[tokio::test]
async fn some_galleries_are_found_however_many_there_are() {
    let db = Fixture::new().await;
    let mut ids = Vec::new();
    for number in 0..6 {
        let gallery = name(&format!("door-{number}"));
        ids.push(db.galleries.create_gallery(&gallery).await.unwrap().id);
        for subject in ["Ada", "Bob"] {
            db.enroll(gallery.as_str(), subject, &axis(0)).await;
            db.enroll(gallery.as_str(), subject, &axis(1)).await;
        }
    }
    db.enroll("default", "Cem", &axis(0)).await;
    let found = async |least, largest, most| -> Vec<GalleryId> {
        let found = db.galleries.some_with_mated(least, largest, most).await.unwrap();
        found.into_iter().map(|gallery| gallery.id).collect()
    };
    assert_eq!(found(2, 3, 10).await, ids, "all that have enough, oldest first");
    assert_eq!(found(3, 3, 10).await, []);
    let three = found(2, 1, 3).await;
    assert!(three.len() == 3 && found(2, 1, 3).await == three, "{three:?}");
    // Whoever is measured as the largest is among them, whatever the lot.
    let other = *ids.iter().find(|id| !three.contains(id)).unwrap();
    let insert = "insert into gallery_rates (model_id, gallery_id, subjects, probes, twice, measured_at) \
                  values ($1, $2, 500, 500, 0, now())";
    sqlx::query(insert).bind(db.model.0).bind(other.0).execute(&db.pool).await.unwrap();
    let three = found(2, 1, 3).await;
    assert!(three.len() == 3 && three.contains(&other), "{three:?}");
}
