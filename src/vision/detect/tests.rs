use super::*;

use DetectorKind::{RetinaFace, Scrfd, YuNet};

/// An output in which no anchor sees a face.
fn silent_of(kind: DetectorKind, width: u32, height: u32) -> DetectorOutput {
    let anchors = anchor_count(kind, width, height);
    let (boxes, landmarks) = (vec![0.0; 4 * anchors], vec![0.0; 10 * anchors]);
    DetectorOutput { kind, boxes, scores: vec![0.0; anchors], landmarks }
}

fn silent(width: u32, height: u32) -> DetectorOutput {
    silent_of(RetinaFace, width, height)
}

/// Makes the anchor of `row` answer with this box and points about it: the inverse of the decoding.
fn answer(output: &mut DetectorOutput, (width, height): (u32, u32), row: usize, face: BoundingBox, score: f32) {
    let anchor = anchors(output.kind, width, height).nth(row).unwrap();
    let (step, growth) = match output.kind {
        RetinaFace => (CENTRE_VARIANCE * anchor.side, SIZE_VARIANCE),
        _ => (anchor.side, 1.0),
    };
    let offset = |p: Point| [(p.x - anchor.x) / step, (p.y - anchor.y) / step];
    let centre = offset(Point { x: face.x + face.width / 2.0, y: face.y + face.height / 2.0 });
    let size = [face.width, face.height].map(|side| (side / anchor.side).ln() / growth);
    let corners = [Point { x: face.x, y: face.y }, Point { x: face.x + face.width, y: face.y + face.height }];
    let numbers = match (output.kind, corners.map(offset)) {
        (Scrfd, [[left, top], right_bottom]) => [[-left, -top], right_bottom].concat(),
        _ => [centre, size].concat(),
    };
    output.boxes[4 * row..][..4].copy_from_slice(&numbers);
    output.scores[row] = score;
    for (i, point) in points_in(&face).into_iter().enumerate() {
        output.landmarks[10 * row + 2 * i..][..2].copy_from_slice(&offset(point));
    }
}

