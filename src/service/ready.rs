//! Can the service serve? Each part is asked to do a little real work.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Services;
use crate::types::Chip;

/// How long a part may take before it counts as down.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of the service, part by part.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// Embeds a fixed chip.
    pub engine: PartState,
    /// Asks the database.
    pub gallery: PartState,
    /// The model that answers.
    pub model: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    Ok,
    Down,
}

impl Services {
    pub async fn readiness(&self) -> Readiness {
        let serving = self.serving();
        let embed = tokio::time::timeout(PATIENCE, self.embedding(&serving.loaded, fixed_chip()));
        let query = tokio::time::timeout(PATIENCE, self.0.galleries.ping());
        let (embed, query) = tokio::join!(embed, query);
        let engine = state(matches!(embed, Ok(Ok(_))));
        let gallery = state(matches!(query, Ok(Ok(()))));
        let ready = engine == PartState::Ok && gallery == PartState::Ok;
        Readiness { ready, engine, gallery, model: serving.name().to_owned() }
    }
}

fn state(works: bool) -> PartState {
    if works { PartState::Ok } else { PartState::Down }
}

/// A chip with some structure; any would do.
fn fixed_chip() -> Chip {
    let image = image::RgbImage::from_fn(Chip::SIDE, Chip::SIDE, |x, y| {
        image::Rgb([(x * 2) as u8, (y * 2) as u8, (x ^ y) as u8])
    });
    Chip::try_from(image).expect("the image above has the size of a chip")
}
