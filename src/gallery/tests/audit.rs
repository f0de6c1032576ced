//! Each method that changes galleries notes it, as part of the change, and names nobody.

use serde_json::Value;

use super::*;
use crate::audit::{Audit, Filter};
use crate::db::PageRequest;
use crate::types::{Caller, KeyId, Role, Scope};

/// In names and metadata of all that the test makes.
const SECRET: &str = "Quetzalcoatl";

struct Noted {
    db: Fixture,
    pools: Pools,
    audit: Audit,
    caller: Caller,
}

impl Noted {
    async fn new() -> Self {
        let pools = database().await;
        let db = Fixture::on(pools.clone()).await;
        let caller = Caller::with_key(KeyId::new(), "gate", Role::Owner, Scope::All).by_request("a request");
        let galleries = db.galleries.for_caller(&caller);
        Self { audit: Audit::new(&pools, true), db: Fixture { galleries, ..db }, pools, caller }
    }

    /// What was noted since the last time, oldest first.
    async fn new_entries(&self, seen: &mut usize) -> Vec<crate::audit::Listed> {
        let all = PageRequest::new(Some(200), None).unwrap();
        let mut entries = self.audit.list(&Filter::default(), all).await.unwrap().items;
        entries.reverse();
        let new = entries.split_off(*seen);
        *seen += new.len();
        new
    }
}

/// A batch of an import.
async fn import(galleries: &Galleries, gallery: &str, subject: &str) {
    let metadata = Metadata::default();
    let record = Record {
        subject: SubjectRecord { id: None, name: name(subject), metadata, created_at: None, expires_at: None },
        face: None,
    };
    galleries.intake(name(gallery), None, None, Ids::New).store(vec![record]).await.unwrap();
}

