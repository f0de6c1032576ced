//! Requests about what is stored: galleries, subjects, faces and what the review found.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Expiry, Listed, NewExpiry, PageLimit, Rate, default_gallery};
use crate::db::{PageError, PageRequest};
use crate::gallery::{self, FindingsRequest, Metadata, Policy, Retention};
use crate::service::ServiceError;
use crate::service::answers::AnomalyKind;
use crate::types::{FaceId, Name, NamePrefix, Threshold};

/// A new gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewGallery {
    /// Unique.
    #[schema(example = "staff")]
    pub name: Name,
}

/// What to change of a gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangeGallery {
    /// The new name.
    pub name: Option<Name>,
    /// By what a face is called known: `{"fpir": 0.003}`, `{"fmr": 0.0001}`, `{"threshold": 0.4}`, or `"default"` for what the
    /// server says.
    #[schema(example = json!({"fpir": 0.003}))]
    pub policy: Option<GalleryPolicy>,
    /// How many subjects it may have, from now on; 0: any number. Only whoever may create galleries says so.
    #[schema(example = 1000)]
    pub max_subjects: Option<u64>,
    /// How long what is in it is kept, such as `{"faces_days": 90, "subjects_days": 365}` or one of the two, or `"none"`: until it is
    /// deleted. It replaces what was said before, and holds an hour after the change.
    pub retention: Option<GalleryRetention>,
}

/// A retention of a gallery, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Value", into = "Value")]
#[schema(value_type = Object, example = json!({"faces_days": 90, "subjects_days": 365}))]
pub struct GalleryRetention(Option<Retention>);

impl TryFrom<Value> for GalleryRetention {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let value = match value {
            Value::String(text) if text == "none" => return Ok(Self(None)),
            // As a form or a query string has it.
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            value => value,
        };
        if !value.is_object() {
            return Err("\"none\", or an object such as {\"faces_days\": 90}, is expected".to_owned());
        }
        let retention: Retention = serde_json::from_value(value).map_err(|error| error.to_string())?;
        retention.checked().map(|retention| Self(Some(retention))).map_err(|error| error.to_string())
    }
}

impl From<GalleryRetention> for Value {
    fn from(GalleryRetention(retention): GalleryRetention) -> Self {
        retention.map_or_else(|| json!("none"), |retention| json!(retention))
    }
}

/// A policy of a gallery's own, or none.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GalleryPolicy {
    /// From this similarity on, -1 to 1.
    Threshold(Threshold),
    /// At the false match rate of a single comparison: that two faces of different people match.
    Fmr(Rate),
    /// At the false positive identification rate: that a stranger is taken for anybody of the gallery as it is now.
    Fpir(Rate),
    /// What the server says.
    Default,
}

impl From<ChangeGallery> for gallery::GalleryChange {
    fn from(change: ChangeGallery) -> Self {
        let own = |policy| match policy {
            GalleryPolicy::Threshold(threshold) => Some(Policy::Threshold(threshold.get())),
            GalleryPolicy::Fmr(rate) => Some(Policy::Fmr(rate.get())),
            GalleryPolicy::Fpir(rate) => Some(Policy::Fpir(rate.get())),
            GalleryPolicy::Default => None,
        };
        let max_subjects = change.max_subjects.map(|most| (most > 0).then_some(most));
        let retention = change.retention.map(|GalleryRetention(retention)| retention);
        Self { name: change.name, policy: change.policy.map(own), max_subjects, retention }
    }
}

/// Which page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListRequest {
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl ListRequest {
    /// The first page.
    pub fn first(limit: u32) -> Result<Self, PageError> {
        Ok(Self { limit: PageLimit::try_from(limit)?, cursor: None })
    }

    /// The page of a list that is told from others by its name.
    pub fn page(&self, list: &str) -> Result<PageRequest, PageError> {
        PageRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of(list)
    }
}

/// Which gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InGallery {
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
}

/// Which page of a list of a gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListInGallery {
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl ListInGallery {
    /// The page of a list of the gallery that is told from others by its name.
    pub fn page(&self, list: &str) -> Result<PageRequest, PageError> {
        let list = format!("{list} of {}", self.gallery);
        PageRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of(&list)
    }
}

/// Which subjects of a gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListSubjects {
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Only those whose name begins so. A space at the end counts.
    #[schema(example = "A")]
    pub prefix: Option<NamePrefix>,
    /// Only those whose metadata holds all of this JSON object.
    pub metadata: Option<Metadata>,
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl ListSubjects {
    pub fn page(&self) -> Result<PageRequest, PageError> {
        let metadata = self.metadata.as_ref().map(Metadata::as_object);
        let prefix = self.prefix.as_ref().map(NamePrefix::as_str);
        let list = format!("subjects of {} {prefix:?} {metadata:?}", self.gallery);
        PageRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of(&list)
    }

    pub fn filter(self) -> gallery::SubjectFilter {
        gallery::SubjectFilter { prefix: self.prefix, metadata: self.metadata }
    }
}

