//! Requests about models.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{FileBytes, default_gallery};
use crate::registry::ChannelOrder;
use crate::types::{Name, Threshold};

/// POST /admin/models: a model, and what somebody says of it who brings it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ModelUpload {
    /// ONNX, or TorchScript with `allow_code`.
    pub file: FileBytes,
    /// A manifest as `faceid train` and `faceid evaluate --calibration` write it, in TOML. The fields below win over it.
    pub manifest: Option<String>,
    /// What the model is called in answers. Needed without a manifest.
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    /// Similarity from which on two faces are one person. Needed without a manifest.
    pub threshold: Option<Threshold>,
    /// The network reads (value - mean) / scale of values 0..255. Defaults to 127.5.
    pub mean: Option<f32>,
    /// As `mean`.
    pub scale: Option<f32>,
    /// The order of the colours. Defaults to `rgb`.
    pub channels: Option<ChannelOrder>,
    /// Whether a TorchScript file is welcome, which is a program. Needs a server that asks for keys.
    #[serde(default)]
    pub allow_code: bool,
}

/// What a model is evaluated on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EvaluateRequest {
    /// The gallery where it is to be better than the active model: name or id. It should not have been trained on these people.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Galleries where it may be hardly worse, each by itself. Defaults to others that have ten subjects with two photos each, 30
    /// at most: the largest, and some by lot.
    pub protected: Option<Vec<Name>>,
}

/// Whether to do it all the same.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct ForceRequest {
    /// Overrules what would otherwise refuse it, which the record notes.
    #[serde(default)]
    pub force: bool,
}

/// How much of the traffic a model in the shadow is to see.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct ShadowRequest {
    /// Share of the identified photos.
    #[serde(default = "tenth")]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 0.1)]
    pub share: f64,
    /// Begins even if faces have no chip, so that the candidate cannot know them.
    #[serde(default)]
    pub force: bool,
}

fn tenth() -> f64 {
    0.1
}

/// What training begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetrainBase {
    /// The active model, which is adapted.
    #[default]
    Active,
    /// Nothing: a small network with random weights.
    Scratch,
}

/// POST /admin/retrain
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RetrainRequest {
    /// The gallery to learn from: name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// `active` adapts the active model, `scratch` trains a small network from nothing.
    #[serde(default)]
    #[schema(default = "active")]
    pub base: RetrainBase,
    /// Galleries that must not suffer: on each of them the candidate may be hardly worse than the active model. Up to half of
    /// the subjects of each who have two photos are shown to the training, to keep the model as it is there; the gate looks
    /// at the others. Defaults to other galleries that have ten subjects with two photos each, 30 at most: the largest, and
    /// some by lot.
    pub protected: Option<Vec<Name>>,
    /// Batches to train on.
    #[schema(minimum = 1)]
    pub steps: Option<u64>,
    /// From which all that looks random follows.
    pub seed: Option<u64>,
    /// Share of the subjects that are not trained on but tested with. Defaults to 0.25.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub test_share: Option<f64>,
    /// Further settings of the training: those of `faceid train --print-recipe`, as JSON.
    #[schema(value_type = Option<Object>, example = json!({"optimiser": {"learning_rate": 0.0003}}))]
    pub recipe: Option<Map<String, Value>>,
    /// The name of the candidate. Defaults to one made of the gallery's and the job's.
    pub name: Option<Name>,
    /// Whether to promote the candidate if it passes the gate.
    #[serde(default)]
    pub promote: bool,
}
