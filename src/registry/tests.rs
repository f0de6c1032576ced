use super::*;
use crate::audit::{Audit, Filter};
use crate::db::PageRequest;
use crate::db::testing::database;

fn manifest(name: &str) -> Manifest {
    Manifest::from_toml(&format!("name = \"{name}\"\nthreshold = 0.3\n")).unwrap()
}

async fn import(registry: &Registry, name: &str, n: u8) -> Result<Model, RegistryError> {
    Ok(registry.import(&new_model(&manifest(name), n), &"command".into()).await?.0)
}

fn new_model(manifest: &Manifest, n: u8) -> NewModel<'_> {
    NewModel {
        sha256: [n; 32],
        dimension: 512,
        manifest,
        format: ModelFormat::Onnx,
        bytes: 7,
        source: ModelSource::Import,
        parent: None,
    }
}

async fn promote(registry: &Registry, id: ModelId) -> Result<Model, RegistryError> {
    registry.set_secondary(id, Purpose::Promotion, &"admin key".into(), json!({})).await?;
    registry.switch(registry.hold_secondary(id).await?, id, &"admin key".into(), json!({})).await
}

#[tokio::test]
async fn weights_are_registered_once() {
    let registry = Registry::new(&database().await);
    let first = registry.register("mobilefacenet", [1; 32], 512).await.unwrap();
    assert_eq!((first.state, first.dimension, first.sha256), (ModelState::Candidate, 512, [1; 32]));
    assert_eq!(registry.register("another name", [1; 32], 512).await.unwrap(), first);
    // Its file comes later, and brings a name and more.
    let imported = import(&registry, "renamed", 1).await.unwrap();
    let expected = Model {
        name: "renamed".to_owned(),
        manifest: Some(manifest("renamed")),
        file: Some((ModelFormat::Onnx, 7)),
        source: ModelSource::Import,
        ..first
    };
    assert_eq!(imported, expected);
    let other = registry.register("mobilefacenet", [2; 32], 128).await.unwrap();
    assert_eq!(registry.list().await.unwrap(), [imported.clone(), other]);
    let error = registry.register("mobilefacenet", [1; 32], 256).await.unwrap_err();
    assert!(matches!(error, RegistryError::OtherDimension { registered: 512, given: 256, .. }), "{error}");
    for dimension in [0, 4001, u32::MAX] {
        let error = registry.register("odd", [3; 32], dimension).await.unwrap_err();
        assert!(matches!(error, RegistryError::InvalidDimension(bad) if bad == dimension), "{error}");
    }
    let error = import(&registry, "renamed", 3).await.unwrap_err();
    assert!(matches!(error, RegistryError::DuplicateModel(name) if name == "renamed"));
}

#[tokio::test]
async fn what_is_known_stays_as_it_is() {
    let pools = database().await;
    let (registry, audit) = (Registry::new(&pools), Audit::new(&pools, true));
    let known = import(&registry, "known", 1).await.unwrap();
    registry.activate_first(known.id, &"server".into()).await.unwrap();
    let active = registry.active().await.unwrap();
    let figures = Manifest::from_toml("name = \"known\"\nthreshold = 0.3\nlicence = \"MIT\"\n").unwrap();
    registry.calibrate(known.id, &figures, &"server".into(), json!({})).await.unwrap();
    // What is not said is not denied.
    let (again, is_new) = registry.import(&new_model(&manifest("known"), 1), &"command".into()).await.unwrap();
    assert!(!is_new);
    assert_eq!(again, Model { manifest: Some(figures), ..active });
    let entries = audit.list(&Filter::default(), PageRequest::default()).await.unwrap().items;
    assert_eq!(entries.iter().filter(|entry| entry.record.action == "model.import").count(), 1);
    for (text, difference) in [
        ("name = \"new\"\nthreshold = 0.3", "its name is \"known\", not \"new\""),
        ("name = \"known\"\nthreshold = 0.35", "its threshold is 0.3, not 0.35"),
        ("name = \"known\"\nthreshold = 0.3\nmean = 0", "its mean is 127.5, not 0.0"),
        ("name = \"known\"\nthreshold = 0.3\nscale = 1", "its scale is 127.5, not 1.0"),
        ("name = \"known\"\nthreshold = 0.3\nchannels = \"bgr\"", "its order of channels is \"rgb\", not \"bgr\""),
        ("name = \"known\"\nthreshold = 0.3\nlicence = \"mine\"", "its licence differs"),
    ] {
        let other = Manifest::from_toml(text).unwrap();
        let error = registry.import(&new_model(&other, 1), &"command".into()).await.unwrap_err();
        assert!(matches!(&error, RegistryError::ModelExists { name, .. } if name == "known"), "{error}");
        assert!(error.to_string().contains(difference), "{error}");
        assert_eq!(registry.active().await.unwrap(), again);
    }
}

