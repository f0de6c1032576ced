//! How usable a face is for recognition: a few rough measures, each of which says what it looks at.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::align::TEMPLATE;
use crate::types::{Chip, Detection, Landmarks, Point, Pose, Quality};

/// What may keep a face from being recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weakness {
    /// Its box or its points are not those of a face, whichever way it is turned.
    OddPoints,
    /// The detector is not sure of it.
    Unsure,
    /// The eyes are less than 14 pixels apart.
    Small,
    /// There is no detail in it.
    Blurred,
    TooDark,
    TooBright,
    /// It is nearly of one brightness.
    LowContrast,
    /// It looks far to a side, up or down.
    TurnedAway,
    /// A part of it is outside the photo.
    CutOff,
    /// None of the others: something may cover it, or it is no face.
    Unclear,
}

impl std::fmt::Display for Weakness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OddPoints => "its points are not those of a face",
            Self::Unsure => "the detector is not sure of it",
            Self::Small => "it is small",
            Self::Blurred => "it is blurred",
            Self::TooDark => "it is too dark",
            Self::TooBright => "it is too bright",
            Self::LowContrast => "it has little contrast",
            Self::TurnedAway => "it looks far to a side, up or down",
            Self::CutOff => "a part of it is outside the photo",
            Self::Unclear => "something may cover it, or it is no face",
        })
    }
}

/// From where on each part of quality is a weakness: about one in a hundred faces in the news (Labeled Faces in the Wild) has
/// each of them.
const UNSURE: f32 = 0.95;
const SMALL_EYES: f32 = 14.0;
const BLURRED: f32 = 0.35;
const DARK: f32 = 45.0;
const BRIGHT: f32 = 200.0;
const LOW_DEVIATION: f32 = 15.0;
const FAR_YAW: f32 = 50.0;
const FAR_PITCH: f32 = 45.0;
const OUTSIDE: f32 = 0.15;

/// What is weak about a face that was rated; `doubtful` says that its points are odd, `outside` which share of its chip is
/// outside the photo.
pub fn weaknesses(quality: &Quality, chip: &Chip, doubtful: bool, outside: f32) -> Vec<Weakness> {
    let mut luma = Moments::default();
    face_lumas(chip).for_each(|value| luma.add(value));
    let mean = (luma.sum / luma.count) as f32;
    let found = [
        (doubtful, Weakness::OddPoints),
        (quality.detection < UNSURE, Weakness::Unsure),
        (quality.eye_distance < SMALL_EYES, Weakness::Small),
        (quality.sharpness < BLURRED, Weakness::Blurred),
        (mean < DARK, Weakness::TooDark),
        (mean > BRIGHT, Weakness::TooBright),
        (luma.variance().sqrt() < LOW_DEVIATION, Weakness::LowContrast),
        (quality.pose.yaw.abs() > FAR_YAW || quality.pose.pitch.abs() > FAR_PITCH, Weakness::TurnedAway),
        (outside > OUTSIDE, Weakness::CutOff),
    ];
    found.into_iter().filter_map(|(is_weak, weakness)| is_weak.then_some(weakness)).collect()
}

/// Luma of the part of the chip that is rated.
fn face_lumas(chip: &Chip) -> impl Iterator<Item = f32> {
    let row = |y: usize| {
        let at = |x: usize| (y * Chip::SIDE as usize + x) * 3;
        chip.as_rgb()[at(FACE_COLUMNS.0)..at(FACE_COLUMNS.1)].as_chunks::<3>().0
    };
    (FACE_ROWS.0..FACE_ROWS.1).flat_map(move |y| row(y).iter().map(|pixel| luma(*pixel)))
}

fn luma([red, green, blue]: [u8; 3]) -> f32 {
    0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)
}

/// How far the tip of the nose stands out of the plane of eyes and mouth, in distances between the eyes, on an average
/// head (about 32 mm to 63 mm).
const NOSE_DEPTH: f32 = 0.5;

/// The way from the eyes to the mouth on an average head, in distances between the eyes.
const EYES_TO_MOUTH: f32 = 1.05;

/// Where the nose's tip lies on the way from the eyes (0) to the mouth (1) of a face that looks straight ahead. This
/// and [`EYES_TO_MOUTH`] are what the default detector finds on average in news photos (Labeled Faces in the Wild).
const NOSE_BETWEEN: f32 = 0.55;

