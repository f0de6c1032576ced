//! A feed against the table of templates, whatever happens between.

use std::collections::BTreeMap;

use super::*;
use crate::gallery::{Changes, Feed};
use crate::index::About;

/// What a reader of the feed holds.
#[derive(Default, PartialEq, Debug)]
struct Memory {
    templates: BTreeMap<SubjectId, (GalleryId, About, Vec<half::f16>)>,
    galleries: BTreeMap<GalleryId, String>,
}

impl Memory {
    async fn load(feed: &mut Feed) -> Self {
        let (mut galleries, mut templates) = (BTreeMap::new(), BTreeMap::new());
        let gallery = |gallery: Gallery| _ = galleries.insert(gallery.id, gallery.name);
        let template = |t: Template| {
            let row = (t.gallery, t.about.clone(), t.embedding.as_slice().to_vec());
            templates.insert(t.about.subject_id, row);
        };
        feed.load(gallery, template).await.unwrap();
        Self { templates, galleries }
    }

    fn apply(&mut self, changes: Changes) {
        changes.gone.iter().for_each(|(_, subject)| _ = self.templates.remove(subject));
        for t in changes.templates {
            let row = (t.gallery, t.about.clone(), t.embedding.as_slice().to_vec());
            self.templates.insert(t.about.subject_id, row);
        }
        for gone in changes.galleries_gone {
            self.galleries.remove(&gone);
            self.templates.retain(|_, (gallery, ..)| *gallery != gone);
        }
        self.galleries.extend(changes.galleries.into_iter().map(|gallery| (gallery.id, gallery.name)));
    }
}

#[tokio::test]
async fn a_feed_tells_of_every_kind_of_change() {
    let db = Fixture::new().await;
    db.galleries.create_gallery(&name("team")).await.unwrap();
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    assert_eq!((memory.templates.len(), memory.galleries.len()), (1, 2));
    // While other databases of the server have transactions under way, what was loaded may come once more.
    memory.apply(feed.next().await.unwrap());
    assert_eq!((memory.templates.len(), memory.galleries.len()), (1, 2));
    assert!(feed.next().await.unwrap().is_empty());

    let bob = db.enroll("team", "Bob", &axis(1)).await;
    db.enroll("default", "Ada", &axis(2)).await;
    let rename = SubjectChange { name: Some(name("Ada L.")), metadata: None };
    db.galleries.update_subject("default", "Ada", &rename).await.unwrap();
    memory.apply(feed.next().await.unwrap());
    let (_, about, _) = &memory.templates[&ada.subject_id];
    assert_eq!((&*about.name, about.faces, about.face_id), ("Ada L.", 2, None));

    db.galleries.delete_face(bob.face_id).await.unwrap();
    db.galleries.update_gallery("team", &GalleryChange { name: Some(name("crew")), policy: None }).await.unwrap();
    memory.apply(feed.next().await.unwrap());
    assert!(!memory.templates.contains_key(&bob.subject_id));
    assert!(memory.galleries.values().any(|name| name == "crew"));

    db.enroll("crew", "Eve", &axis(3)).await;
    db.erase_gallery("crew").await.unwrap();
    memory.apply(feed.next().await.unwrap());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    assert!(feed.next().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_commits_late_is_not_missed() {
    let db = Fixture::new().await;
    let ada = db.enroll("default", "Ada", &axis(0)).await;
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    // Begun before and committed after others, which have higher numbers and are seen meanwhile.
    let mut slow = db.pool.begin().await.unwrap();
    sqlx::query("update subjects set name = 'Ada L.' where id = $1")
        .bind(ada.subject_id.0)
        .execute(&mut *slow)
        .await
        .unwrap();
    for n in 1..4 {
        db.enroll("default", &format!("{n}"), &axis(n)).await;
        memory.apply(feed.next().await.unwrap());
    }
    assert_eq!(memory.templates.len(), 4);
    assert_eq!(&*memory.templates[&ada.subject_id].1.name, "Ada");
    slow.commit().await.unwrap();
    let changes = feed.next().await.unwrap();
    assert_eq!(changes.templates.len(), 1, "only what was not seen before");
    memory.apply(changes);
    assert_eq!(&*memory.templates[&ada.subject_id].1.name, "Ada L.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn templates_are_true_whoever_writes_at_once() {
    let db = std::sync::Arc::new(Fixture::new().await);
    let mut feed = db.galleries.feed(db.model);
    let mut memory = Memory::load(&mut feed).await;
    let writers = (0..4_u64).map(|writer| {
        let db = db.clone();
        tokio::spawn(async move {
            let mut random = Random(writer + 1);
            let mut faces = Vec::new();
            for n in 0..25 {
                let subject = format!("subject {}", (n + writer) % 3);
                faces.push(db.enroll("default", &subject, &random.embedding()).await.face_id);
                if n % 4 == 3 {
                    db.galleries.delete_face(faces.remove(0)).await.unwrap();
                }
                if n % 6 == 5 {
                    // Two moves that cross can block one another; one of them is refused then.
                    let _ = db.galleries.move_face(faces[0], &name("subject 0")).await;
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        memory.apply(feed.next().await.unwrap());
        writer.await.unwrap();
    }
    memory.apply(feed.next().await.unwrap());
    assert_eq!(memory, Memory::load(&mut db.galleries.feed(db.model)).await);
    let wrong: i64 = sqlx::query_scalar(
        "select count(*) from (select subject_id, count(*) as faces, l2_normalize(avg(embedding)) as mean \
         from embeddings group by subject_id) e full join templates t using (subject_id) \
         where t.faces is distinct from e.faces or (t.embedding <#> e.mean) > -0.999",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(wrong, 0);
}