/// GET /duplicates
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DuplicatesRequest {
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Only pairs at least this similar. Defaults to what about one pair of different people in the whole gallery is expected to
    /// reach. Pairs below the server's threshold are not kept.
    pub min_similarity: Option<Threshold>,
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl DuplicatesRequest {
    pub fn page(&self) -> Result<FindingsRequest, PageError> {
        let list = format!("duplicates of {}", self.gallery);
        FindingsRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of(&list)
    }
}

/// GET /anomalies
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AnomaliesRequest {
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Only of this kind.
    pub kind: Option<AnomalyKind>,
    /// Items per page.
    #[serde(default)]
    #[schema(default = 50)]
    pub limit: PageLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl AnomaliesRequest {
    pub fn page(&self) -> Result<FindingsRequest, PageError> {
        let list = format!("anomalies of {}", self.gallery);
        FindingsRequest::new(Some(self.limit.get()), self.cursor.as_deref())?.of(&list)
    }
}

/// A new subject, without a photo yet.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewSubject {
    /// Unique in its gallery.
    #[schema(example = "Ada")]
    pub name: Name,
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// A JSON object that is kept with the subject.
    #[serde(default)]
    #[schema(default = json!({}))]
    pub metadata: Metadata,
    /// When it expires, and is erased with all its faces. Defaults to never.
    pub expires_at: Option<Expiry>,
}

/// What to change of a subject.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangeSubject {
    /// The gallery that the subject is in: name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// The new name.
    pub name: Option<Name>,
    /// The new metadata; it replaces the old.
    pub metadata: Option<Metadata>,
    /// When it expires, and is erased with all its faces: a time to come, or `never`.
    pub expires_at: Option<NewExpiry>,
}

/// Who is merged into a subject.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MergeRequest {
    /// The gallery that both are in: name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Name or id of the subject that gives its faces and is erased.
    #[schema(example = "Ada L.")]
    pub subject: Name,
}

/// Which subjects are deleted: those of a list, or all that match.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeleteSubjects {
    /// The gallery that they are in: name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Names or ids, up to 1,000.
    #[schema(value_type = Option<Vec<Name>>, min_items = 1, max_items = 1000, example = json!(["Ada", "Bob"]))]
    pub subjects: Option<Listed<Name>>,
    /// Instead of a list: all whose name begins so. A space at the end counts.
    pub prefix: Option<NamePrefix>,
    /// Instead of a list: all whose metadata holds all of this JSON object, which has a member at least.
    pub metadata: Option<Metadata>,
}

/// Who is to be deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum Doomed {
    /// By names or ids.
    Listed(Vec<Name>),
    Matching(gallery::SubjectFilter),
}

impl DeleteSubjects {
    /// Never all of a gallery: whoever wants that deletes the gallery.
    pub fn doomed(self) -> Result<Doomed, ServiceError> {
        let Self { subjects, prefix, metadata, .. } = self;
        let invalid = |field, reason: &str| Err(ServiceError::InvalidField { field, reason: reason.to_owned() });
        match subjects {
            Some(_) if prefix.is_some() || metadata.is_some() => {
                invalid("subjects", "say whom by a list, or by `prefix` and `metadata`, not by both")
            }
            Some(Listed(names)) => Ok(Doomed::Listed(names)),
            None if metadata.as_ref().is_some_and(|metadata| metadata.as_object().is_empty()) => {
                invalid("metadata", "an empty object is everybody's; to delete them all, delete the gallery")
            }
            None if prefix.is_none() && metadata.is_none() => Err(ServiceError::MissingField {
                field: "subjects",
                reason: "say whom by a list of `subjects`, or by `prefix` and `metadata`",
            }),
            None => Ok(Doomed::Matching(gallery::SubjectFilter { prefix, metadata })),
        }
    }
}

/// Which faces are deleted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeleteFaces {
    /// Ids, up to 1,000, of whatever galleries.
    #[schema(value_type = Vec<FaceId>, min_items = 1, max_items = 1000)]
    pub faces: Listed<FaceId>,
}

/// Whom a face belongs to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MoveRequest {
    /// Name or id of a subject of the same gallery. A new name makes a new subject.
    #[schema(example = "Ada")]
    pub subject: Name,
}

/// What a data set is enrolled into; its archive is stored as it arrives.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DatasetRequest {
    /// The gallery to enroll into: name or id. One that does not exist is created.
    #[schema(example = "gate-3")]
    pub gallery: Name,
    /// When the people of it expire, and are erased with all their faces; also of those who are there already and of whom a photo is
    /// enrolled. Defaults to never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Expiry>,
    /// When the faces that are enrolled expire, and are erased. Defaults to never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub face_expires_at: Option<Expiry>,
}
