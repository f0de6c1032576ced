//! Lists: filters, pages, scopes.

use super::*;

#[tokio::test]
async fn filters_leave_out_what_is_not_asked_for() {
    let db = Fixture::new().await;
    let (one, other, ada, model, key) =
        (GalleryId::new(), GalleryId::new(), SubjectId::new(), ModelId::new(), KeyId::new());
    let gate = Actor { name: "gate".into(), key: Some(key), request: Some("a request".into()) };
    let entries = [
        Entry::new(&gate, Action::Identify).galleries([one]).subjects([ada]).model(Some(model)).outcome("known"),
        Entry::new(&gate, Action::IdentifyBatch).galleries([one, other]),
        Entry::new(&"command".into(), Action::SubjectErase).galleries([other]).subjects([ada, SubjectId::new()]),
        Entry::new(&"server".into(), Action::ModelActivate).model(Some(model)),
    ];
    for entry in &entries {
        db.append(entry).await;
    }
    let all = db.all(&Filter::default()).await;
    let times: Vec<_> = all.iter().rev().map(|entry| entry.record.at).collect();
    let any = Filter::default;
    for (filter, expected) in [
        (any(), vec![0, 1, 2, 3]),
        (Filter { actor: Some("gate".to_owned()), ..any() }, vec![0, 1]),
        (Filter { actor: Some(key.to_string()), ..any() }, vec![0, 1]),
        (Filter { actor: Some("gat".to_owned()), ..any() }, vec![]),
        (Filter { action: Some("identify".to_owned()), ..any() }, vec![0, 1]),
        (Filter { action: Some("identify.batch".to_owned()), ..any() }, vec![1]),
        (Filter { action: Some("subject".to_owned()), ..any() }, vec![2]),
        (Filter { action: Some("subj".to_owned()), ..any() }, vec![]),
        (Filter { gallery: Some(one), ..any() }, vec![0, 1]),
        (Filter { gallery: Some(other), ..any() }, vec![1, 2]),
        (Filter { subject: Some(ada), ..any() }, vec![0, 2]),
        (Filter { model: Some(model), ..any() }, vec![0, 3]),
        (Filter { from: Some(times[1]), to: Some(times[3]), ..any() }, vec![1, 2]),
        (Filter { gallery: Some(one), subject: Some(ada), actor: Some("gate".to_owned()), ..any() }, vec![0]),
    ] {
        let found = db.all(&filter).await;
        let actions: Vec<&str> = found.iter().rev().map(|entry| entry.record.action.as_str()).collect();
        let expected: Vec<&str> = expected.into_iter().map(|at: usize| entries[at].action().as_str()).collect();
        assert_eq!(actions, expected, "{filter:?}");
    }
    let first = &all[3].record;
    assert_eq!((first.key_id, first.request_id.as_deref()), (Some(key.0), Some("a request")));
    // Each line of an export shows that it is whole, whatever is left out.
    db.audit.seal().await.unwrap();
    let (lines, last) = db.audit.read_on(&Filter { subject: Some(ada), ..any() }, 0).await.unwrap();
    assert_eq!((lines.len(), last), (2, 4));
    assert!(lines.iter().all(|line| line.seal(line.previous.unwrap()) == line.hash));
}

#[tokio::test]
async fn pages_have_each_entry_once() {
    let db = Fixture::new().await;
    db.change(7).await;
    let (mut cursor, mut seen): (Option<String>, Vec<_>) = (None, Vec::new());
    loop {
        let request = PageRequest::new(Some(3), cursor.as_deref()).unwrap().of("audit").unwrap();
        let page = db.audit.list(&Filter::default(), request).await.unwrap();
        seen.extend(page.items.into_iter().map(|entry| entry.details["number"].as_u64().unwrap()));
        // What comes meanwhile is on no later page.
        db.change(1).await;
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, [6, 5, 4, 3, 2, 1, 0]);
}

#[tokio::test]
async fn who_sees_some_galleries_sees_what_concerns_these_alone() {
    let db = Fixture::new().await;
    let (own, also, other) = (GalleryId::new(), GalleryId::new(), GalleryId::new());
    for galleries in [vec![own], vec![own, also], vec![own, other], vec![other], vec![]] {
        db.append(&Entry::new(&"a test".into(), Action::Identify).galleries(galleries)).await;
    }
    for (scope, expected) in [(vec![own], 1), (vec![own, also], 2), (vec![own, also, other], 4), (vec![], 0)] {
        let scoped = db.audit.within(&Scope::Galleries(scope.into()));
        let page = scoped.list(&Filter::default(), PageRequest::default()).await.unwrap();
        assert_eq!(page.items.len(), expected);
        // A filter does not widen it.
        let of_others = Filter { gallery: Some(other), ..Filter::default() };
        let page = scoped.list(&of_others, PageRequest::default()).await.unwrap();
        assert_eq!(page.items.len(), if expected == 4 { 2 } else { 0 });
    }
}
