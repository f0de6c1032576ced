use super::super::testing::{bytes, difference, fixture, floats, made_image, weights};
use tch::Kind;

use super::*;

/// Recorded and computed rows of one output: `A x columns`.
fn check_rows(computed: &[f32], columns: usize, stride: usize, rows: &[f32], sums: &[f64], label: &str) -> f32 {
    let strided: Vec<f32> = computed.chunks_exact(columns).step_by(stride).flatten().copied().collect();
    for (column, expected) in sums.iter().enumerate() {
        let sum: f64 = computed.iter().skip(column).step_by(columns).map(|v| f64::from(v.abs())).sum();
        assert!((sum - expected).abs() <= 1e-4 * expected.max(1.0), "{label} column {column}: {sum}, not {expected}");
    }
    difference(&strided, rows)
}

#[test]
fn retinaface_equals_onnx_runtime_at_every_size() {
    let path = weights("retinaface-mobilenet0.25.onnx");
    let detector = Detector::load(&path, &Target::CPU).unwrap();
    let mut largest = 0.0_f32;
    for case in fixture("networks.json")["detector"].as_array().unwrap() {
        let side = |place: usize| case["size"][place].as_u64().unwrap() as u32;
        let (width, height, count) = (side(0), side(1), case["images"].as_u64().unwrap() as u32);
        let images: Vec<_> = (0..count).map(|n| made_image(width, height, n)).collect();
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let results = detector.forward(&images, width, height).unwrap();
        let stride = case["stride"].as_u64().unwrap() as usize;
        for (n, result) in results.iter().enumerate() {
            // We keep the second of the two columns of the scores.
            let outputs = [(&result.boxes, 4, 0), (&result.scores, 1, 1), (&result.landmarks, 10, 0)];
            for ((numbers, columns, skipped), expected) in outputs.into_iter().zip(case["outputs"].as_array().unwrap())
            {
                let rows = floats(&expected["rows"]);
                let rows: Vec<f32> =
                    rows.chunks_exact(columns + skipped).flat_map(|row| row[skipped..].to_vec()).collect();
                let rows = &rows[n * rows.len() / results.len()..][..rows.len() / results.len()];
                let sums = expected["column_sums"][n].as_array().unwrap();
                let sums: Vec<f64> = sums[skipped..].iter().map(|sum| sum.as_f64().unwrap()).collect();
                let label = format!("{width}x{height} image {n}");
                largest = largest.max(check_rows(numbers, columns, stride, rows, &sums, &label));
            }
        }
    }
    println!("largest difference {largest:e}");
    assert!(largest <= 1e-4, "{largest}");
}

#[test]
fn rows_that_may_be_faces_come_from_a_gpu_to_their_places() {
    let floats = |sizes: &[i64]| Tensor::rand(sizes, (Kind::Float, Device::Cpu));
    // About one row in five is below the limit.
    let face = floats(&[3, 700]).pow_tensor_scalar(3.0);
    let scores = Tensor::stack(&[1.0 - &face, face.shallow_clone()], 2);
    let outputs = [floats(&[3, 700, kinds::BOX]), scores, floats(&[3, 700, kinds::LANDMARKS])];
    let rows = Rows::of(DetectorKind::RetinaFace, &outputs, 3, (1, 1)).unwrap();
    let all = split_by_image(DetectorKind::RetinaFace, &rows).unwrap();
    let likely = likely_rows(DetectorKind::RetinaFace, &rows).unwrap();
    for (all, likely) in all.iter().zip(&likely) {
        for row in 0..700 {
            let is_likely = f64::from(all.scores[row]) >= LEAST_SCORE;
            let expected = |value: f32| if is_likely { value } else { 0.0 };
            assert_eq!(likely.scores[row], expected(all.scores[row]));
            assert_eq!(likely.boxes[4 * row + 3], expected(all.boxes[4 * row + 3]));
            assert_eq!(likely.landmarks[10 * row + 7], expected(all.landmarks[10 * row + 7]));
        }
    }
    assert_eq!(likely.len(), 3);
}

