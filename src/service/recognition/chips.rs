//! Chips that answers show.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{PhotoFace, Recognition};
use crate::engine::Step;
use crate::service::ServiceError;
use crate::service::requests::Extra;
use crate::types::Chip;
use crate::vision::{self, ChipError};

impl Recognition {
    /// For each face its chip as a JPEG in base64, if that is asked for.
    pub(super) async fn shown_chips(
        &self,
        faces: &[PhotoFace],
        returned: &[Extra],
    ) -> Result<Vec<Option<String>>, ServiceError> {
        if !returned.contains(&Extra::Chip) {
            return Ok(vec![None; faces.len()]);
        }
        let chips: Vec<Chip> = faces.iter().map(|face| face.chip.clone()).collect();
        let shown = |chip: &Chip| Ok(Some(STANDARD.encode(vision::encode_chip(chip)?)));
        let encoding = move || chips.iter().map(shown).collect::<Result<Vec<_>, ChipError>>();
        let shown = self.parts.engine.on_cpu(Step::Chips, encoding).await?;
        shown.map_err(|error| ServiceError::Internal(error.to_string()))
    }
}