/// The detail at which sharpness is one half. Chips of sharp news photos have a detail of 0.05 to 0.27, median 0.12;
/// after a Gaussian blur of 1, 1.5, 2 and 3 chip pixels the median is 0.029, 0.013, 0.0065 and 0.0027.
const HALF_SHARP_DETAIL: f32 = 0.0125;

/// Variance of luma (10 grey levels squared) below which a chip counts as flat: what is seen in it is noise.
const FLAT_VARIANCE: f32 = 100.0;

/// The part of the chip that sharpness looks at, from..to: eyes to mouth, without hair, background and black edges.
const FACE_COLUMNS: (usize, usize) = (16, 96);
const FACE_ROWS: (usize, usize) = (24, 104);

/// Rates the face that was detected as `detection` and drawn as `chip`.
///
/// `score` is the smallest of: the detection score; the eye distance over that of a chip (35 pixels: a smaller face
/// was enlarged), at most 1; the sharpness; one minus yaw and one minus pitch, each over 90 degrees. Roll does not
/// count, because alignment takes it out.
pub fn quality(detection: &Detection, chip: &Chip) -> Quality {
    let eye_distance = distance(detection.landmarks.left_eye, detection.landmarks.right_eye);
    let sharpness = sharpness(chip);
    let pose = pose(&detection.landmarks);
    let score = [
        detection.score,
        eye_distance / distance(TEMPLATE[0], TEMPLATE[1]),
        sharpness,
        1.0 - pose.yaw.abs() / 90.0,
        1.0 - pose.pitch.abs() / 90.0,
    ]
    .into_iter()
    .fold(1.0, f32::min)
    .max(0.0);
    Quality { score, detection: detection.score, eye_distance, sharpness, pose }
}

/// Rates a face of which there is the chip alone. What only its photo would tell is taken for good: how large it was, where it
/// looked, and how sure the detector was of it.
pub fn chip_quality(chip: &Chip) -> Quality {
    let sharpness = sharpness(chip);
    let eye_distance = distance(TEMPLATE[0], TEMPLATE[1]);
    let pose = Pose { yaw: 0.0, pitch: 0.0, roll: 0.0 };
    Quality { score: sharpness, detection: 1.0, eye_distance, sharpness, pose }
}

fn distance(a: Point, b: Point) -> f32 {
    (a.x - b.x).hypot(a.y - b.y)
}

/// 0 (nothing but blur) to nearly 1, from the chip's detail d as d / (d + [`HALF_SHARP_DETAIL`]).
///
/// Detail is the variance of the Laplacian (Pech-Pacheco et al. 2000) over the variance of luma, so that it does not
/// depend on brightness or contrast. Noise and compression artefacts count as detail.
fn sharpness(chip: &Chip) -> f32 {
    let luma: Vec<f32> = chip.as_rgb().as_chunks::<3>().0.iter().map(|pixel| luma(*pixel)).collect();
    let side = Chip::SIDE as usize;
    let (mut of_luma, mut of_laplacian) = (Moments::default(), Moments::default());
    for y in FACE_ROWS.0..FACE_ROWS.1 {
        for i in y * side + FACE_COLUMNS.0..y * side + FACE_COLUMNS.1 {
            of_luma.add(luma[i]);
            of_laplacian.add(4.0 * luma[i] - luma[i - 1] - luma[i + 1] - luma[i - side] - luma[i + side]);
        }
    }
    let detail = of_laplacian.variance() / (of_luma.variance() + FLAT_VARIANCE);
    detail / (detail + HALF_SHARP_DETAIL)
}

#[derive(Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f32) {
        self.count += 1.0;
        self.sum += f64::from(value);
        self.squares += f64::from(value).powi(2);
    }

    fn variance(&self) -> f32 {
        let mean = self.sum / self.count;
        (self.squares / self.count - mean * mean).max(0.0) as f32
    }
}

