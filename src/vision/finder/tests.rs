use super::*;
use crate::types::{BoundingBox, Landmarks};

fn finder(size: (u32, u32), wanted: Wanted) -> Finder {
    Finder::new(size, 640, DetectOptions::default(), wanted)
}

/// A face with a box of 0.75 `side` x `side` about (x, y) that looks ahead, turned clockwise in its box.
fn face(x: f32, y: f32, side: f32, turn: Turn, score: f32) -> Detection {
    let at = |across: f32, down: f32| match turn {
        Turn::Upright => Point { x: x + across * side, y: y + down * side },
        Turn::Quarter => Point { x: x - down * side, y: y + across * side },
        Turn::Half => Point { x: x - across * side, y: y - down * side },
        Turn::ThreeQuarters => Point { x: x + down * side, y: y - across * side },
    };
    let points = [(-0.17, -0.12), (0.17, -0.12), (0.0, 0.08), (-0.14, 0.26), (0.14, 0.26)];
    let (width, height) = match turn {
        Turn::Upright | Turn::Half => (0.75 * side, side),
        Turn::Quarter | Turn::ThreeQuarters => (side, 0.75 * side),
    };
    Detection {
        bounding_box: BoundingBox { x: x - width / 2.0, y: y - height / 2.0, width, height },
        landmarks: Landmarks::from(points.map(|(across, down)| at(across, down))),
        score,
    }
}

/// What is really on a photo, as a detector sees it that finds every upright face of more than 24 pixels, hints at smaller ones,
/// and takes turned ones for poor upright ones.
fn see(finder: &mut Finder, photo: &[(f32, f32, f32, Turn)]) -> Vec<usize> {
    let mut steps = Vec::new();
    loop {
        let looks = finder.next_looks();
        if looks.is_empty() {
            return steps;
        }
        steps.push(looks.len());
        for look in looks {
            let found: Vec<Detection> = photo.iter().filter_map(|face| seen(&look, *face)).collect();
            finder.note_faces(&look, &found, DetectorKind::RetinaFace);
        }
    }
}

fn seen(look: &Look, (x, y, side, turn): (f32, f32, f32, Turn)) -> Option<Detection> {
    let (x, y) = look.place_of(x, y);
    let side = side / look.step();
    let inside = x > 0.0 && y > 0.0 && x < look.width as f32 && y < look.height as f32;
    let relative = Turn::ALL[(4 + turn as usize - look.turn() as usize) % 4];
    let score = match side {
        _ if !inside || side < 10.0 => return None,
        ..24.0 => 0.1,
        _ if relative == Turn::Upright => 0.999,
        _ => 0.9,
    };
    Some(face(x, y, side, relative, score))
}

#[test]
fn a_clear_face_of_a_small_photo_takes_one_look() {
    let mut finder = finder((250, 250), Wanted::default());
    assert_eq!(see(&mut finder, &[(120.0, 130.0, 100.0, Turn::Upright)]), [1]);
    let (faces, searched) = finder.finish();
    assert_eq!(
        faces,
        [Found { detection: face(120.0, 130.0, 100.0, Turn::Upright, 0.999), turned: Turn::Upright, doubtful: false }]
    );
    assert_eq!(searched, Searched { min_face_pixels: 20, looks: 1 });
}

#[test]
fn small_faces_of_a_large_photo_are_found_and_looked_at_closer() {
    let photo: Vec<_> = (0..40)
        .map(|n| (250.0 + 500.0 * (n % 8) as f32, 300.0 + 600.0 * (n / 8) as f32, 44.0, Turn::Upright))
        .collect();
    let mut finder = finder((4000, 3000), Wanted::default());
    let steps = see(&mut finder, &photo);
    assert_eq!(steps[1..], [40, 40], "{steps:?}");
    let (faces, searched) = finder.finish();
    assert_eq!(faces.len(), 40);
    for face in &faces {
        let found = centre(&face.detection.bounding_box);
        let nearest = photo.iter().map(|(x, y, ..)| (found.x - x).hypot(found.y - y)).fold(f32::MAX, f32::min);
        assert!(nearest < 1.0, "{found:?}");
        assert!((face.detection.bounding_box.height - 44.0).abs() < 0.5);
    }
    assert_eq!(searched.min_face_pixels, 40);
    // One look, as it was before parts.
    let mut fast = self::finder((4000, 3000), Wanted { detail: Detail::Fast, ..Wanted::default() });
    assert_eq!(see(&mut fast, &photo), [1]);
    let (faces, searched) = fast.finish();
    assert_eq!((faces.len(), searched), (0, Searched { min_face_pixels: 150, looks: 1 }));
}