fn points_in(face: &BoundingBox) -> [Point; 5] {
    [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
        .map(|(x, y)| Point { x: face.x + x * face.width, y: face.y + y * face.height })
}

fn square(x: f32, y: f32, side: f32) -> BoundingBox {
    BoundingBox { x, y, width: side, height: side }
}

fn run(output: &DetectorOutput, width: u32, height: u32) -> Vec<Detection> {
    detections(output, width, height, Scale::NONE, &DetectOptions::default()).unwrap()
}

#[track_caller]
fn assert_near(got: &BoundingBox, expected: &BoundingBox, tolerance: f32) {
    let difference = [got.x - expected.x, got.y - expected.y, got.width - expected.width, got.height - expected.height];
    assert!(difference.iter().all(|d| d.abs() < tolerance), "{got:?} is not {expected:?}");
}

#[test]
fn anchors_lie_as_in_the_reference() {
    // Counts of RetinaFace at its usual sizes.
    assert_eq!(anchor_count(RetinaFace, 640, 640), 16_800);
    assert_eq!(anchor_count(RetinaFace, 640, 480), 12_600);
    // Sides that are no multiple of a stride round up at each level.
    assert_eq!(anchor_count(RetinaFace, 250, 250), 2 * (32 * 32 + 16 * 16 + 8 * 8));
    assert_eq!(anchors(RetinaFace, 250, 99).count(), anchor_count(RetinaFace, 250, 99));
    let at = |row: usize| anchors(RetinaFace, 100, 50).nth(row).map(|a| (a.x, a.y, a.side)).unwrap();
    assert_eq!(at(0), (4.0, 4.0, 16.0));
    assert_eq!(at(1), (4.0, 4.0, 32.0));
    assert_eq!(at(2), (12.0, 4.0, 16.0));
    // 13 columns and 7 rows of stride 8 come first.
    assert_eq!(at(2 * 13), (4.0, 12.0, 16.0));
    assert_eq!(at(2 * 13 * 7), (8.0, 8.0, 64.0));
    assert_eq!(at(2 * (13 * 7 + 7 * 4)), (16.0, 16.0, 256.0));
}

#[test]
fn a_face_is_decoded_from_any_level() {
    let size = (640, 480);
    let last = anchor_count(RetinaFace, 640, 480) - 1;
    for (row, face) in [
        (0, square(1.5, 0.5, 6.0)),
        (5_001, BoundingBox { x: 100.0, y: 50.0, width: 21.0, height: 33.0 }),
        (9_700, square(300.0, 200.0, 90.0)),
        // As large as the image, and reaching out of it.
        (last, square(-60.0, -40.0, 620.0)),
    ] {
        let mut output = silent(size.0, size.1);
        answer(&mut output, size, row, face, 0.97);
        let faces = run(&output, size.0, size.1);
        assert_eq!(faces.len(), 1);
        assert_near(&faces[0].bounding_box, &face, 1e-2);
        assert_eq!(faces[0].score, 0.97);
        for (got, expected) in faces[0].landmarks.points().iter().zip(points_in(&face)) {
            assert!((got.x - expected.x).abs() < 1e-2 && (got.y - expected.y).abs() < 1e-2);
        }
    }
}

#[test]
fn the_cells_of_other_kinds_are_those_of_whole_images() {
    assert_eq!(anchor_count(YuNet, 96, 64), 12 * 8 + 6 * 4 + 3 * 2);
    assert_eq!(anchor_count(Scrfd, 96, 64), 2 * (12 * 8 + 6 * 4 + 3 * 2));
    assert_eq!(anchor_count(Scrfd, 640, 640), 16_800);
    // 70x33 gets a margin up to 96x64.
    assert_eq!(anchor_count(YuNet, 70, 33), anchor_count(YuNet, 96, 64));
    let at = |kind, row: usize| anchors(kind, 96, 64).nth(row).map(|a| (a.x, a.y, a.side)).unwrap();
    assert_eq!((at(YuNet, 0), at(YuNet, 13), at(YuNet, 96)), ((0.0, 0.0, 8.0), (8.0, 8.0, 8.0), (0.0, 0.0, 16.0)));
    assert_eq!((at(Scrfd, 1), at(Scrfd, 26), at(Scrfd, 193)), ((0.0, 0.0, 8.0), (8.0, 8.0, 8.0), (0.0, 0.0, 16.0)));
}

#[test]
fn a_face_is_decoded_from_any_kind() {
    let size = (300, 200);
    for kind in [RetinaFace, Scrfd, YuNet] {
        let last = anchor_count(kind, size.0, size.1) - 1;
        for (row, face) in
            [(0, square(2.0, 1.0, 9.0)), (901, square(120.0, 50.0, 40.0)), (last, square(-9.0, 20.0, 170.0))]
        {
            let mut output = silent_of(kind, size.0, size.1);
            answer(&mut output, size, row, face, 0.97);
            let faces = run(&output, size.0, size.1);
            assert_eq!(faces.len(), 1, "{kind:?}");
            assert_near(&faces[0].bounding_box, &face, 1e-2);
            for (got, expected) in faces[0].landmarks.points().iter().zip(points_in(&face)) {
                assert!((got.x - expected.x).abs() < 1e-2 && (got.y - expected.y).abs() < 1e-2, "{kind:?}");
            }
        }
    }
}

/// Worked out by hand from OpenCV's `FaceDetectorYNImpl::postProcess` and InsightFace's `distance2bbox` and `distance2kps`.
#[test]
fn rows_mean_what_their_authors_say() {
    // Column 3, row 2 of the cells of 8 pixels, in an image of 12 of them across.
    let mut output = silent_of(YuNet, 96, 64);
    output.scores[27] = 0.9;
    output.boxes[4 * 27..][..4].copy_from_slice(&[0.5, 0.25, 1.0, 2.0]);
    output.landmarks[10 * 27..][..2].copy_from_slice(&[-0.5, 0.75]);
    let face = run(&output, 96, 64)[0];
    let (width, height) = (8.0 * 1.0_f32.exp(), 8.0 * 2.0_f32.exp());
    let expected = BoundingBox { x: 28.0 - width / 2.0, y: 18.0 - height / 2.0, width, height };
    assert_near(&face.bounding_box, &expected, 1e-4);
    assert_eq!(face.landmarks.left_eye, Point { x: 20.0, y: 22.0 });

    let mut output = silent_of(Scrfd, 96, 64);
    // The second of the two rows of the same cell.
    output.scores[55] = 0.9;
    output.boxes[4 * 55..][..4].copy_from_slice(&[1.0, 0.5, 2.0, 3.0]);
    output.landmarks[10 * 55..][..2].copy_from_slice(&[-0.5, 0.75]);
    let face = run(&output, 96, 64)[0];
    assert_near(&face.bounding_box, &BoundingBox { x: 16.0, y: 12.0, width: 24.0, height: 28.0 }, 1e-4);
    assert_eq!(face.landmarks.left_eye, Point { x: 20.0, y: 22.0 });
}

#[test]
fn what_is_seen_in_the_margin_is_no_face() {
    let size = (70, 33);
    for (face, count) in [(square(60.0, 10.0, 19.0), 1), (square(72.0, 10.0, 20.0), 0), (square(10.0, 30.0, 20.0), 0)] {
        for kind in [Scrfd, YuNet] {
            let mut output = silent_of(kind, size.0, size.1);
            answer(&mut output, size, 5, face, 0.97);
            assert_eq!(run(&output, size.0, size.1).len(), count, "{kind:?} {face:?}");
        }
    }
    let mut output = silent(70, 33);
    answer(&mut output, size, 5, square(72.0, 10.0, 20.0), 0.97);
    assert_eq!(run(&output, size.0, size.1).len(), 1);
}

#[test]
fn no_answer_is_no_face() {
    assert_eq!(run(&silent(64, 64), 64, 64), []);
    assert_eq!(run(&silent(1, 1), 1, 1), []);
}

#[test]
fn the_threshold_is_exclusive() {
    let mut output = silent(64, 64);
    answer(&mut output, (64, 64), 3, square(0.0, 0.0, 20.0), 0.8);
    assert_eq!(run(&output, 64, 64), []);
    output.scores[3] = 0.81;
    assert_eq!(run(&output, 64, 64).len(), 1);
}

#[test]
fn of_overlapping_boxes_the_best_is_kept() {
    let size = (320, 320);
    let mut output = silent(320, 320);
    answer(&mut output, size, 10, square(100.0, 100.0, 50.0), 0.90);
    // Overlap 40/60 = 0.67 with the first.
    answer(&mut output, size, 20, square(110.0, 100.0, 50.0), 0.95);
    // Overlap 20/80 = 0.25 with the second.
    answer(&mut output, size, 30, square(140.0, 100.0, 50.0), 0.85);
    let faces = run(&output, 320, 320);
    let mut lefts: Vec<i32> = faces.iter().map(|f| f.bounding_box.x.round() as i32).collect();
    lefts.sort_unstable();
    assert_eq!(lefts, [110, 140]);
    let all = DetectOptions { nms_iou: 1.0, ..DetectOptions::default() };
    assert_eq!(detections(&output, 320, 320, Scale::NONE, &all).unwrap().len(), 3);
}

#[test]
fn the_largest_box_comes_first() {
    let size = (640, 640);
    let mut output = silent(640, 640);
    answer(&mut output, size, 0, square(10.0, 10.0, 30.0), 0.99);
    answer(&mut output, size, 1, square(300.0, 300.0, 200.0), 0.85);
    answer(&mut output, size, 2, square(10.0, 300.0, 100.0), 0.90);
    let sides: Vec<i32> = run(&output, 640, 640).iter().map(|f| f.bounding_box.width.round() as i32).collect();
    assert_eq!(sides, [200, 100, 30]);
}

#[test]
fn faces_are_mapped_to_the_original() {
    let size = (320, 160);
    let mut output = silent(320, 160);
    answer(&mut output, size, 50, square(99.5, 59.5, 40.0), 0.9);
    let scale = Scale { x: 0.25, y: 0.2 };
    let faces = detections(&output, 320, 160, scale, &DetectOptions::default()).unwrap();
    let expected = BoundingBox { x: 399.5, y: 299.5, width: 160.0, height: 200.0 };
    assert_near(&faces[0].bounding_box, &expected, 0.05);
    // A point at the middle of the first shrunk pixel is the middle of the 4x5 block that it averages.
    let corner = Detection { landmarks: Landmarks::from([Point { x: 0.0, y: 0.0 }; 5]), ..faces[0] };
    assert_eq!(to_original(corner, scale).landmarks.nose, Point { x: 1.5, y: 2.0 });
}

#[test]
fn what_is_no_number_is_no_face() {
    let size = (64, 64);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        for spoil in [
            |o: &mut DetectorOutput, v| o.boxes[8] = v,
            |o: &mut DetectorOutput, v| o.boxes[10] = v,
            |o: &mut DetectorOutput, v| o.landmarks[25] = v,
        ] {
            let mut output = silent(64, 64);
            answer(&mut output, size, 2, square(5.0, 5.0, 20.0), 0.9);
            spoil(&mut output, value);
            assert!(run(&output, 64, 64).iter().all(is_finite), "{value}");
        }
        let mut output = silent(64, 64);
        answer(&mut output, size, 2, square(5.0, 5.0, 20.0), value);
        assert!(run(&output, 64, 64).iter().all(|face| face.score <= 1.0), "{value}");
    }
    let mut output = silent(64, 64);
    output.scores.fill(f32::NAN);
    assert_eq!(run(&output, 64, 64), []);
}

#[test]
fn wrong_row_counts_are_errors() {
    for spoil in [
        |o: &mut DetectorOutput| o.boxes.truncate(3),
        |o: &mut DetectorOutput| o.scores.push(0.0),
        |o: &mut DetectorOutput| o.landmarks.clear(),
        |o: &mut DetectorOutput| *o = silent(96, 64),
    ] {
        let mut output = silent(64, 64);
        spoil(&mut output);
        let result = detections(&output, 64, 64, Scale::NONE, &DetectOptions::default());
        assert!(matches!(result, Err(DetectError::WrongRows { anchors: 168, .. })), "{result:?}");
    }
}