#[test]
fn scores_are_probabilities_with_the_background_first() {
    let scores = |rows: &[[f64; 2]]| Tensor::from_slice2(rows).reshape([1, rows.len() as i64, 2]);
    assert!(kinds::check_pairs(&scores(&[[0.995, 0.01], [0.9, 0.1], [0.4, 0.6]])).is_ok());
    for (rows, wrong) in [
        ([[4.0, -4.0], [2.5, -3.0]], "from -4 to 4"),
        ([[0.9, 0.9], [0.8, 0.1]], "add up to 1"),
        ([[f64::NAN, 0.1], [0.9, 0.1]], "add up to 1"),
        ([[0.01, 0.99], [0.1, 0.9]], "in the order background, face"),
    ] {
        let error = kinds::check_pairs(&scores(&rows)).unwrap_err().to_string();
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn images_of_another_size_are_refused() {
    let path = weights("retinaface-mobilenet0.25.onnx");
    let detector = Detector::load(&path, &Target::CPU).unwrap();
    assert!(detector.forward(&[], 40, 40).unwrap().is_empty());
    assert!(matches!(detector.forward(&[&[0; 40 * 40 * 3 - 1]], 40, 40), Err(NetworkError::InputShape { .. })));
    assert!(matches!(detector.forward(&[&[]], 0, 40), Err(NetworkError::InputShape { .. })));
}

#[test]
fn an_embedder_is_not_a_detector() {
    let path = weights("mobilefacenet-512.onnx");
    assert!(Detector::load(&path, &Target::CPU).is_err());
}

/// A small detector of `detectors.json`.
fn small(kind: &str) -> Result<Detector, NetworkError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.onnx");
    std::fs::write(&path, bytes(&fixture("detectors.json")[kind]["model"])).unwrap();
    Detector::load(&path, &Target::CPU)
}

#[test]
fn other_kinds_are_told_by_their_outputs_and_equal_onnx_runtime() {
    for (name, kind, takes_batches) in [("scrfd", DetectorKind::Scrfd, false), ("yunet", DetectorKind::YuNet, true)] {
        let detector = small(name).unwrap();
        assert_eq!((detector.kind(), detector.takes_batches), (kind, takes_batches));
        let recorded = fixture("detectors.json")[name]["runs"].as_array().unwrap().clone();
        let check = |result: &DetectorOutput, run: &serde_json::Value| {
            for (numbers, what) in
                [(&result.boxes, "boxes"), (&result.scores, "scores"), (&result.landmarks, "landmarks")]
            {
                let difference = difference(numbers, &floats(&run[what]));
                assert!(difference <= 1e-4, "{name}, {what}: {difference}");
            }
            assert_eq!(result.kind, kind);
        };
        let whole = made_image(96, 64, 0);
        check(&detector.forward(&[&whole], 96, 64).unwrap()[0], &recorded[0]);
        // Sides that are no whole cells, two images at once.
        let (first, second) = (made_image(70, 33, 0), made_image(70, 33, 1));
        let results = detector.forward(&[&first, &second], 70, 33).unwrap();
        check(&results[0], &recorded[1]);
        check(&results[1], &recorded[2]);
    }
}

#[test]
fn rows_of_other_kinds_come_from_a_gpu_to_their_places() {
    let detector = small("yunet").unwrap();
    let image = made_image(70, 33, 0);
    let outputs = no_grad(|| detector.run(&[&image, &image], (70, 33))).unwrap();
    let rows = Rows::of(DetectorKind::YuNet, &outputs, 2, (70, 33)).unwrap();
    let all = split_by_image(DetectorKind::YuNet, &rows).unwrap();
    let likely = likely_rows(DetectorKind::YuNet, &rows).unwrap();
    for (all, likely) in all.iter().zip(&likely) {
        let best = (0..all.scores.len()).max_by(|a, b| all.scores[*a].total_cmp(&all.scores[*b])).unwrap();
        assert_eq!(likely.scores[best], all.scores[best]);
        assert_eq!(likely.boxes[4 * best..][..4], all.boxes[4 * best..][..4]);
        assert_eq!((likely.boxes.len(), likely.landmarks.len()), (all.boxes.len(), all.landmarks.len()));
    }
}

#[test]
fn outputs_of_no_known_kind_are_refused_by_their_shapes() {
    let zeros = |shapes: &[&[i64]]| -> Vec<Tensor> {
        shapes.iter().map(|shape| Tensor::zeros(*shape, (Kind::Float, Device::Cpu))).collect()
    };
    let scrfd: Vec<Vec<i64>> =
        [1, 4, 10].iter().flat_map(|columns| [192, 48, 12].map(|rows| vec![1, rows, *columns])).collect();
    let known: Vec<&[i64]> = scrfd.iter().map(Vec::as_slice).collect();
    assert_eq!(kinds::of(&zeros(&known), TRIAL_SIZE).unwrap(), DetectorKind::Scrfd);
    // Without points, with one level less, and something else.
    for shapes in [&known[..6], &known[1..], &[&[1, 1000][..]][..]] {
        let refusal = kinds::of(&zeros(shapes), TRIAL_SIZE).unwrap_err().to_string();
        assert!(refusal.contains("YuNet one row of 1, 1, 4 and 10"), "{refusal}");
        assert!(refusal.contains(&format!("{:?}", shapes[0])), "{refusal}");
    }
}

#[test]
fn scores_of_other_kinds_are_probabilities() {
    let scores = |rows: &[f64]| Tensor::from_slice(rows).reshape([1, rows.len() as i64]);
    assert!(kinds::check_faces(&scores(&[0.0, 0.2, 1.0])).is_ok());
    for (rows, wrong) in [
        ([-3.0, 0.1], "from -3 to 0.1"),
        ([4.0, 0.0], "Was the sigmoid left out?"),
        ([f64::NAN, 0.1], "probabilities of a face"),
        ([0.99, 0.9], "nearly everywhere"),
    ] {
        let error = kinds::check_faces(&scores(&rows)).unwrap_err().to_string();
        assert!(error.contains(wrong), "{error}");
    }
}
