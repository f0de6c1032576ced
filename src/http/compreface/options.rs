//! The parameters of requests: of the query string, or texts of a form.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use serde::Serialize;

use super::failure::Failure;
use crate::engine::Spent;
use crate::http::form;
use crate::http::state::AppState;
use crate::service::Recognition;
use crate::service::answers::Version;
use crate::service::requests::{Count, Extra, Score, TopK};

/// Names and values, as they came.
#[derive(Debug, Default)]
pub struct Parameters(pub Vec<(String, String)>);

/// What a request wants of a photo, beside the faces themselves.
#[derive(Debug)]
pub struct Options {
    /// Faces at most, the largest.
    pub most_faces: Option<Count>,
    pub min_score: Option<Score>,
    /// Subjects for each face.
    pub top_k: TopK,
    /// Whether faces are looked for; else the image is one.
    pub detect_faces: bool,
    pub plugins: Plugins,
    /// Whether to say which plugins answer, and how long they took.
    pub status: bool,
}

/// What an answer shows of a face. Those that faceid does not have are passed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plugins {
    pub landmarks: bool,
    /// The embedding.
    pub calculator: bool,
    pub pose: bool,
    /// Of ours: the cosine and the probability that a similarity stands for.
    pub calibration: bool,
}

impl Parameters {
    pub async fn of_query(parts: &mut Parts) -> Result<Self, Failure> {
        Ok(Self(form::query(parts).await?))
    }

    /// A value; one that is there and empty is as none.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.trim().is_empty())
    }

    /// A value, be it empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn number<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Failure> {
        let read = |text: &str| {
            text.trim().parse().map_err(|_| Failure::out_of_range(name, format_args!("{expected} is expected")))
        };
        self.text(name).map(read).transpose()
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let is_any = |words: [&str; 4]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
        if is_any(["true", "1", "yes", "on"]) {
            return Ok(true);
        }
        if is_any(["false", "0", "no", "off"]) {
            return Ok(false);
        }
        Err(Failure::out_of_range(name, "true or false is expected"))
    }

    /// A number of a page or its size; what makes no sense is as none.
    pub fn lenient(&self, name: &str, default: u32) -> u32 {
        self.text(name).and_then(|text| text.trim().parse().ok()).unwrap_or(default)
    }
}

impl Options {
    pub fn of(parameters: &Parameters) -> Result<Self, Failure> {
        let limit: i64 = parameters.number("limit", "a whole number")?.unwrap_or(0);
        let most_faces = match limit {
            ..0 => return Err(Failure::out_of_range("limit", "a number from 0 on is expected")),
            0 => None,
            limit => Count::try_from(u32::try_from(limit).unwrap_or(u32::MAX)).ok(),
        };
        let score: Option<f32> = parameters.number("det_prob_threshold", "a number")?;
        let min_score = score.map(Score::try_from).transpose();
        let predictions: i64 = parameters.number("prediction_count", "a whole number")?.unwrap_or(1);
        if predictions < 1 {
            return Err(Failure::out_of_range("prediction_count", "a number from 1 on is expected"));
        }
        let top_k = u32::try_from(predictions).unwrap_or(u32::MAX).min(TopK::MOST);
        Ok(Self {
            most_faces,
            min_score: min_score.map_err(|error| Failure::out_of_range("det_prob_threshold", error))?,
            top_k: TopK::try_from(top_k).unwrap_or_default(),
            detect_faces: parameters.flag("detect_faces", true)?,
            plugins: Plugins::of(parameters),
            status: parameters.flag("status", false)?,
        })
    }

