//! Can a face be recognised by its embedding?

use super::answers::Usability;
use super::serving::Serving;
use super::{PhotoFace, ServiceError};
use crate::types::Embedding;
use crate::vision::Weakness;

impl Serving {
    /// What a face is worth for recognition at a threshold.
    ///
    /// By the length of its embedding, if the model is calibrated for it: no part of quality says nearly as much. Else a
    /// face without a weakness is usable.
    pub(super) fn usability(&self, face: &PhotoFace, embedding: &Embedding, threshold: f32) -> Usability {
        let usable = self.calibration().is_usable(embedding.norm()).unwrap_or(face.weaknesses.is_empty());
        let reasons = match (usable, face.weaknesses.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => vec![Weakness::Unclear],
            (false, false) => face.weaknesses.clone(),
        };
        Usability { usable, missed: self.calibration().missed(embedding.norm(), threshold), reasons }
    }
}

impl Usability {
    /// Refuses a face that cannot be recognised.
    pub(super) fn accepted(self, field: &'static str) -> Result<Self, ServiceError> {
        if self.usable { Ok(self) } else { Err(ServiceError::UnusableFace { field, reasons: self.reasons }) }
    }
}
