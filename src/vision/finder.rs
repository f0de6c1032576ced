//! What the detector is shown of a photo until its faces are found: the whole, finer parts of it, and once more whatever
//! is doubtful.
//!
//! A detector finds faces of some 24 pixels of its input surely, and hints at smaller ones with low scores. So
//!
//! 1. it sees the whole photo at the base size, and parts of it at the size at which the smallest face that is wanted
//!    leaves a hint;
//! 2. each hint, and each face too small for exact points, is drawn larger and looked at again;
//! 3. what looks like no upright face (by its score, its box and its points) is looked at in four turns;
//! 4. a photo in which nothing was found is looked at as a whole in four turns, with a border about it; one whose largest face
//!    is turned, as a whole in that turn.
//!
//! All looks of one step can be in one pass of the network. Nothing here draws or runs anything: [`Finder::next_looks`] says what
//! to look at, [`Finder::note`] is told what was found.

use super::align::misfit;
use super::detect::{DetectError, DetectOptions, detections, iou};
use super::look::{Look, Turn};
use super::quality::pose;
use super::shrink::{Scale, shrunk_size};
use crate::types::{BoundingBox, Detection, DetectorOutput, Point};

mod first;
#[cfg(test)]
mod tests;

pub use first::{Detail, MinFace, Wanted};

use first::FirstLooks;

/// Faces of at least so many pixels of the detector's input (the shorter side of the box) are found as they are: at a score of
/// 0.8, 98 % of 100 faces of Labeled Faces in the Wild that were shrunk to 24 pixels, 72 % of 20, all of 30.
const SURE: f32 = 24.0;

/// Faces of at least so many pixels leave a hint: a score of at least [`PART_HINT`] for 98 % of the same faces.
const HINTED: f32 = 18.0;

/// Scores from which on something is a hint: in parts, and in the base look, where faces are larger.
const PART_HINT: f32 = 0.02;
const BASE_HINT: f32 = 0.05;

/// The same for what is not small: it is rarely a face, and four looks are dear. The second is for photos without a clear face.
const LARGE_HINT: f32 = 0.3;
const LARGE_HINT_ALONE: f32 = 0.05;

/// Points of smaller faces, by the longer side of the box in pixels of the look, are too coarse: faces of 40 pixels of a photo
/// of 4000 had a median similarity of 0.55 to the whole photo by the points of the first look, 0.90 by those of the second.
const EXACT: f32 = 32.0;

/// Of the score of a clear face. Of faces of 40 pixels and more on large photos that finer looks found, 19 in 20 have at least
/// 0.99; of five things on photos of 20 to 36 megapixels that are none, all have less than 0.91.
const NEARLY_CLEAR: f32 = 0.93;

/// The window about a face that is looked at again, in longer sides of its box, and its pixels on a side: closer, and turned.
const SPAN: f32 = 2.5;
const CLOSER: u32 = 96;
const TURNED: u32 = 128;

/// The side of a photo with a border about it, in longer sides of the photo.
const BORDERED: f32 = 1.2;

/// Second looks take as many pixels of the detector's input as the first ones, or so many if those are fewer.
const LEAST_SECOND_AREA: u64 = 512 << 10;

/// A face that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// In pixels of the photo.
    pub detection: Detection,
    /// By how much it stands turned clockwise.
    pub turned: Turn,
    /// Its score, its box or its points are not those of a face, whichever way it was turned.
    pub doubtful: bool,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Searched {
    /// Width of the smallest faces that were looked for, in pixels of the photo.
    pub min_face_pixels: u32,
    /// Images that the detector was shown.
    pub looks: u32,
}

/// Something that may be a face.
#[derive(Debug, Clone)]
struct Seen {
    found: Found,
    /// Above this score it is a face, and not merely a hint.
    least: f32,
    /// Longer side of its box in pixels of the look.
    in_look: f32,
    look: Kind,
    /// It was looked at again.
    again: bool,
    /// That gave a face.
    replaced: bool,
}

/// In the order in which they are looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    First,
    Closer,
    Turned,
}