    /// Which plugins answer.
    pub fn versions(&self, recognition: &Recognition) -> Option<BTreeMap<&'static str, String>> {
        self.status.then(|| {
            let version = Version::default();
            let own = format!("{} {}", version.name, version.version);
            let asked = [("landmarks", self.plugins.landmarks), ("pose", self.plugins.pose)];
            let asked = asked.into_iter().filter(|(_, is_asked)| *is_asked).map(|(slug, _)| slug);
            let mut versions: BTreeMap<_, _> = asked.chain(["detector"]).map(|slug| (slug, own.clone())).collect();
            versions.insert("calculator", recognition.model_name());
            versions
        })
    }

    /// How many milliseconds the networks took over the request.
    pub fn execution_time(&self) -> Option<BTreeMap<&'static str, f64>> {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        let spent = Spent::current().filter(|_| self.status)?;
        let times = [("detector", spent.detected()), ("calculator", spent.embedded())];
        let used = times.into_iter().filter(|(_, time)| !time.is_zero());
        Some(used.map(|(slug, time)| (slug, milliseconds(time))).collect())
    }
}

impl Plugins {
    fn of(parameters: &Parameters) -> Self {
        let lists = parameters.0.iter().filter(|(name, _)| name == "face_plugins").map(|(_, list)| list.as_str());
        let mut plugins = Self::default();
        for slug in lists.flat_map(|list| list.split([',', ' '])) {
            match slug {
                "landmarks" => plugins.landmarks = true,
                "calculator" => plugins.calculator = true,
                "pose" => plugins.pose = true,
                "calibration" => plugins.calibration = true,
                _ => {}
            }
        }
        plugins
    }

    /// What the native answer is to be shown with.
    pub fn extras(self) -> Vec<Extra> {
        if self.calculator { vec![Extra::Embedding] } else { Vec::new() }
    }
}

/// What a request may bring.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientConfig {
    client_max_file_size: u64,
    client_max_body_size: u64,
}

/// GET /config, which needs no key: bytes that an image and a request may have.
pub async fn show_config(State(state): State<AppState>) -> Result<Json<ClientConfig>, Failure> {
    let info = state.info()?;
    Ok(Json(ClientConfig {
        client_max_file_size: info.limits.max_image_bytes as u64,
        client_max_body_size: info.limits.max_body_bytes as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn of(pairs: &[(&str, &str)]) -> Option<Options> {
        Options::of(&parameters(pairs)).ok()
    }

    #[test]
    fn what_is_empty_is_as_if_it_were_not_there() {
        let options =
            of(&[("limit", ""), ("det_prob_threshold", " "), ("prediction_count", ""), ("status", "")]).unwrap();
        assert!(options.most_faces.is_none() && options.min_score.is_none() && !options.status && options.detect_faces);
        assert_eq!(options.top_k.get(), 1);
    }

    #[test]
    fn truth_has_many_words() {
        for word in ["true", "True", "1", "yes", "ON"] {
            assert!(of(&[("status", word)]).unwrap().status, "{word}");
        }
        for word in ["false", "False", "0", "no", "off"] {
            assert!(!of(&[("detect_faces", word)]).unwrap().detect_faces, "{word}");
        }
        assert!(of(&[("status", "perhaps")]).is_none());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (name, value) in [
            ("limit", "-1"),
            ("limit", "abc"),
            ("prediction_count", "0"),
            ("det_prob_threshold", "1.1"),
            ("det_prob_threshold", "NaN"),
        ] {
            assert!(of(&[(name, value)]).is_none(), "{name}={value}");
        }
        // As many as there are for one request.
        assert_eq!(of(&[("prediction_count", "100000")]).unwrap().top_k.get(), 100);
    }

    #[test]
    fn plugins_come_in_any_list_and_unknown_ones_are_passed_over() {
        let plugins = Plugins::of(&parameters(&[
            ("face_plugins", "calculator,age,gender,landmarks"),
            ("face_plugins", "pose mask"),
        ]));
        assert_eq!(plugins, Plugins { landmarks: true, calculator: true, pose: true, calibration: false });
        assert_eq!(Plugins::of(&Parameters::default()), Plugins::default());
    }

    #[test]
    fn pages_that_make_no_sense_are_the_usual_ones() {
        let parameters = parameters(&[("page", "2"), ("size", "many")]);
        assert_eq!((parameters.lenient("page", 0), parameters.lenient("size", 20)), (2, 20));
    }
}