#[tokio::test]
async fn a_model_is_found_by_id_hash_or_a_name_that_only_it_has() {
    let registry = Registry::new(&database().await);
    let model = import(&registry, "one", 0xab).await.unwrap();
    for text in [&model.id.to_string(), &"AB".repeat(32), "one"] {
        assert_eq!(registry.find(text).await.unwrap(), model);
    }
    for text in ["two", "", "\0", "abab"] {
        assert!(matches!(registry.find(text).await, Err(RegistryError::ModelNotFound(_))), "{text}");
    }
    registry.register("twins", [1; 32], 8).await.unwrap();
    registry.register("twins", [2; 32], 8).await.unwrap();
    assert!(matches!(registry.find("twins").await, Err(RegistryError::AmbiguousModel(_))));
    assert_eq!(registry.find(&"02".repeat(32)).await.unwrap().sha256, [2; 32]);
}

#[tokio::test]
async fn one_model_is_active_and_the_former_is_what_a_rollback_takes() {
    let pools = database().await;
    let (registry, audit) = (Registry::new(&pools), Audit::new(&pools, true));
    assert!(matches!(registry.active().await, Err(RegistryError::NoActiveModel)));
    assert!(matches!(registry.rollback_model().await, Err(RegistryError::NoFormerModel)));
    let [a, b, c] = [1, 2, 3].map(|n| (n, format!("model {n}")));
    let a = import(&registry, &a.1, a.0).await.unwrap().id;
    let b = import(&registry, &b.1, b.0).await.unwrap().id;
    let c = import(&registry, &c.1, c.0).await.unwrap().id;
    assert!(registry.activate_first(a, &"server".into()).await.unwrap().unwrap().activated_at.is_some());
    assert_eq!(registry.activate_first(b, &"server".into()).await.unwrap(), None);

    assert!(matches!(registry.hold_secondary(b).await, Err(RegistryError::NotSecondary)));
    promote(&registry, b).await.unwrap();
    promote(&registry, c).await.unwrap();
    let lineup = registry.lineup().await.unwrap();
    assert_eq!((lineup.active.id, lineup.secondary), (c, None));
    for expected in [b, c, b] {
        let rollback = registry.rollback_model().await.unwrap().id;
        assert_eq!(rollback, expected);
        promote(&registry, rollback).await.unwrap();
    }
    let actions = audit.list(&Filter::default(), PageRequest::default()).await.unwrap().items;
    let activations: Vec<_> = actions.iter().filter(|entry| entry.record.action == "model.activate").collect();
    assert_eq!(activations.len(), 6);
    assert_eq!((activations[0].record.actor.as_str(), activations[0].model.as_deref()), ("admin key", Some("model 2")));
    assert_eq!(activations[0].details["former"], c.to_string());
    let three = |cursor: Option<&str>| PageRequest::new(Some(3), cursor).unwrap();
    let first = audit.list(&Filter::default(), three(None)).await.unwrap();
    let second = audit.list(&Filter::default(), three(first.next_cursor.as_deref())).await.unwrap();
    assert_eq!([first.items, second.items].concat(), actions[..6]);
}

async fn retire(registry: &Registry, model: ModelId, even_rollback: bool) -> Result<(), RegistryError> {
    let mut transaction = registry.pool.begin().await?;
    registry.retire(&mut transaction, model, even_rollback, &"command".into()).await?;
    Ok(transaction.commit().await?)
}

#[tokio::test]
async fn only_what_nobody_uses_is_retired() {
    let registry = Registry::new(&database().await);
    let a = import(&registry, "a", 1).await.unwrap().id;
    let b = import(&registry, "b", 2).await.unwrap().id;
    registry.activate_first(a, &"server".into()).await.unwrap();
    registry.set_secondary(b, Purpose::Promotion, &"server".into(), json!({})).await.unwrap();
    for id in [a, b] {
        let error = retire(&registry, id, true).await.unwrap_err();
        assert!(matches!(error, RegistryError::ModelInUse { .. }), "{error}");
    }
    registry.switch(registry.hold_secondary(b).await.unwrap(), b, &"server".into(), json!({})).await.unwrap();
    assert!(matches!(retire(&registry, a, false).await, Err(RegistryError::ModelInUse { .. })));
    retire(&registry, a, true).await.unwrap();
    let retired = registry.model(a).await.unwrap();
    assert_eq!((retired.state, retired.file), (ModelState::Retired, None));
    assert!(matches!(
        registry.set_secondary(a, Purpose::Promotion, &"server".into(), json!({})).await,
        Err(RegistryError::ModelNotFound(_))
    ));
    // Brought again, it begins again.
    assert_eq!(import(&registry, "a", 1).await.unwrap().state, ModelState::Candidate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promotions_at_once_leave_one_active() {
    let registry = Registry::new(&database().await);
    let mut models = Vec::new();
    for n in 0..4 {
        models.push(import(&registry, &format!("model {n}"), n).await.unwrap().id);
    }
    registry.activate_first(models[0], &"server".into()).await.unwrap();
    let attempts = (0..20).map(|n| {
        let (registry, model) = (registry.clone(), models[n % 4]);
        tokio::spawn(async move { promote(&registry, model).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        let outcome = attempt.await.unwrap();
        assert!(matches!(outcome, Ok(_) | Err(RegistryError::NotSecondary)), "{outcome:?}");
    }
    let active = registry.list().await.unwrap().into_iter().filter(|model| model.state == ModelState::Active);
    assert_eq!(active.count(), 1);
}
