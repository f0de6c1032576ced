//! A model as the database knows it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row};

use super::{Manifest, NewModel, RegistryError};
use crate::evaluation::GateOutcome;
use crate::types::ModelId;

/// Where a model is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// Embeds what is enrolled and searched. One model at most.
    Active,
    /// Registered, never active so far.
    Candidate,
    /// Was active; its embeddings are kept, so that it can become active again at once.
    Former,
    /// Its embeddings and its file were deleted.
    Retired,
}

impl ModelState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Candidate => "candidate",
            Self::Former => "former",
            Self::Retired => "retired",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Candidate, Self::Former, Self::Retired].into_iter().find(|state| state.as_str() == text)
    }
}

/// What a model file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFormat {
    Onnx,
    /// A program, to be loaded only from whom one trusts.
    TorchScript,
}

impl ModelFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::TorchScript => "torchscript",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Onnx, Self::TorchScript].into_iter().find(|format| format.as_str() == text)
    }
}

/// Where a model came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSource {
    /// Known by imported embeddings alone.
    Embeddings,
    /// The embedder of a server's configuration.
    Configured,
    /// An operator brought the file.
    Import,
    /// Trained here.
    Retrain,
}

impl ModelSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Configured => "configured",
            Self::Import => "import",
            Self::Retrain => "retrain",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Embeddings, Self::Configured, Self::Import, Self::Retrain].into_iter().find(|it| it.as_str() == text)
    }
}

/// What the gate said of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredVerdict")]
pub struct GateVerdict {
    pub outcome: GateOutcome,
    /// Whether that is [`GateOutcome::Passed`].
    pub passed: bool,
    /// Why not; for people.
    pub reasons: Vec<String>,
    /// The figures behind it.
    pub figures: Value,
    pub at: DateTime<Utc>,
}

impl GateVerdict {
    /// Of this moment.
    pub fn new(outcome: GateOutcome, reasons: Vec<String>, figures: Value) -> Self {
        Self { outcome, passed: outcome == GateOutcome::Passed, reasons, figures, at: Utc::now() }
    }
}

/// As versions before there were three outcomes wrote it, and as it is written now.
#[derive(Deserialize)]
struct StoredVerdict {
    passed: bool,
    outcome: Option<GateOutcome>,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    figures: Value,
    at: DateTime<Utc>,
}

impl From<StoredVerdict> for GateVerdict {
    fn from(stored: StoredVerdict) -> Self {
        let StoredVerdict { passed, outcome, reasons, figures, at } = stored;
        let outcome = outcome.unwrap_or(if passed { GateOutcome::Passed } else { GateOutcome::Refused });
        Self { passed: outcome == GateOutcome::Passed, outcome, reasons, figures, at }
    }
}

/// A set of embedder weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub id: ModelId,
    pub name: String,
    /// Of the file of weights.
    pub sha256: [u8; 32],
    /// Of its embeddings.
    pub dimension: u32,
    pub state: ModelState,
    pub created_at: DateTime<Utc>,
    /// When it last became active.
    pub activated_at: Option<DateTime<Utc>>,
    /// Unknown of a model of which only embeddings are.
    pub manifest: Option<Manifest>,
    /// Format and length in bytes of its file in the model store, if it is there.
    pub file: Option<(ModelFormat, u64)>,
    pub source: ModelSource,
    /// The model that it was trained from.
    pub parent: Option<ModelId>,
    pub verdict: Option<GateVerdict>,
    /// Whether faces are embedded by it as well, so that it can become active or answer in the shadow.
    pub is_secondary: bool,
    /// Share of the probes that it answers in the shadow, if it does.
    pub shadow: Option<f64>,
}

impl Model {
    /// Whether it has all that it takes to embed by it.
    pub fn is_loadable(&self) -> bool {
        self.file.is_some() && self.manifest.is_some()
    }

    /// Refuses what is said of the weights of this model, which is known, if it says otherwise.
    pub(super) fn is_as_described(&self, new: &NewModel<'_>) -> Result<(), RegistryError> {
        let (registered, given) = (self.dimension, new.dimension);
        if registered != given {
            return Err(RegistryError::OtherDimension { name: self.name.clone(), registered, given });
        }
        let differences = self.manifest.as_ref().map(|known| new.manifest.differences(known)).unwrap_or_default();
        if differences.is_empty() {
            return Ok(());
        }
        let way = match self.state {
            ModelState::Active => {
                "while it is active it keeps them (a gallery may have a threshold of its own, as its policy); once another \
                 model is active, retire it and import it again"
            }
            _ => "to describe it anew, retire it and import it again",
        };
        Err(RegistryError::ModelExists { name: self.name.clone(), differences, way })
    }

    /// Refuses the active model, where another one is meant.
    pub fn not_active(&self) -> Result<(), RegistryError> {
        match self.state {
            ModelState::Active => Err(RegistryError::ModelInUse { name: self.name.clone(), role: "the active model" }),
            _ => Ok(()),
        }
    }
}

impl FromRow<'_, PgRow> for Model {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let sha256: &[u8] = row.try_get("sha256")?;
        let dimension: i32 = row.try_get("dimension")?;
        let manifest: Option<Json<Value>> = row.try_get("manifest")?;
        let manifest = manifest.map(|Json(value)| Manifest::from_json(value)).transpose();
        let format: Option<&str> = row.try_get("format")?;
        let format = format.map(|text| known("format", text, ModelFormat::parse)).transpose()?;
        let bytes: Option<i64> = row.try_get("file_bytes")?;
        let parent: Option<uuid::Uuid> = row.try_get("parent_id")?;
        let verdict: Option<Json<GateVerdict>> = row.try_get("verdict")?;
        Ok(Self {
            id: ModelId(row.try_get("id")?),
            name: row.try_get("name")?,
            sha256: sha256.try_into().map_err(|error| decode_error("sha256", error))?,
            dimension: dimension.unsigned_abs(),
            state: known("state", row.try_get("state")?, ModelState::parse)?,
            created_at: row.try_get("created_at")?,
            activated_at: row.try_get("activated_at")?,
            manifest: manifest.map_err(|error| decode_error("manifest", error.to_string()))?,
            file: format.zip(bytes.map(i64::unsigned_abs)),
            source: known("source", row.try_get("source")?, ModelSource::parse)?,
            parent: parent.map(ModelId),
            verdict: verdict.map(|Json(verdict)| verdict),
            is_secondary: row.try_get("is_target")?,
            shadow: row.try_get("shadow_share")?,
        })
    }
}

fn known<T>(column: &str, text: &str, parse: fn(&str) -> Option<T>) -> Result<T, sqlx::Error> {
    parse(text).ok_or_else(|| decode_error(column, format!("{text:?} is unknown")))
}

fn decode_error(column: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts_without_an_outcome_have_that_of_before() {
        let read = |value: Value| serde_json::from_value::<GateVerdict>(value).unwrap();
        let old = |passed: bool| json!({"passed": passed, "reasons": ["why"], "at": "2026-11-01T00:00:00Z"});
        assert_eq!((read(old(true)).outcome, read(old(false)).outcome), (GateOutcome::Passed, GateOutcome::Refused));
        let now = GateVerdict::new(GateOutcome::NotEnoughEvidence, vec!["few".to_owned()], json!({"a": 1}));
        let text = serde_json::to_value(&now).unwrap();
        assert_eq!((&text["outcome"], &text["passed"]), (&json!("not_enough_evidence"), &json!(false)));
        assert_eq!(read(text), now);
    }
}
