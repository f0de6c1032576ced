//! Face samples of InsightFace Server 0.2, as docs/migrate.md has SQLite write them: `face_samples` with their persons and
//! collections (server/migrations of its repository). A crop is the box of a face resized to 112x112 pixels, which is no chip.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::super::item::{Content, Item, Refusal, derived_id};
use crate::gallery::Metadata;
use crate::types::{FaceId, Name};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sample {
    subject: String,
    #[serde(default)]
    gallery: Option<String>,
    #[serde(default)]
    face_id: Option<String>,
    /// In hexadecimal; empty where crops are not kept.
    #[serde(default)]
    crop: Option<String>,
    /// 32-bit floats, the least byte first, in hexadecimal.
    #[serde(default)]
    embedding: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    created_at: Option<String>,
}

impl Sample {
    /// The item of a line of a file; `default` is the gallery of one that names none.
    pub fn item(self, default: &Name, file: &str, number: u64) -> Item {
        let known = self.face_id.as_deref().and_then(|id| Uuid::try_parse(id).ok()).filter(|id| !id.is_nil());
        let identity = self.face_id.clone().unwrap_or_else(|| format!("{file}#{number}"));
        let subject = self.subject.clone();
        let created_at = self.created_at.as_deref().and_then(time);
        let (gallery, read) = match self.gallery.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            None => (default.clone(), self.read()),
            Some(name) => match Name::try_from(name.to_owned()) {
                Ok(gallery) => (gallery, self.read()),
                Err(error) => (default.clone(), Err(Refusal::new("invalid_gallery", error.to_string()))),
            },
        };
        let id = known.map_or_else(|| derived_id("insightface-server", &gallery, &subject, &identity), FaceId);
        let (content, metadata) = match read {
            Ok((content, metadata)) => (Ok(content), metadata),
            Err(why) => (Err(why), Metadata::default()),
        };
        Item { gallery, subject, id, identity, content, metadata, created_at }
    }

    fn read(self) -> Result<(Content, Metadata), Refusal> {
        let metadata = match self.metadata {
            None | Some(Value::Null) => Metadata::default(),
            Some(value) => {
                Metadata::try_from(value).map_err(|error| Refusal::new("invalid_metadata", error.to_string()))?
            }
        };
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let content = match (said(self.crop), said(self.embedding)) {
            (Some(crop), _) => Content::Crop(bytes(&crop, "crop", "invalid_image")?.into()),
            (None, Some(embedding)) => {
                let bytes = bytes(&embedding, "embedding", "invalid_embedding")?;
                let (floats, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(Refusal::new(
                        "invalid_embedding",
                        "the embedding has no whole number of 32-bit floats",
                    ));
                }
                Content::Embedding(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            (None, None) => {
                return Err(Refusal::new("no_image", "the face sample has neither a crop nor an embedding"));
            }
        };
        Ok((content, metadata))
    }
}

fn bytes(hex: &str, field: &str, code: &'static str) -> Result<Vec<u8>, Refusal> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<Vec<u8>>>();
    bytes.filter(|_| rest.is_empty()).ok_or_else(|| Refusal::new(code, format!("{field} is no hexadecimal text")))
}

/// With the difference to UTC, or as UTC without one; what is neither is not known.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let zoned = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).ok();
    zoned.or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok().map(|time| time.and_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> Item {
        let sample: Sample = serde_json::from_str(text).unwrap();
        sample.item(&Name::try_from("default".to_owned()).unwrap(), "faces.jsonl", 7)
    }

    #[test]
    fn a_sample_is_a_crop_or_else_an_embedding() {
        let full = item(
            r#"{"subject": "Ada", "gallery": "staff", "face_id": "6f1c9f0e-4a57-4f0e-9a53-2f9a3a0b8a11", "crop": "FFd8",
                "embedding": "0000803F", "metadata": {"badge": 7}, "created_at": "2026-07-27T10:00:00+00:00"}"#,
        );
        assert_eq!(
            (full.gallery.as_str(), full.id.to_string().as_str()),
            ("staff", "6f1c9f0e-4a57-4f0e-9a53-2f9a3a0b8a11")
        );
        assert!(matches!(full.content, Ok(Content::Crop(image)) if image.as_ref() == [0xff, 0xd8]));
        assert_eq!((full.metadata.as_object()["badge"].as_i64(), full.created_at.is_some()), (Some(7), true));
        let bare = item(r#"{"subject": "Ada", "crop": "", "embedding": "0000803F000000c0"}"#);
        assert!(matches!(bare.content, Ok(Content::Embedding(numbers)) if numbers == [1.0, -2.0]));
        assert_eq!((bare.gallery.as_str(), bare.identity.as_str()), ("default", "faces.jsonl#7"));
        for (text, expected) in [
            (r#"{"subject": "Ada"}"#, "no_image"),
            (r#"{"subject": "Ada", "crop": "f"}"#, "invalid_image"),
            (r#"{"subject": "Ada", "embedding": "xx"}"#, "invalid_embedding"),
            (r#"{"subject": "Ada", "embedding": "00"}"#, "invalid_embedding"),
            (r#"{"subject": "Ada", "crop": "ff", "metadata": [1]}"#, "invalid_metadata"),
        ] {
            assert_eq!(item(text).content.err().map(|why| why.code), Some(expected), "{text}");
        }
        assert!(serde_json::from_str::<Sample>(r#"{"subject": "Ada", "photo": "x"}"#).is_err());
    }
}
