use super::*;
use crate::db::testing::database;

#[tokio::test]
async fn weights_are_registered_once() {
    let registry = Registry::new(database().await);
    let first = registry.register("mobilefacenet", [1; 32], 512).await.unwrap();
    assert_eq!((first.state, first.dimension, first.sha256), (ModelState::Candidate, 512, [1; 32]));
    let renamed = registry.register("another name", [1; 32], 512).await.unwrap();
    assert_eq!(renamed, Model { name: "another name".to_owned(), ..first });
    let other = registry.register("mobilefacenet", [2; 32], 128).await.unwrap();
    assert_eq!(registry.list().await.unwrap(), [renamed.clone(), other]);
    let error = registry.register("mobilefacenet", [1; 32], 256).await.unwrap_err();
    assert!(matches!(error, RegistryError::OtherDimension { registered: 512, given: 256, .. }), "{error}");
    for dimension in [0, 4001, u32::MAX] {
        let error = registry.register("odd", [3; 32], dimension).await.unwrap_err();
        assert!(matches!(error, RegistryError::InvalidDimension(bad) if bad == dimension), "{error}");
    }
    assert_eq!(registry.model(renamed.id).await.unwrap().dimension, 512);
}

#[tokio::test]
async fn one_model_is_active() {
    let registry = Registry::new(database().await);
    assert!(matches!(registry.active().await, Err(RegistryError::NoActiveModel)));
    let first = registry.register("first", [1; 32], 512).await.unwrap().id;
    let second = registry.register("second", [2; 32], 512).await.unwrap().id;
    let activated = registry.activate(first).await.unwrap();
    assert_eq!(registry.activate(first).await.unwrap(), activated);
    assert!(activated.activated_at.is_some());
    registry.activate(second).await.unwrap();
    assert_eq!(registry.active().await.unwrap().id, second);
    assert_eq!(registry.model(first).await.unwrap().state, ModelState::Retired);
    // Rollback is the same call.
    registry.activate(first).await.unwrap();
    assert_eq!(registry.model(second).await.unwrap().state, ModelState::Retired);

    let unknown = ModelId::new();
    assert!(matches!(registry.activate(unknown).await, Err(RegistryError::ModelNotFound(id)) if id == unknown));
    assert_eq!(registry.active().await.unwrap().id, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn activations_at_once_leave_one_active() {
    let registry = Registry::new(database().await);
    let mut models = Vec::new();
    for n in 0..4 {
        models.push(registry.register("model", [n; 32], 512).await.unwrap().id);
    }
    let attempts = (0..20).map(|n| {
        let (registry, model) = (registry.clone(), models[n % 4]);
        tokio::spawn(async move { registry.activate(model).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        attempt.await.unwrap().unwrap();
    }
    let active = registry.list().await.unwrap().into_iter().filter(|model| model.state == ModelState::Active);
    assert_eq!(active.count(), 1);
}