#[tokio::test]
async fn every_change_is_noted_with_it_and_names_nobody() {
    let it = Noted::new().await;
    let (db, galleries, any) = (&it.db, &it.db.galleries, &Expected::Any);
    let metadata: Metadata = serde_json::from_value(serde_json::json!({"badge": SECRET})).unwrap();
    let subject = |who: &str| format!("{who} {SECRET}");
    let [ada, bob, cyd] = ["Ada", "Bob", "Cyd"].map(subject);
    let mut seen = 0;
    it.new_entries(&mut seen).await;
    let mut all: Vec<Value> = Vec::new();
    macro_rules! noted {
        ($actions:expr, $change:expr) => {{
            let done = $change;
            let entries = it.new_entries(&mut seen).await;
            let actions: Vec<&str> = entries.iter().map(|entry| entry.record.action.as_str()).collect();
            assert_eq!(actions, $actions, "{}", stringify!($change));
            for entry in &entries {
                assert_eq!(
                    (entry.record.actor.as_str(), entry.record.key_id),
                    ("gate", it.caller.key().map(|key| key.0))
                );
                assert_eq!(entry.record.request_id.as_deref(), it.caller.actor().request.as_deref());
                assert_eq!(entry.record.galleries.len(), 1, "{entry:?}");
                all.push(serde_json::to_value(&entry.record).unwrap());
            }
            done
        }};
    }
    let gallery_name = format!("staff {SECRET}");
    let gallery =
        noted!(["gallery.create"], galleries.create_gallery(&name(&gallery_name)).await.unwrap()).id.to_string();
    let change = GalleryChange {
        name: Some(name(&subject("gallery"))),
        policy: Some(Some(Policy::Threshold(0.5))),
        max_subjects: None,
        retention: None,
    };
    noted!(["gallery.change"], galleries.update_gallery(&gallery, &change, any).await.unwrap());
    let first = noted!(["face.enroll"], db.enroll(&gallery, &ada, &axis(0)).await);
    let second = noted!(["face.enroll"], db.enroll(&gallery, &bob, &axis(1)).await);
    noted!(["subject.create"], galleries.create_subject(&gallery, &name(&cyd), &metadata).await.unwrap());
    let renamed =
        SubjectChange { name: Some(name(&subject("Eve"))), metadata: Some(metadata.clone()), expires_at: None };
    noted!(["subject.change"], galleries.update_subject(&gallery, &ada, &renamed, any).await.unwrap());
    noted!(["face.move"], galleries.move_face(first.face_id, &name(&cyd)).await.unwrap());
    noted!(["face.erase"], galleries.delete_face(second.face_id).await.unwrap());
    let third = noted!(["face.enroll"], db.enroll(&gallery, &bob, &axis(1)).await);
    noted!(["face.erase"], galleries.delete_faces(&[third.face_id, FaceId::new()]).await.unwrap());
    noted!(["subject.merge"], galleries.merge_small_subject(&gallery, &bob, &cyd, any).await.unwrap());
    noted!(["subject.erase"], db.erase_subject(&gallery, &bob).await.unwrap());
    noted!(["faces.import"], import(galleries, &gallery, &subject("Fay")).await);
    noted!(["gallery.create", "faces.import"], import(galleries, "imported", &subject("Fay")).await);
    let many = galleries.find_subjects(first.gallery_id, &[name(&subject("Fay"))]).await.unwrap();
    noted!(["subject.erase"], {
        let mut transaction = galleries.begin().await.unwrap();
        let ids: Vec<_> = many.into_iter().flatten().collect();
        galleries.hide_subjects(&mut transaction, first.gallery_id, Many::These(&ids)).await.unwrap();
        transaction.commit().await.unwrap();
    });
    noted!(["gallery.export"], galleries.note_export(first.gallery_id, None).await.unwrap());
    noted!(["subject.export"], galleries.note_export(first.gallery_id, Some(first.subject_id)).await.unwrap());
    noted!(["subject.erase"], {
        let mut transaction = galleries.begin().await.unwrap();
        galleries.hide_subject(&mut transaction, &gallery, &subject("Eve"), any).await.unwrap();
        transaction.commit().await.unwrap();
    });
    noted!(["gallery.erase"], db.erase_gallery(&gallery).await.unwrap());
    noted!(["gallery.erase"], {
        let mut transaction = galleries.begin().await.unwrap();
        galleries.hide_gallery(&mut transaction, "imported", any).await.unwrap();
        transaction.commit().await.unwrap();
    });
    // What the job does is noted when it ends, by the job.
    let nothing: [&str; 0] = [];
    let hidden = db.galleries.list_galleries(PageRequest::default()).await.unwrap().items;
    assert_eq!(hidden.len(), 1, "the default gallery");
    noted!(nothing, galleries.erase_subject_piece(first.gallery_id, first.subject_id).await.unwrap());

    let text = serde_json::to_string(&all).unwrap();
    assert!(text.contains(&first.subject_id.to_string()) && text.contains(&first.face_id.to_string()));
    assert!(!text.contains(SECRET), "{text}");
    let rows: i64 = sqlx::query_scalar("select count(*) from audit a where a::text like '%' || $1 || '%'")
        .bind(SECRET)
        .fetch_one(&it.pools.beside)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn what_does_not_come_about_is_not_noted() {
    let it = Noted::new().await;
    let mut seen = 0;
    it.new_entries(&mut seen).await;
    let subject = name("Ada");
    let (metadata, embedding) = (Metadata::default(), axis(0));
    let new = face(it.db.model, "default", &subject, &metadata, &embedding);
    let enrolment = it.db.galleries.begin_enrolment(&new).await.unwrap();
    let (_, transaction) = enrolment.finish(&new, Vec::new()).await.unwrap();
    transaction.rollback().await.unwrap();
    it.db.galleries.erase_small_gallery("nothing", &Expected::Any).await.unwrap_err();
    assert!(it.new_entries(&mut seen).await.is_empty());
    it.db.enroll("default", "Ada", &axis(0)).await;
    assert_eq!(it.new_entries(&mut seen).await.len(), 1);
}

#[tokio::test]
async fn who_is_named_by_a_face_that_is_refused_or_warned_of_is_noted() {
    let it = Noted::new().await;
    let ada = it.db.enroll("default", "Ada", &axis(0)).await;
    let mut seen = 0;
    it.new_entries(&mut seen).await;
    let refused = it.db.enroll_as(OnDoubt::Reject, "default", "Eve", &axis(0)).await;
    assert!(matches!(refused, Err(GalleryError::DuplicateFace { .. })), "{refused:?}");
    let entries = it.new_entries(&mut seen).await;
    assert_eq!(entries.len(), 1);
    let record = &entries[0].record;
    assert_eq!(
        (record.action.as_str(), record.outcome.as_deref(), record.actor.as_str()),
        ("face.enroll", Some("duplicate_face"), "gate")
    );
    assert_eq!((&record.subjects, &record.galleries), (&vec![ada.subject_id.0], &vec![ada.gallery_id.0]));
    it.db.enroll_as(OnDoubt::Warn, "default", "Eve", &axis(0)).await.unwrap();
    let warned = it.new_entries(&mut seen).await;
    assert_eq!(warned[0].details["duplicates"], serde_json::json!([ada.subject_id]));
}