#[test]
fn turned_faces_are_looked_at_in_four_turns() {
    for turn in [Turn::Quarter, Turn::Half, Turn::ThreeQuarters] {
        let mut finder = finder((400, 300), Wanted::default());
        assert_eq!(see(&mut finder, &[(200.0, 150.0, 120.0, turn)]), [1, 4, 1, 1], "{turn:?}");
        let (faces, _) = finder.finish();
        assert_eq!(faces.len(), 1);
        assert_eq!((faces[0].turned, faces[0].doubtful), (turn, false));
        let expected = face(200.0, 150.0, 120.0, turn, 0.999);
        for (point, expected) in faces[0].detection.landmarks.points().iter().zip(expected.landmarks.points()) {
            assert!((point.x - expected.x).hypot(point.y - expected.y) < 0.01, "{turn:?} {point:?} {expected:?}");
        }
    }
}

#[test]
fn a_photo_that_lies_on_its_side_has_all_its_faces() {
    let photo = [(350.0, 150.0, 120.0, Turn::Quarter), (150.0, 300.0, 60.0, Turn::Quarter)];
    let mut finder = finder((600, 400), Wanted::default());
    // The smaller one leaves no hint but in the turn in which it is upright.
    let blind = |look: &Look, face: &(f32, f32, f32, Turn)| look.turn() == face.3 || face.2 > 100.0;
    loop {
        let looks = finder.next_looks();
        if looks.is_empty() {
            break;
        }
        for look in looks {
            let found: Vec<_> =
                photo.iter().filter(|face| blind(&look, face)).filter_map(|face| seen(&look, *face)).collect();
            finder.note_faces(&look, &found, DetectorKind::RetinaFace);
        }
    }
    assert_eq!(finder.finish().0.iter().map(|face| face.turned).collect::<Vec<_>>(), [Turn::Quarter; 2]);
}

#[test]
fn small_turned_faces_are_looked_at_closer_first() {
    let mut finder = finder((3000, 2000), Wanted::default());
    let steps = see(&mut finder, &[(700.0, 650.0, 40.0, Turn::Quarter), (2000.0, 1200.0, 300.0, Turn::Upright)]);
    assert_eq!(steps[1..], [1, 1, 4, 1], "{steps:?}");
    let (faces, _) = finder.finish();
    assert_eq!(faces.iter().map(|face| face.turned).collect::<Vec<_>>(), [Turn::Upright, Turn::Quarter]);
}

#[test]
fn parts_are_left_out_when_enough_is_found() {
    let large = (2000.0, 1500.0, 900.0, Turn::Upright);
    let mut one = finder((4000, 3000), Wanted::one());
    assert_eq!(see(&mut one, &[large]), [1]);
    // The largest is too small for the base look.
    let mut one = finder((4000, 3000), Wanted::one());
    let steps = see(&mut one, &[(2000.0, 1500.0, 60.0, Turn::Upright)]);
    assert!(steps.len() == 4 && steps[0] == 1 && steps[2..] == [1, 1], "{steps:?}");
    assert_eq!(one.finish().0.len(), 1);
}

#[test]
fn a_photo_without_a_face_is_looked_at_in_four_turns() {
    let mut finder = finder((640, 480), Wanted::default());
    assert_eq!(see(&mut finder, &[]), [1, 4]);
    assert_eq!(finder.finish().0, []);
}

