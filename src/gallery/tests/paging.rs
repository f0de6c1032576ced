use std::collections::HashSet;

use super::*;
use crate::db::{PageError, PageRequest};

#[test]
fn limits_and_cursors_are_checked() {
    assert!(PageRequest::new(None, None).is_ok());
    assert!(PageRequest::new(Some(200), None).is_ok());
    for limit in [0, 201, u32::MAX] {
        assert!(matches!(PageRequest::new(Some(limit), None), Err(PageError::InvalidLimit(bad)) if bad == limit));
    }
    for cursor in ["", "!", "AAAA", "é", "AAAAAAAAAAAAAAAAAAAAAA==", &"A".repeat(10_000)] {
        assert!(matches!(PageRequest::new(None, Some(cursor)), Err(PageError::InvalidCursor)), "{cursor}");
    }
}

/// All subjects' names, a page at a time; `between` runs after each page.
async fn names_by_page(db: &Fixture, limit: u32, mut between: impl AsyncFnMut(usize)) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let request = PageRequest::new(Some(limit), cursor.as_deref()).unwrap();
        let page = db.galleries.list_subjects("default", &SubjectFilter::default(), request).await.unwrap();
        pages.push(page.items.into_iter().map(|subject| subject.name).collect());
        between(pages.len()).await;
        cursor = page.next_cursor;
        if cursor.is_none() {
            return pages;
        }
    }
}

async fn create_subject(db: &Fixture, text: &str) {
    db.galleries.create_subject("default", &name(text), &Metadata::default()).await.unwrap();
}

#[tokio::test]
async fn pages_hold_every_row_once_in_order() {
    let db = Fixture::new().await;
    assert_eq!(names_by_page(&db, 5, async |_| ()).await, [Vec::<String>::new()]);
    let names: Vec<String> = (0..10).map(|n| format!("subject {n}")).collect();
    for name in &names {
        create_subject(&db, name).await;
    }
    // Full pages to the end give no empty page after them.
    for (limit, pages) in [(5, 2), (10, 1), (200, 1), (3, 4), (1, 10)] {
        let found = names_by_page(&db, limit, async |_| ()).await;
        assert_eq!(found.len(), pages);
        assert_eq!(found.concat(), names);
    }
}

#[tokio::test]
async fn changes_between_pages_shift_nothing() {
    let db = Fixture::new().await;
    for n in 0..12 {
        create_subject(&db, &format!("old {n}")).await;
    }
    let found = names_by_page(&db, 3, async |pages| {
        // Deletes a row already seen, once the very row that the cursor names, and one not yet seen; adds one.
        if pages <= 2 {
            for n in [pages * 3 - 1, 12 - pages] {
                db.erase_subject("default", &format!("old {n}")).await.unwrap();
            }
            create_subject(&db, &format!("new {pages}")).await;
        }
    })
    .await
    .concat();
    let distinct: HashSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "seen twice: {found:?}");
    for n in (0..12).filter(|n| ![11, 10].contains(n)) {
        assert!(found.contains(&format!("old {n}")), "missed old {n}: {found:?}");
    }
}

#[tokio::test]
async fn galleries_and_faces_are_paged_too() {
    let db = Fixture::new().await;
    for n in 0..4 {
        db.galleries.create_gallery(&name(&format!("gallery {n}"))).await.unwrap();
        db.enroll("gallery 0", "Ada", &axis(n)).await;
        db.enroll("gallery 0", "Bob", &axis(n)).await;
        db.enroll("default", "Ada", &axis(n)).await;
    }
    let three = |cursor: Option<String>| PageRequest::new(Some(3), cursor.as_deref()).unwrap();

    let first = db.galleries.list_galleries(three(None)).await.unwrap();
    let second = db.galleries.list_galleries(three(first.next_cursor)).await.unwrap();
    assert_eq!(second.next_cursor, None);
    let names: Vec<String> = first.items.into_iter().chain(second.items).map(|gallery| gallery.name).collect();
    assert_eq!(names, ["default", "gallery 0", "gallery 1", "gallery 2", "gallery 3"]);

    let all = db.galleries.list_faces("gallery 0", PageRequest::default()).await.unwrap();
    assert_eq!((all.items.len(), all.next_cursor), (8, None));
    let first = db.galleries.list_faces_of("gallery 0", "Ada", three(None)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    let second = db.galleries.list_faces_of("gallery 0", "Ada", three(first.next_cursor)).await.unwrap();
    assert_eq!((second.items.len(), second.next_cursor), (1, None));
    assert!(first.items.iter().chain(&second.items).all(|face| face.subject == "Ada" && face.gallery == "gallery 0"));
}
