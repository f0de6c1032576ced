//! Answers of InsightFace-REST, `{"data": [{"faces": [{"vec": [..], "facedata": ".."}]}]}` (if_rest/schemas.py and
//! if_rest/core/face_model.py of its repository). With `return_face_data`, an answer has the chip of each face, aligned as ours are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use image::ImageReader;
use serde::Deserialize;

use super::super::FaceChosen;
use super::super::item::{Content, Refusal};
use crate::types::Chip;

/// What /extract answered about some images.
#[derive(Deserialize)]
pub(super) struct Answer {
    /// Of whom the answer is; where it is missing, the file says so.
    pub subject: Option<String>,
    pub data: Vec<ImageAnswer>,
}

#[derive(Deserialize)]
pub(super) struct ImageAnswer {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    faces: Option<Vec<FaceAnswer>>,
}

#[derive(Deserialize)]
struct FaceAnswer {
    #[serde(default)]
    vec: Option<Vec<f32>>,
    #[serde(default)]
    facedata: Option<String>,
    /// Left, top, right, bottom.
    #[serde(default)]
    bbox: Option<Vec<f32>>,
}

impl FaceAnswer {
    fn area(&self) -> f32 {
        match self.bbox.as_deref() {
            Some([left, top, right, bottom, ..]) => (right - left).max(0.0) * (bottom - top).max(0.0),
            _ => 0.0,
        }
    }

    fn content(self) -> Result<Content, Refusal> {
        match (self.facedata, self.vec) {
            (Some(text), _) => {
                let image = STANDARD.decode(text.as_bytes());
                let image =
                    Bytes::from(image.map_err(|error| Refusal::new("invalid_image", format!("facedata: {error}")))?);
                Ok(if is_chip(&image) { Content::Chip(image) } else { Content::Crop(image) })
            }
            (None, Some(numbers)) => Ok(Content::Embedding(numbers)),
            (None, None) => Err(Refusal::new("no_image", "the answer has neither facedata nor vec")),
        }
    }
}

/// Whether an image has the size of a chip.
fn is_chip(image: &Bytes) -> bool {
    let size = ImageReader::new(std::io::Cursor::new(image)).with_guessed_format().ok();
    let size = size.and_then(|reader| reader.into_dimensions().ok());
    size == Some((Chip::SIDE, Chip::SIDE))
}

/// The face of an image that is meant.
pub(super) fn choose(about: ImageAnswer, face: FaceChosen) -> Result<Content, Refusal> {
    let faces = about.faces.unwrap_or_default();
    if face == FaceChosen::Only && faces.len() > 1 {
        let detail = format!("the answer has {} faces; --face largest takes the largest", faces.len());
        return Err(Refusal::new("multiple_faces", detail));
    }
    let largest = faces.into_iter().max_by(|a, b| a.area().total_cmp(&b.area()));
    let no_face = || {
        let said = about.status.filter(|status| status != "ok").map(|status| format!(": {status}"));
        Refusal::new("no_face", format!("the answer has no face{}", said.unwrap_or_default()))
    };
    largest.ok_or_else(no_face)?.content()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, face: FaceChosen) -> Result<&'static str, Refusal> {
        let about: ImageAnswer = serde_json::from_str(text).unwrap();
        choose(about, face).map(|content| match content {
            Content::Chip(_) => "chip",
            Content::Crop(_) => "crop",
            Content::Embedding(_) => "embedding",
            _ => "other",
        })
    }

    #[test]
    fn a_chip_is_taken_before_numbers_and_the_largest_face_before_others() {
        let image = |side: u32| {
            let mut file = std::io::Cursor::new(Vec::new());
            image::RgbImage::new(side, side).write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
            STANDARD.encode(file.into_inner())
        };
        let (chip, crop) = (image(112), image(160));
        let faces = format!(
            r#"{{"status": "ok", "faces": [{{"bbox": [0, 0, 9, 9], "vec": [1.0]}},
                {{"bbox": [0, 0, 20, 20], "vec": [1.0], "facedata": "{chip}"}}]}}"#
        );
        assert_eq!(chosen(&faces, FaceChosen::Largest), Ok("chip"));
        assert_eq!(chosen(&faces, FaceChosen::Only).unwrap_err().code, "multiple_faces");
        assert_eq!(chosen(&format!(r#"{{"faces": [{{"facedata": "{crop}"}}]}}"#), FaceChosen::Only), Ok("crop"));
        assert_eq!(chosen(r#"{"faces": [{"vec": [1.0]}]}"#, FaceChosen::Only), Ok("embedding"));
        let code = |text: &str| chosen(text, FaceChosen::Largest).unwrap_err().code;
        assert_eq!(code(r#"{"faces": [{"facedata": "?"}]}"#), "invalid_image");
        assert_eq!(code(r#"{"faces": [{"prob": 0.9}]}"#), "no_image");
        assert!(
            chosen(r#"{"status": "failed", "faces": []}"#, FaceChosen::Largest)
                .unwrap_err()
                .detail
                .ends_with(": failed")
        );
    }
}