/// Head pose from where the nose lies between eyes and mouth, in the frame of the eye line. The nose stands out of the
/// face, so turning the head by an angle moves its tip by [`NOSE_DEPTH`] times the sine, while the distance that it is
/// compared with shrinks by the cosine. Heads differ: expect errors of 10 degrees.
pub(super) fn pose(landmarks: &Landmarks) -> Pose {
    let Landmarks { left_eye, right_eye, nose, left_mouth, right_mouth } = *landmarks;
    let (eyes, mouth) = (middle(left_eye, right_eye), middle(left_mouth, right_mouth));
    let roll = (right_eye.y - left_eye.y).atan2(right_eye.x - left_eye.x);
    let (sin, cos) = roll.sin_cos();
    // Along the eye line and across it, from the middle of the eyes.
    let upright = |p: Point| {
        let (x, y) = (p.x - eyes.x, p.y - eyes.y);
        (x * cos + y * sin, y * cos - x * sin)
    };
    let ((nose_x, nose_y), (mouth_x, mouth_y)) = (upright(nose), upright(mouth));
    // Where a nose that does not stand out would be.
    let (flat_x, flat_y) = (NOSE_BETWEEN * mouth_x, NOSE_BETWEEN * mouth_y);
    let yaw = (nose_x - flat_x).atan2(NOSE_DEPTH * distance(left_eye, right_eye));
    let pitch = (flat_y - nose_y).atan2(NOSE_DEPTH * mouth_y.abs() / EYES_TO_MOUTH);
    Pose { yaw: yaw.to_degrees(), pitch: pitch.to_degrees(), roll: roll.to_degrees() }
}

