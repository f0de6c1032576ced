//! The keys of CompreFace's services, which go on working.

use serde::Serialize;

use super::MigrationError;
use super::compreface::{Service, ServiceKind};
use crate::access::{AccessError, Keys, NewKey};
use crate::gallery::{Galleries, GalleryError};
use crate::limits::Limits;
use crate::types::{GalleryId, Name, Role, ShownKey};

/// What became of the key of a service.
#[derive(Debug, Clone, Serialize)]
pub struct TakenKey {
    /// Of the service, with its application.
    pub service: String,
    /// How the key is called here, if it can be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it begins.
    pub prefix: String,
    pub gallery: String,
    pub role: Role,
    pub outcome: KeyOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOutcome {
    TakenOver,
    /// There is, or was, a key of this value.
    AlreadyThere,
    /// Another key has its name, as one that was rotated.
    NameTaken,
    /// It is one that CompreFace brings with it, so that everybody knows it.
    KnownToAll,
    /// No key here can have this value: it is no UUID.
    NoKey,
}

/// Takes over the key of each service, for its gallery alone. A service without faces of its own gets an empty one.
pub async fn take_keys(
    keys: &Keys,
    galleries: &Galleries,
    services: &[Service],
) -> Result<Vec<TakenKey>, MigrationError> {
    let mut all = Vec::with_capacity(services.len());
    for service in services {
        all.push(take_key(keys, galleries, service).await?);
    }
    Ok(all)
}

async fn take_key(keys: &Keys, galleries: &Galleries, service: &Service) -> Result<TakenKey, MigrationError> {
    let role = match service.kind {
        ServiceKind::Recognition => Role::Enrol,
        ServiceKind::Detection | ServiceKind::Verification => Role::Identify,
    };
    let key = service.api_key.expose();
    let mut taken = TakenKey {
        service: service.full_name(),
        name: None,
        prefix: key.chars().take(ShownKey::PREFIX).collect(),
        gallery: service.gallery.to_string(),
        role,
        outcome: KeyOutcome::NoKey,
    };
    let Some(shown) = ShownKey::read(key.as_bytes()) else { return Ok(taken) };
    if is_known_to_all(&shown) {
        taken.outcome = KeyOutcome::KnownToAll;
        return Ok(taken);
    }
    let galleries = [gallery_id(galleries, &service.gallery).await?];
    let name = Name::try_from(format!("CompreFace {}", taken.service));
    let name = name.map_err(|error| MigrationError::Choice(error.to_string()))?;
    let new = NewKey { name: &name, role, galleries: Some(&galleries), expires_at: None, limits: Limits::default() };
    taken.outcome = match keys.take_over(&new, &shown).await {
        Ok(Some(_)) => KeyOutcome::TakenOver,
        Ok(None) => KeyOutcome::AlreadyThere,
        // Perhaps it was rotated here, and the former value is not to come back.
        Err(AccessError::DuplicateKey(_)) => KeyOutcome::NameTaken,
        Err(error) => return Err(error.into()),
    };
    taken.name = Some(name.to_string());
    Ok(taken)
}

/// Those of the services that CompreFace is installed with count up from nothing.
fn is_known_to_all(key: &ShownKey) -> bool {
    key.as_bytes()[..15].iter().all(|byte| *byte == 0)
}

/// Finds a gallery, or creates it.
async fn gallery_id(galleries: &Galleries, name: &Name) -> Result<GalleryId, GalleryError> {
    match galleries.find_gallery(name.as_str()).await {
        Err(GalleryError::GalleryNotFound(_)) => {}
        found => return found.map(|gallery| gallery.id),
    }
    match galleries.create_gallery(name).await {
        // Somebody was faster.
        Err(GalleryError::DuplicateGallery(_)) => galleries.find_gallery(name.as_str()).await.map(|gallery| gallery.id),
        created => created.map(|gallery| gallery.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_an_installation_are_known_to_all() {
        for (key, expected) in [
            ("00000000-0000-0000-0000-000000000002", true),
            ("00000000-0000-0000-0000-000000000004", true),
            ("10000000-0000-0000-0000-000000000002", false),
            ("b8cf2a05-3b0f-4fd2-9b8b-d4f0e30a7a6a", false),
        ] {
            assert_eq!(is_known_to_all(&ShownKey::read(key.as_bytes()).unwrap()), expected, "{key}");
        }
    }
}