impl Seen {
    fn is_face(&self) -> bool {
        self.found.detection.score > self.least
    }
}

/// Finds the faces of one photo.
pub struct Finder {
    size: (u32, u32),
    base_side: u32,
    options: DetectOptions,
    wanted: Wanted,
    first: FirstLooks,
    seen: Vec<Seen>,
    begun: bool,
    turned_whole: bool,
    looks: u32,
    /// Pixels that are left for second looks.
    area: u64,
    scanned: bool,
}

impl Finder {
    /// For an upright photo of `size` pixels that the detector first sees with sides of at most `base_side` pixels.
    pub fn new(size: (u32, u32), base_side: u32, options: DetectOptions, wanted: Wanted) -> Self {
        let first = FirstLooks::new(size, base_side, &wanted);
        let area = first.area().max(LEAST_SECOND_AREA);
        Self {
            size,
            base_side,
            options,
            wanted,
            first,
            seen: Vec::new(),
            begun: false,
            turned_whole: false,
            looks: 0,
            area,
            scanned: false,
        }
    }

    /// The most bytes of memory that the images of its looks take.
    pub fn memory(&self) -> u64 {
        // The photo shrunk for the finest parts and these; else the images of a later step.
        let whole = u64::from(self.turned_side()).pow(2);
        let in_turns = 4 * u64::from(self.side_in_turns()).pow(2);
        3 * (2 * self.first.area()).max(self.area).max(whole).max(in_turns)
    }

    /// The most that [`Finder::memory`] is for any photo.
    pub fn most_memory(base_side: u32) -> u64 {
        6 * (u64::from(base_side).pow(2) + first::MOST_AREA * 3 / 2) + 3 * LEAST_SECOND_AREA
    }

    /// What to look at next; nothing if all is done.
    pub fn next_looks(&mut self) -> Vec<Look> {
        let looks = self.choose();
        self.looks += looks.len() as u32;
        looks
    }

    fn choose(&mut self) -> Vec<Look> {
        if !self.begun {
            self.begun = true;
            let mut looks = if self.wanted.faces == usize::MAX { self.scan() } else { Vec::new() };
            looks.push(self.first.base.clone());
            return looks;
        }
        if !self.scanned && self.faces_now() < self.wanted.faces {
            let looks = self.scan();
            if !looks.is_empty() {
                return looks;
            }
        }
        if self.wanted.detail == Detail::Fast {
            return Vec::new();
        }
        let looks = self.second_looks();
        if !looks.is_empty() || self.turned_whole {
            return looks;
        }
        self.turned_whole = true;
        if self.faces_now() == 0 || self.wanted.detail == Detail::Full {
            return self.whole_in_turns();
        }
        self.turn_of_largest().map(|turn| self.whole_turned(turn)).into_iter().collect()
    }

    fn scan(&mut self) -> Vec<Look> {
        self.scanned = true;
        self.first.parts.clone()
    }

    /// Takes what the detector says of a look.
    pub fn note(&mut self, look: &Look, output: &DetectorOutput) -> Result<(), DetectError> {
        let min_score = match look.about {
            _ if self.wanted.detail == Detail::Fast => self.options.min_score,
            Some(_) => LARGE_HINT,
            None if look.step() < self.first.base.step() => PART_HINT,
            None => BASE_HINT,
        };
        let options = DetectOptions { min_score: min_score.min(self.options.min_score), ..self.options };
        let found = detections(output, look.width, look.height, Scale::NONE, &options)?;
        self.note_faces(look, &found, output.kind.clear_score());
        Ok(())
    }

    fn note_faces(&mut self, look: &Look, found: &[Detection], clear_score: f32) {
        for face in found.iter().filter(|face| !look.cuts(&face.bounding_box)) {
            let detection = look.to_photo(face);
            let kind = match look.about.and_then(|about| self.seen.get(about)) {
                None => Kind::First,
                Some(about) if !is_about(&about.found.detection, &detection) => continue,
                Some(_) if look.width == TURNED => Kind::Turned,
                Some(_) => Kind::Closer,
            };
            let least = self.least(look, clear_score);
            if let Some(about) = look.about.and_then(|about| self.seen.get_mut(about)) {
                about.replaced |= face.score > least;
            }
            let found = Found { detection, turned: look.turn(), doubtful: is_doubtful(face, clear_score) };
            let in_look = longer_side(&face.bounding_box);
            self.seen.push(Seen { found, least, in_look, look: kind, again: false, replaced: false });
        }
    }