fn middle(a: Point, b: Point) -> Point {
    Point { x: (a.x + b.x) / 2.0, y: (a.y + b.y) / 2.0 }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::types::BoundingBox;

    /// The five points of an average head, turned and seen from far away. Angles in degrees as in [`Pose`].
    fn head(yaw: f32, pitch: f32, roll: f32, eye_distance: f32) -> Landmarks {
        let mouth = EYES_TO_MOUTH;
        let points = [
            (-0.5, 0.0, 0.0),
            (0.5, 0.0, 0.0),
            (0.0, NOSE_BETWEEN * mouth, NOSE_DEPTH),
            (-0.4, mouth, 0.0),
            (0.4, mouth, 0.0),
        ];
        let (yaw, pitch, roll) = (yaw.to_radians(), pitch.to_radians(), roll.to_radians());
        Landmarks::from(points.map(|(x, y, z): (f32, f32, f32)| {
            let (y, z) = (y * pitch.cos() - z * pitch.sin(), z * pitch.cos() + y * pitch.sin());
            let x = x * yaw.cos() + z * yaw.sin();
            let (x, y) = (x * roll.cos() - y * roll.sin(), x * roll.sin() + y * roll.cos());
            Point { x: 200.0 + eye_distance * x, y: 300.0 + eye_distance * y }
        }))
    }

    fn chip(pixel: impl Fn(f32, f32) -> f32) -> Chip {
        let image = RgbImage::from_fn(112, 112, |x, y| Rgb([pixel(x as f32, y as f32) as u8; 3]));
        Chip::try_from(image).unwrap()
    }

    /// Waves of a length in pixels.
    fn waves(length: f32) -> Chip {
        chip(|x, y| 127.0 + 60.0 * (x * std::f32::consts::TAU / length).sin() * (y / length).cos())
    }

    fn face(landmarks: Landmarks, score: f32) -> Detection {
        Detection { bounding_box: BoundingBox { x: 0.0, y: 0.0, width: 1.0, height: 1.0 }, landmarks, score }
    }

    #[test]
    fn pose_follows_the_head() {
        for yaw in [-60.0, -20.0, 0.0, 35.0] {
            let pose = pose(&head(yaw, 0.0, 0.0, 80.0));
            assert!((pose.yaw - yaw).abs() < 0.5 && pose.pitch.abs() < 0.5 && pose.roll.abs() < 0.5, "{pose:?}");
        }
        for pitch in [-40.0, -15.0, 25.0] {
            let pose = pose(&head(0.0, pitch, 0.0, 80.0));
            assert!((pose.pitch - pitch).abs() < 0.5 && pose.yaw.abs() < 0.5, "{pose:?} is not {pitch}");
        }
        for roll in [-120.0, -30.0, 15.0, 90.0] {
            let pose = pose(&head(20.0, 10.0, roll, 80.0));
            assert!((pose.roll - roll).abs() < 3.0, "{pose:?} is not {roll}");
            assert!((pose.yaw - 20.0).abs() < 5.0 && (pose.pitch - 10.0).abs() < 5.0, "{pose:?}");
        }
    }

    #[test]
    fn signs_are_those_of_the_viewer() {
        let mut turned = head(0.0, 0.0, 0.0, 50.0);
        turned.nose.x += 5.0;
        turned.nose.y -= 5.0;
        turned.right_eye.y += 5.0;
        let pose = pose(&turned);
        assert!(pose.yaw > 0.0 && pose.pitch > 0.0 && pose.roll > 0.0, "{pose:?}");
    }

    #[test]
    fn blur_lowers_sharpness() {
        let values: Vec<f32> = [3.0, 6.0, 12.0, 24.0, 48.0].map(|length| sharpness(&waves(length))).into();
        assert!(values.windows(2).all(|pair| pair[0] > pair[1]), "{values:?}");
        assert!(values[0] > 0.95 && values[4] < 0.25, "{values:?}");
        assert_eq!(sharpness(&chip(|_, _| 90.0)), 0.0);
    }

    #[test]
    fn sharpness_does_not_depend_on_contrast() {
        let contrast = |c: f32| sharpness(&chip(|x, y| 127.0 + c * (x / 2.0).sin() * (y / 3.0).cos()));
        assert!((contrast(100.0) - contrast(50.0)).abs() < 0.03, "{} {}", contrast(100.0), contrast(50.0));
    }

    #[test]
    fn the_worst_part_is_the_score() {
        let (sharp, blurred) = (waves(3.0), waves(40.0));
        let good = quality(&face(head(0.0, 0.0, 20.0, 60.0), 0.99), &sharp);
        assert!(good.score > 0.9 && good.eye_distance > 59.9 && good.eye_distance < 60.1, "{good:?}");
        let small = quality(&face(head(0.0, 0.0, 0.0, 17.6), 0.99), &sharp);
        assert!((small.score - 0.5).abs() < 0.01, "{small:?}");
        let turned = quality(&face(head(45.0, 0.0, 0.0, 60.0), 0.99), &sharp);
        assert!((turned.score - 0.5).abs() < 0.02, "{turned:?}");
        let soft = quality(&face(head(0.0, 0.0, 0.0, 60.0), 0.99), &blurred);
        assert_eq!(soft.score, soft.sharpness);
        assert_eq!(quality(&face(head(0.0, 0.0, 0.0, 60.0), 0.81), &sharp).score, 0.81);
    }

    #[test]
    fn weaknesses_say_what_is_wrong() {
        let sharp = waves(3.0);
        let good = quality(&face(head(0.0, 0.0, 0.0, 60.0), 0.999), &sharp);
        assert_eq!(weaknesses(&good, &sharp, false, 0.0), []);
        assert_eq!(weaknesses(&good, &sharp, true, 0.3), [Weakness::OddPoints, Weakness::CutOff]);
        let far = quality(&face(head(60.0, 0.0, 0.0, 12.0), 0.9), &sharp);
        assert_eq!(weaknesses(&far, &sharp, false, 0.0), [Weakness::Unsure, Weakness::Small, Weakness::TurnedAway]);
        let (night, glare) = (chip(|_, _| 10.0), chip(|_, _| 250.0));
        let of = |chip: &Chip| weaknesses(&quality(&face(head(0.0, 0.0, 0.0, 60.0), 0.999), chip), chip, false, 0.0);
        assert_eq!(of(&night), [Weakness::Blurred, Weakness::TooDark, Weakness::LowContrast]);
        assert_eq!(of(&glare), [Weakness::Blurred, Weakness::TooBright, Weakness::LowContrast]);
    }

    #[test]
    fn of_a_chip_alone_its_pixels_are_rated() {
        let (sharp, blurred) = (waves(3.0), waves(40.0));
        assert!(chip_quality(&sharp).score > 0.9 && chip_quality(&blurred).score < 0.35);
        assert_eq!(weaknesses(&chip_quality(&sharp), &sharp, false, 0.0), []);
        assert_eq!(weaknesses(&chip_quality(&blurred), &blurred, false, 0.0), [Weakness::Blurred]);
    }

    #[test]
    fn points_in_one_spot_are_rated_and_finite() {
        let rated = quality(&face(Landmarks::from([Point { x: 3.0, y: 3.0 }; 5]), 0.9), &waves(9.0));
        assert_eq!(rated.score, 0.0);
        assert!([rated.pose.yaw, rated.pose.pitch, rated.pose.roll].iter().all(|v| v.is_finite()));
    }
}