/// Whatever the photo and the base size, the images of a step fit into what was said.
#[test]
fn the_images_of_every_step_fit_into_the_memory_that_was_said() {
    for (size, base) in
        [((250, 250), 640), ((4000, 3000), 640), ((6000, 300), 2560), ((600, 600), 2560), ((20, 9000), 64)]
    {
        for detail in [Detail::Fast, Detail::Auto, Detail::Full] {
            for photo in
                [vec![], vec![(size.0 as f32 / 2.0, size.1 as f32 / 2.0, 15.0 * size.1 as f32 / 100.0, Turn::Half)]]
            {
                let mut finder =
                    Finder::new(size, base, DetectOptions::default(), Wanted { detail, ..Wanted::default() });
                let memory = finder.memory();
                assert!(memory <= Finder::most_memory(base), "{size:?} {base}");
                loop {
                    let looks = finder.next_looks();
                    if looks.is_empty() {
                        break;
                    }
                    let drawn: u64 = looks.iter().map(|look| 3 * look.area()).sum();
                    assert!(drawn <= memory, "{size:?} {base} {detail:?}: {drawn} of {memory}");
                    for look in looks {
                        let found: Vec<_> = photo.iter().filter_map(|face| seen(&look, *face)).collect();
                        finder.note_faces(&look, &found, DetectorKind::RetinaFace);
                    }
                }
            }
        }
    }
}

#[test]
fn second_looks_have_a_bound() {
    let crowd: Vec<_> = (0..4000)
        .map(|n| (10.0 + 20.0 * (n % 80) as f32, 10.0 + 20.0 * (n / 80) as f32, 19.0, Turn::Upright))
        .collect();
    let mut finder = finder((1600, 1200), Wanted::default());
    let first = finder.first.area();
    let steps = see(&mut finder, &crowd);
    let glance = u64::from(Kind::Glance.window().0).pow(2);
    assert!(steps[1] as u64 * glance <= 2 * first, "{steps:?}");
}

#[test]
fn parts_cover_the_photo_and_overlap() {
    for (size, least) in [
        ((4000, 3000), None),
        ((6000, 1200), None),
        ((500, 9000), None),
        ((3840, 2160), Some(12.0)),
        ((20_000, 10_000), Some(20.0)),
    ] {
        let wanted = Wanted { min_face: least.map(MinFace::Pixels), ..Wanted::default() };
        let first = FirstLooks::new(size, 640, &wanted);
        assert!(first.area() < 640 * 640 + first::MOST_AREA * 3 / 2, "{size:?}");
        for n in 0..400 {
            let (x, y) = (size.0 as f32 * (n % 20) as f32 / 19.0, size.1 as f32 * (n / 20) as f32 / 19.0);
            // One part has the place and, but beyond the photo, as much about it as a small face takes.
            let covers = |look: &Look| {
                let (x, y) = look.place_of(x, y);
                let inside = x >= -1.0 && y >= -1.0 && x <= look.width as f32 && y <= look.height as f32;
                inside && !look.cuts(&BoundingBox { x: x - 10.0, y: y - 10.0, width: 20.0, height: 20.0 })
            };
            assert!(first.parts.iter().any(covers), "{size:?} {x} {y}");
        }
    }
}

#[test]
fn what_was_searched_is_said() {
    let least = |size, wanted: Wanted| {
        let mut finder = finder(size, wanted);
        see(&mut finder, &[]);
        finder.finish().1.min_face_pixels
    };
    let auto = Wanted::default();
    assert_eq!(least((4000, 3000), auto), 40);
    assert_eq!(least((1500, 1500), auto), 20);
    assert_eq!(least((640, 640), auto), 20);
    assert_eq!(least((4000, 3000), Wanted { min_face: Some(MinFace::Share(0.05)), ..auto }), 200);
    assert_eq!(least((2000, 1000), Wanted { detail: Detail::Full, ..auto }), 14);
    // Not more pixels than the bound, whatever is asked for.
    assert!(least((20_000, 10_000), Wanted { min_face: Some(MinFace::Pixels(1.0)), ..auto }) > 80);
}

#[test]
fn smaller_faces_than_wanted_are_left_out() {
    let photo = [(200.0, 200.0, 150.0, Turn::Upright), (500.0, 300.0, 60.0, Turn::Upright)];
    let mut finder = finder((640, 480), Wanted { min_face: Some(MinFace::Pixels(100.0)), ..Wanted::default() });
    see(&mut finder, &photo);
    assert_eq!(finder.finish().0.len(), 1);
}