    /// The score of a face in a look. Those that the base look did not show have to be clearer: a large photo has many parts,
    /// and each could have something that looks a little like a face.
    fn least(&self, look: &Look, clear_score: f32) -> f32 {
        let strict = self.options.min_score.max(NEARLY_CLEAR * clear_score);
        match look.about.and_then(|about| self.seen.get(about)) {
            Some(about) if about.is_face() => about.least,
            None if *look == self.first.base => self.options.min_score,
            _ => strict,
        }
    }

    fn faces_now(&self) -> usize {
        self.merged().into_iter().filter(|number| self.seen[*number].is_face()).count()
    }

    /// Numbers of what was seen, each thing once: of those that overlap the clearest, else the last looked at.
    fn merged(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.seen.len()).filter(|number| !self.seen[*number].replaced).collect();
        let is_clear = |seen: &Seen| seen.is_face() && !seen.found.doubtful && seen.in_look >= EXACT;
        let key = |number: &usize| {
            let seen = &self.seen[*number];
            ((is_clear(seen), seen.is_face(), seen.look), seen.found.detection.score)
        };
        numbers.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        let mut kept: Vec<usize> = Vec::new();
        for number in numbers {
            let face = &self.seen[number].found.detection.bounding_box;
            let is_new =
                |other: &usize| !is_same(&self.seen[*other].found.detection.bounding_box, face, self.options.nms_iou);
            if kept.iter().all(is_new) {
                kept.push(number);
            }
        }
        kept
    }

    /// Closer and turned looks at what was not looked at again yet, the likeliest first, as far as there are pixels left.
    fn second_looks(&mut self) -> Vec<Look> {
        let merged = self.merged();
        let has_clear = merged.iter().any(|number| {
            let seen = &self.seen[*number];
            seen.is_face() && !seen.found.doubtful
        });
        let least = if has_clear && self.wanted.detail != Detail::Full { LARGE_HINT } else { LARGE_HINT_ALONE };
        let mut looks = Vec::new();
        for number in merged {
            let Some((pixels, turns)) = self.doubt(&self.seen[number], least) else { continue };
            let area = u64::from(pixels).pow(2) * turns.len() as u64;
            if area > self.area {
                break;
            }
            self.area -= area;
            self.seen[number].again = true;
            let face = self.seen[number].found.detection.bounding_box;
            let side = SPAN * longer_side(&face);
            let window = |turn: &Turn| Look::window(centre(&face), side, pixels, *turn).about(number);
            looks.extend(turns.iter().map(window));
        }
        looks
    }

    /// How something should be looked at again: pixels of the window's side, and its turns.
    fn doubt(&self, seen: &Seen, least: f32) -> Option<(u32, Vec<Turn>)> {
        let odd = seen.found.doubtful || !seen.is_face();
        match seen.look {
            _ if seen.again => None,
            Kind::Turned => None,
            Kind::Closer => odd.then(|| (TURNED, Turn::ALL.to_vec())),
            Kind::First if seen.in_look < EXACT => Some((CLOSER, vec![seen.found.turned])),
            Kind::First => (odd && seen.found.detection.score > least).then(|| (TURNED, Turn::ALL.to_vec())),
        }
    }

    /// By how much the largest face is turned, if it is: then the photo may lie on its side, and with it all others.
    fn turn_of_largest(&self) -> Option<Turn> {
        let faces = self.merged().into_iter().map(|number| &self.seen[number]).filter(|seen| seen.is_face());
        let area = |seen: &&Seen| seen.found.detection.bounding_box.area();
        let largest = faces.max_by(|a, b| area(a).total_cmp(&area(b)))?;
        (largest.found.turned != Turn::Upright).then_some(largest.found.turned)
    }

    /// The photo at the base size.
    fn whole_turned(&self, turn: Turn) -> Look {
        Look::window(self.middle(), self.longest() as f32, self.turned_side(), turn)
    }

    /// Pixels of a side of that.
    fn turned_side(&self) -> u32 {
        self.longest().min(self.base_side)
    }

    fn longest(&self) -> u32 {
        self.size.0.max(self.size.1)
    }

    fn middle(&self) -> Point {
        Point { x: (self.size.0 as f32 - 1.0) / 2.0, y: (self.size.1 as f32 - 1.0) / 2.0 }
    }

    /// The photo in the middle of a black border, at less than half of the base size.
    fn whole_in_turns(&self) -> Vec<Look> {
        let (side, pixels) = (BORDERED * self.longest() as f32, self.side_in_turns());
        Turn::ALL.iter().map(|turn| Look::window(self.middle(), side, pixels, *turn)).collect()
    }

    /// Pixels of a side of one of these.
    fn side_in_turns(&self) -> u32 {
        let side = (BORDERED * self.longest() as f32).min(0.4 * self.base_side as f32);
        ((side / 32.0).ceil() as u32).max(1) * 32
    }

    /// The faces, largest first, and what was looked at.
    pub fn finish(self) -> (Vec<Found>, Searched) {
        let least = self.wanted.min_face.map_or(0.0, |least| least.pixels(self.size));
        let faces = self.merged().into_iter().map(|number| &self.seen[number]).filter(|seen| seen.is_face());
        let mut faces: Vec<Found> =
            faces.map(|seen| seen.found).filter(|face| shorter_side(&face.detection.bounding_box) >= least).collect();
        let area = |face: &Found| face.detection.bounding_box.area();
        faces.sort_by(|a, b| area(b).total_cmp(&area(a)));
        let finest = if self.scanned { self.first.step() } else { self.first.base.step() };
        let in_look = if self.wanted.detail == Detail::Fast { SURE } else { HINTED };
        let min_face_pixels = (in_look * finest).max(least).ceil() as u32;
        (faces, Searched { min_face_pixels, looks: self.looks })
    }
}

