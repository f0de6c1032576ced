//! Galleries that may have but so many subjects.

use std::sync::Arc;

use super::*;
use crate::gallery::transfer::{FaceRecord, Ids, IntakeError, Record, SubjectRecord};
use crate::types::SubjectId;

async fn limit(db: &Fixture, most: Option<u64>) {
    let change = GalleryChange { max_subjects: Some(most), ..GalleryChange::default() };
    let changed = db.galleries.update_gallery("default", &change, &Expected::Any).await.unwrap();
    assert_eq!(changed.max_subjects, most);
}

/// A batch of an import: two faces of each.
async fn import(db: &Fixture, names: &[&str]) -> Result<u64, IntakeError> {
    let record = |subject: &str| {
        let subject = SubjectRecord {
            id: Some(SubjectId::new()),
            name: name(subject),
            metadata: Metadata::default(),
            created_at: None,
            expires_at: None,
        };
        Record { subject, face: Some(FaceRecord { id: Some(FaceId::new()), ..FaceRecord::default() }) }
    };
    let records = names.iter().chain(names).map(|subject| record(subject)).collect();
    let stored = db.galleries.intake(name("default"), None, None, Ids::New).store(records).await?;
    Ok(stored.subjects_created)
}

#[tokio::test]
async fn whatever_creates_subjects_keeps_to_the_number_at_once() {
    let db = Arc::new(Fixture::new().await);
    limit(&db, Some(5)).await;
    let enroll = |number: usize| {
        let db = Arc::clone(&db);
        let how = [OnDoubt::Allow, OnDoubt::Warn, OnDoubt::Reject][number % 3];
        tokio::spawn(async move {
            db.enroll_as(how, "default", &format!("by enrolment {number}"), &axis(number)).await.is_ok()
        })
    };
    let begin = |number: usize| {
        let db = Arc::clone(&db);
        tokio::spawn(async move {
            let begun = db
                .galleries
                .begin_subject("default", &name(&format!("alone {number}")), &Metadata::default(), None)
                .await;
            match begun {
                Ok((_, transaction)) => transaction.commit().await.is_ok(),
                Err(GalleryError::SubjectQuota { most: 5 }) => false,
                Err(error) => panic!("{error}"),
            }
        })
    };
    let batch = |number: usize| {
        let db = Arc::clone(&db);
        tokio::spawn(async move {
            let names = [format!("imported {number}"), "imported by all".to_owned()];
            match import(&db, &names.each_ref().map(String::as_str)).await {
                Ok(_) => true,
                Err(IntakeError::Gallery(GalleryError::SubjectQuota { most: 5 })) => false,
                Err(error) => panic!("{error}"),
            }
        })
    };
    let tasks: Vec<_> = (0..6).flat_map(|number| [enroll(number), begin(number), batch(number)]).collect();
    let mut done = 0;
    for task in tasks {
        done += usize::from(task.await.unwrap());
    }
    assert!(done >= 4, "{done}");
    assert!((4..=5).contains(&db.rows("subjects").await), "{}", db.rows("subjects").await);
    // One more fits a gallery of four; two at once never left it half done.
    while db.rows("subjects").await < 5 {
        db.enroll("default", "last", &axis(7)).await;
    }
    let refused = db.enroll_as(OnDoubt::Allow, "default", "one more", &axis(8)).await;
    assert!(matches!(refused, Err(GalleryError::SubjectQuota { most: 5 })), "{refused:?}");
    assert!(matches!(
        import(&db, &["one more"]).await,
        Err(IntakeError::Gallery(GalleryError::SubjectQuota { most: 5 }))
    ));
    limit(&db, None).await;
    assert_eq!(import(&db, &["one more", "and another"]).await.unwrap(), 2);
}

#[tokio::test]
async fn faces_of_those_who_are_there_are_not_counted() {
    let db = Fixture::new().await;
    limit(&db, Some(1)).await;
    let first = db.enroll("default", "Ada", &axis(0)).await;
    let again = db.enroll("default", "Ada", &axis(0)).await;
    assert_eq!(import(&db, &["Ada"]).await.unwrap(), 0);
    let moved = db.galleries.move_face(again.face_id, &name("Bob")).await;
    assert!(matches!(moved, Err(GalleryError::SubjectQuota { most: 1 })));
    assert_eq!(db.galleries.face(again.face_id).await.unwrap().subject_id, first.subject_id);
    // Who goes makes room.
    db.erase_subject("default", "Ada").await.unwrap();
    db.enroll("default", "Bob", &axis(1)).await;
    assert_eq!(db.rows("subjects").await, 1);
}

#[tokio::test]
async fn a_number_that_no_gallery_reaches_is_one_as_well() {
    let db = Fixture::new().await;
    let change = GalleryChange { max_subjects: Some(Some(u64::MAX)), ..GalleryChange::default() };
    db.galleries.update_gallery("default", &change, &Expected::Any).await.unwrap();
    db.enroll("default", "Ada", &axis(0)).await;
    assert_eq!(import(&db, &["Bob", "Cyd"]).await.unwrap(), 2);
}
