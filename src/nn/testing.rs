//! What the tests of this layer share: recorded references, made inputs, and where the weights are.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tch::Tensor;

use super::shim::Family;

/// A file of the name in the weights folder: `FACEID_WEIGHTS_DIR` or what `make setup` fetched.
pub fn weights(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/weights");
    let path = std::env::var_os("FACEID_WEIGHTS_DIR").map_or(fetched, PathBuf::from).join(name);
    assert!(path.exists(), "no weights at {}; run `make setup` or set FACEID_WEIGHTS_DIR", path.display());
    path
}

/// The weights that users may fetch (NOTICE.md): in `FACEID_TEST_WEIGHTS`, or beside the test photos.
pub fn other_weights(name: &str) -> PathBuf {
    let photos = std::env::var_os("FACEID_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let folder = std::env::var_os("FACEID_TEST_WEIGHTS").map_or_else(|| photos.join("../weights"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "there is no {}; FACEID_TEST_WEIGHTS says where these weights are", path.display());
    path
}

/// A file that `scripts/onnx_reference.py` wrote.
pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nn").join(name)
}

/// Its content, if that is JSON.
pub fn fixture(name: &str) -> serde_json::Value {
    let path = fixture_path(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn bytes(base64: &serde_json::Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().unwrap()).unwrap()
}

pub fn floats(base64: &serde_json::Value) -> Vec<f32> {
    bytes(base64).chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

pub fn ints(list: &serde_json::Value) -> Vec<i64> {
    list.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
}

/// The input that the script made for `operators.json`.
pub fn made_input(shape: &[i64]) -> Tensor {
    let number = |i: i64| ((i * 37 + 11) % 101 - 50) as f32 / 16.0;
    Tensor::from_slice(&(0..shape.iter().product()).map(number).collect::<Vec<_>>()).reshape(shape)
}

/// RGB image number `n` that the script made for `networks.json`.
pub fn made_image(width: u32, height: u32, n: u32) -> Vec<u8> {
    let pixel = |x, y| (0..3).map(move |c| ((37 * x + 59 * y + 101 * c + 83 * n) % 256) as u8);
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

/// The largest absolute difference; infinite if one is not a number or the lengths differ.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).fold(0.0, |largest, (a, b)| match (a - b).abs() {
        difference if difference.is_nan() => f32::INFINITY,
        difference => difference.max(largest),
    })
}

/// The families of kernels that this processor runs, each of which a test tries. Those that it lacks are named in the
/// test's output; one that it has and this build lacks fails the test.
pub fn families() -> Vec<Family> {
    let all = [Family::Avx2Float, Family::Avx512Float, Family::Avx512Bf16];
    let (here, lacking): (Vec<_>, Vec<_>) = all.into_iter().partition(|family| family.is_available());
    for family in lacking {
        println!("not tested: kernels {}, which this processor lacks", family.name());
    }
    let expected: Vec<_> = all.into_iter().filter(|family| has_instructions(*family)).collect();
    assert_eq!(here, expected, "this build lacks kernels that the processor runs");
    here
}

#[cfg(target_arch = "x86_64")]
fn has_instructions(family: Family) -> bool {
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    match family {
        Family::Avx2Float => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Family::Avx512Float => has_avx512,
        Family::Avx512Bf16 => has_avx512 && is_x86_feature_detected!("avx512bf16"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_instructions(_: Family) -> bool {
    false
}
