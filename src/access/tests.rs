use std::time::Duration;

use chrono::TimeDelta;
use sqlx::Executor;

use super::*;
use crate::db::PageRequest;
use crate::db::testing::database;
use crate::gallery::Galleries;
use crate::limits::Limits;
use crate::types::{Name, ShownKey};

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}

fn plain(name: &Name) -> NewKey<'_> {
    NewKey { name, role: Role::Read, galleries: None, expires_at: None, limits: Limits::default() }
}

/// Which key a shown one is, if it is any.
async fn whose(keys: &Keys, shown: &ShownKey) -> Option<String> {
    let hash = keys.hash(shown);
    let known = keys.known().await.unwrap().keys.into_iter();
    let mut own = known.filter(|key| key.is_ours && !key.is_revoked);
    own.find(|key| key.hash == hash || key.former.is_some_and(|(former, _)| former == hash)).map(|key| key.name)
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked() {
    let pools = database().await;
    let keys = Keys::open(&pools, None).await.unwrap();
    assert!(!keys.known().await.unwrap().any);
    let gate = name("gate");
    let (made, first) = keys.create(&plain(&gate)).await.unwrap();
    assert_eq!((made.name.as_str(), made.prefix.as_str(), made.uses), ("gate", first.prefix().as_str(), 0));
    assert_eq!(whose(&keys, &first).await.as_deref(), Some("gate"));
    assert_eq!(whose(&keys, &ShownKey::new()).await, None);
    assert!(matches!(keys.create(&plain(&gate)).await, Err(AccessError::DuplicateKey(_))));

    let (rotated, second) = keys.rotate(made.id, Duration::from_secs(60)).await.unwrap();
    assert_eq!((rotated.id, rotated.prefix.as_str()), (made.id, second.prefix().as_str()));
    assert!(rotated.former_until.unwrap() > Utc::now() + TimeDelta::seconds(50));
    for shown in [&first, &second] {
        assert_eq!(whose(&keys, shown).await.as_deref(), Some("gate"));
    }
    let (_, third) = keys.rotate(made.id, Duration::ZERO).await.unwrap();
    assert_eq!(whose(&keys, &third).await.as_deref(), Some("gate"));
    for shown in [&first, &second] {
        assert_eq!(whose(&keys, shown).await, None);
    }

    let revoked = keys.revoke(made.id).await.unwrap();
    assert_eq!(keys.revoke(made.id).await.unwrap(), revoked);
    assert_eq!(whose(&keys, &third).await, None);
    assert!(matches!(keys.rotate(made.id, Duration::ZERO).await, Err(AccessError::KeyRevoked(_))));
    // Its name is free, and does not lead to it any more.
    assert!(matches!(keys.find(None, "gate").await, Err(AccessError::KeyNotFound(_))));
    assert_eq!(keys.find(None, &made.id.to_string()).await.unwrap().id, made.id);
    let (again, _) = keys.create(&plain(&gate)).await.unwrap();
    assert_eq!(keys.find(None, "gate").await.unwrap().id, again.id);
    assert!(matches!(keys.find(None, "a\0b").await, Err(AccessError::KeyNotFound(_))));
    // Of one that was revoked long ago only that it was there is known.
    pools.requests.execute("update keys set revoked_at = now() - interval '31 days'").await.unwrap();
    let known = keys.known().await.unwrap();
    assert!(known.any && known.keys.is_empty());
}

#[tokio::test]
async fn a_key_of_a_value_that_its_holder_has_is_taken_over_once() {
    let pools = database().await;
    let keys = Keys::open(&pools, None).await.unwrap();
    let (theirs, doors, other) = (ShownKey::new(), name("doors"), name("other"));
    let taken = keys.take_over(&plain(&doors), &theirs).await.unwrap().unwrap();
    assert_eq!((taken.name.as_str(), taken.prefix), ("doors", theirs.prefix()));
    assert_eq!(whose(&keys, &theirs).await.as_deref(), Some("doors"));
    assert_eq!(keys.take_over(&plain(&other), &theirs).await.unwrap(), None);
    assert!(matches!(keys.take_over(&plain(&doors), &ShownKey::new()).await, Err(AccessError::DuplicateKey(_))));
    // One that was rotated or revoked here does not come back.
    keys.rotate(taken.id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(keys.take_over(&plain(&other), &theirs).await.unwrap(), None);
    let (made, shown) = keys.create(&plain(&other)).await.unwrap();
    keys.revoke(made.id).await.unwrap();
    assert_eq!(keys.take_over(&plain(&name("third")), &shown).await.unwrap(), None);
}

#[tokio::test]
async fn keys_for_galleries_are_seen_by_those_who_have_all_of_them() {
    let pools = database().await;
    let (keys, galleries) = (Keys::open(&pools, None).await.unwrap(), Galleries::new(&pools));
    let mut ids = Vec::new();
    for gallery in ["a", "b", "c"] {
        ids.push(galleries.create_gallery(&name(gallery)).await.unwrap().id);
    }
    let (one, two, every) = (name("one"), name("two"), name("every"));
    let of_one = keys.create(&NewKey { galleries: Some(&ids[..1]), ..plain(&one) }).await.unwrap().0;
    keys.create(&NewKey { galleries: Some(&[ids[0], ids[1], ids[0]]), ..plain(&two) }).await.unwrap();
    keys.create(&plain(&every)).await.unwrap();
    assert_eq!(of_one.scope(), Scope::Galleries([ids[0]].into()));
    assert_eq!(of_one.galleries, Some(vec![(ids[0], "a".to_owned())]));

    let listed = async |within: Option<&[GalleryId]>| {
        let page = keys.list(within, PageRequest::default()).await.unwrap();
        page.items.into_iter().map(|key| key.name).collect::<Vec<_>>()
    };
    assert_eq!(listed(None).await, ["one", "two", "every"]);
    assert_eq!(listed(Some(&ids[..1])).await, ["one"]);
    assert_eq!(listed(Some(&ids[..2])).await, ["one", "two"]);
    assert_eq!(listed(Some(&ids[2..])).await, [""; 0]);
    assert_eq!(listed(Some(&[])).await, [""; 0]);
    assert!(keys.find(Some(&ids[1..]), "two").await.is_err());
    assert_eq!(keys.find(Some(&ids), "two").await.unwrap().name, "two");
    let first = keys.list(None, PageRequest::new(Some(2), None).unwrap()).await.unwrap();
    let rest = PageRequest::new(Some(2), first.next_cursor.as_deref()).unwrap();
    assert_eq!(keys.list(None, rest).await.unwrap().items[0].name, "every");

    // A key never outgrows what its galleries were, and one without any is nobody's but the owner's.
    pools.requests.execute("delete from galleries where name = 'a'").await.unwrap();
    let scope = |name: &str, known: &KnownKeys| known.keys.iter().find(|key| key.name == name).unwrap().scope.clone();
    let known = keys.known().await.unwrap();
    assert_eq!(scope("one", &known), Scope::Galleries([].into()));
    assert_eq!(scope("two", &known), Scope::Galleries([ids[1]].into()));
    assert_eq!(scope("every", &known), Scope::All);
    assert_eq!(listed(Some(&ids[1..])).await, ["two"]);
    assert!(matches!(
        keys.create(&NewKey { galleries: Some(&ids[..1]), ..plain(&name("late")) }).await,
        Err(AccessError::GalleryGone)
    ));
}

#[tokio::test]
async fn keys_of_another_secret_are_of_no_use_and_none_is_made_beside_them() {
    let pools = database().await;
    let secret = "a secret of thirty-two characters";
    let (own, other) = (Keys::open(&pools, None).await.unwrap(), Keys::open(&pools, Some(secret)).await.unwrap());
    let (gate, door) = (name("gate"), name("door"));
    let (made, shown) = other.create(&plain(&gate)).await.unwrap();
    assert_eq!(whose(&Keys::open(&pools, Some(secret)).await.unwrap(), &shown).await.as_deref(), Some("gate"));
    assert_eq!(whose(&own, &shown).await, None);
    other.check_secret().await.unwrap();
    let refused = own.check_secret().await.unwrap_err().to_string();
    assert!(
        refused.contains("gate") && refused.contains("FACEID_KEY_SECRET") && !refused.contains(secret),
        "{refused}"
    );
    assert!(matches!(own.create(&plain(&door)).await, Err(AccessError::OtherSecret { .. })));
    assert!(matches!(own.rotate(made.id, Duration::ZERO).await, Err(AccessError::OtherSecret { .. })));
    // They can be taken back; then nothing is in the way any more.
    own.revoke(made.id).await.unwrap();
    own.check_secret().await.unwrap();
    let expired = NewKey { expires_at: Some(Utc::now() - TimeDelta::seconds(1)), ..plain(&gate) };
    other.create(&expired).await.unwrap();
    own.create(&plain(&door)).await.unwrap();
    assert!(other.check_secret().await.is_err());
}

#[tokio::test]
async fn uses_are_added_up_and_only_changes_are_announced() {
    let pools = database().await;
    let keys = Keys::open(&pools, None).await.unwrap();
    let (gate, door) = (name("gate"), name("door"));
    let mut heard = keys.subscribe();
    let listening = tokio::spawn({
        let pools = pools.clone();
        async move { pools.listen().await }
    });
    // It begins to hear.
    heard.changed().await.unwrap();
    let (made, _) = keys.create(&plain(&gate)).await.unwrap();
    heard.changed().await.unwrap();
    let (other, _) = keys.create(&plain(&door)).await.unwrap();
    heard.changed().await.unwrap();
    let last = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    let noted = Uses { uses: 3, last };
    let before = Uses { uses: 4, last: last - TimeDelta::seconds(9) };
    keys.note_uses(&[(other.id, noted), (made.id, noted), (KeyId::new(), noted)]).await.unwrap();
    keys.note_uses(&[(made.id, before)]).await.unwrap();
    let found = keys.find(None, "gate").await.unwrap();
    assert_eq!((found.uses, found.last_used_at), (7, Some(last)));
    assert_eq!(keys.find(None, "door").await.unwrap().uses, 3);
    // What is announced later is heard later: nothing was before the revocation.
    assert!(!heard.has_changed().unwrap());
    keys.revoke(made.id).await.unwrap();
    heard.changed().await.unwrap();
    listening.abort();
}