/// Whether a face is not as upright faces are. Of 498 people in the news (Labeled Faces in the Wild), none is; of the same
/// photos turned by 90, 180 and 270 degrees, 99 of 100 of those that get no useful embedding are.
fn is_doubtful(face: &Detection, clear_score: f32) -> bool {
    let BoundingBox { width, height, .. } = face.bounding_box;
    let [left_eye, right_eye, ..] = face.landmarks.points();
    let between_eyes = (left_eye.x - right_eye.x).hypot(left_eye.y - right_eye.y);
    face.score < clear_score
        || width > 0.95 * height
        || between_eyes < 0.25 * width
        || pose(&face.landmarks).roll.abs() > 45.0
        || misfit(&face.landmarks) > 0.25
}

/// Whether a second look found what it was about, and not a neighbour.
fn is_about(first: &Detection, second: &Detection) -> bool {
    let centre = centre(&second.bounding_box);
    let BoundingBox { x, y, width, height } = first.bounding_box;
    let is_inside = centre.x > x && centre.x < x + width && centre.y > y && centre.y < y + height;
    is_inside || iou(&first.bounding_box, &second.bounding_box) > 0.2
}

/// Whether two boxes are of one face: they overlap by more than `max_iou`, or one lies nearly within the other.
fn is_same(a: &BoundingBox, b: &BoundingBox, max_iou: f32) -> bool {
    let overlap = iou(a, b);
    // Of the smaller one: iou = shared / (a + b - shared).
    let shared = overlap * (a.area() + b.area()) / (1.0 + overlap);
    overlap > max_iou || shared > 0.75 * a.area().min(b.area())
}

fn longer_side(face: &BoundingBox) -> f32 {
    face.width.max(face.height)
}

fn shorter_side(face: &BoundingBox) -> f32 {
    face.width.min(face.height)
}

fn centre(face: &BoundingBox) -> Point {
    Point { x: face.x + face.width / 2.0, y: face.y + face.height / 2.0 }
}
