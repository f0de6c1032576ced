//! The default networks with every family of kernels that this processor runs, and with libtorch's own convolutions, against
//! recorded outputs of ONNX Runtime.

use super::shim::Family;
use super::testing::{difference, families, fixture, floats, made_image, weights};
use super::{Detector, Embedder, InputNormalisation, Kernels, Precision, Target};
use crate::types::Chip;

/// Every way in which a network can run here.
fn targets() -> Vec<Target> {
    let of_family = |family: Family| match family {
        Family::Avx2Float => Target::CPU.with_kernels(Kernels::Avx2),
        Family::Avx512Float => Target::CPU.with_kernels(Kernels::Avx512),
        Family::Avx512Bf16 => Target::cpu(Precision::Bf16).with_kernels(Kernels::Avx512),
    };
    let mut targets = Vec::new();
    for family in families() {
        let target = of_family(family);
        assert_eq!(target.family_name(), family.name());
        targets.push(target);
    }
    let by_libtorch =
        [Precision::Fp32, Precision::Bf16].map(|precision| Target::cpu(precision).with_kernels(Kernels::Libtorch));
    assert!(by_libtorch.iter().all(|target| target.family_name() == "libtorch"));
    targets.extend(by_libtorch);
    targets
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn the_embedder_equals_onnx_runtime_with_all_kernels() {
    let path = weights("mobilefacenet-512.onnx");
    let expected = &fixture("networks.json")["embedder"];
    let rows = floats(&expected["rows"]);
    let side = Chip::SIDE;
    let chips: Vec<Chip> = (0..expected["images"].as_u64().unwrap() as u32)
        .map(|n| Chip::try_from(image::RgbImage::from_raw(side, side, made_image(side, side, n)).unwrap()).unwrap())
        .collect();
    for target in targets() {
        let embedder = Embedder::load(&path, &target, InputNormalisation::default()).unwrap();
        let computed = embedder.forward(&chips).unwrap();
        let largest = difference(&computed.concat(), &rows);
        let least = computed.iter().zip(rows.chunks_exact(512)).map(|(a, b)| cosine(a, b)).fold(1.0, f32::min);
        println!("{} {}: largest difference {largest:e}, least cosine {least}", target.family_name(), target.precision);
        let is_near = if target.precision == Precision::Fp32 { largest <= 1e-4 } else { least >= 0.998 };
        assert!(is_near, "{target:?}: {largest}, {least}");
    }
}

/// Boxes, scores and landmarks of all images, each as computed and as recorded.
fn detector_outputs(target: &Target) -> [[Vec<f32>; 2]; 3] {
    let detector = Detector::load(&weights("retinaface-mobilenet0.25.onnx"), target).unwrap();
    let mut all: [[Vec<f32>; 2]; 3] = Default::default();
    for case in fixture("networks.json")["detector"].as_array().unwrap() {
        let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
        let (width, height) = (number(&case["size"][0]) as u32, number(&case["size"][1]) as u32);
        let images: Vec<_> = (0..number(&case["images"]) as u32).map(|n| made_image(width, height, n)).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        for result in detector.forward(&images, width, height).unwrap() {
            for (output, (numbers, columns)) in
                [(&result.boxes, 4), (&result.scores, 1), (&result.landmarks, 10)].into_iter().enumerate()
            {
                let strided = numbers.chunks_exact(columns).step_by(number(&case["stride"]));
                all[output][0].extend(strided.flatten());
            }
        }
        // Of the two columns of the scores, the second is that of a face.
        for (output, (columns, skipped)) in [(4, 0), (2, 1), (10, 0)].into_iter().enumerate() {
            let rows = floats(&case["outputs"][output]["rows"]);
            all[output][1].extend(rows.chunks_exact(columns).flat_map(|row| &row[skipped..]));
        }
    }
    all
}

#[test]
fn the_detector_equals_onnx_runtime_with_all_kernels() {
    for target in targets() {
        let outputs = detector_outputs(&target);
        let [boxes, scores, landmarks] = outputs.each_ref().map(|[computed, recorded]| difference(computed, recorded));
        let cosines = outputs.each_ref().map(|[computed, recorded]| cosine(computed, recorded));
        let name = format!("{} {}", target.family_name(), target.precision);
        println!("{name}: largest differences {boxes:e}, {scores:e}, {landmarks:e}, cosines {cosines:?}");
        // Where there is no face, boxes and landmarks are what chance made them, and 8 bits of a number make them otherwise.
        let is_near = match target.precision {
            Precision::Fp32 => boxes.max(scores).max(landmarks) <= 1e-4,
            _ => scores <= 0.02 && cosines[0].min(cosines[2]) >= 0.9,
        };
        assert!(is_near, "{name}");
    }
}
