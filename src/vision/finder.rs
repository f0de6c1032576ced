//! What the detector is shown of a photo until its faces are found: the whole, finer parts of it, and once more whatever
//! is doubtful.
//!
//! A detector finds faces of some 24 pixels of its input surely, and hints at smaller ones with low scores. So
//!
//! 1. it sees the whole photo at the base size, and parts of it at the size at which the smallest face that is wanted
//!    leaves a hint;
//! 2. each hint is drawn larger and glanced at, and each face too small for exact points is looked at closer;
//! 3. what looks like no upright face (by its score, its box and its points) is glanced at in four turns, and the best of
//!    them looked at closer;
//! 4. a photo in which nothing was found is looked at as a whole in four turns, with a border about it; one whose largest face
//!    is turned, as a whole in that turn.
//!
//! All looks of one step can be in one pass of the network. Nothing here draws or runs anything: [`Finder::next_looks`] says what
//! to look at, [`Finder::note`] is told what was found.

use super::detect::{DetectError, DetectOptions, detections};
use super::look::{Look, Turn};
use super::shrink::{Scale, shrunk_size};
use crate::types::{Detection, DetectorKind, DetectorOutput, Point};

mod first;
mod seen;
#[cfg(test)]
mod tests;

pub use first::{Detail, MinFace, Wanted};

use first::FirstLooks;
use seen::{Kind, Seen, centre, is_about, is_odd, is_same, longer_side, shorter_side};

/// Faces of at least so many pixels of the detector's input (the shorter side of the box) are found as they are: at a score of
/// 0.8, 94 to 98 % of 100 faces of Labeled Faces in the Wild that were shrunk to 24 pixels, 62 to 72 % of 20, all of 30.
const SURE: f32 = 24.0;

/// Faces of at least so many pixels leave a hint (see [`DetectorKind::hint`]).
const HINTED: f32 = 14.0;

/// Most hints of at most this score are nothing: they are glanced at first. What second looks show with less is left out.
const WEAK: f32 = 0.3;

/// What a glance gives less is none: faces of 40 and 60 pixels on photos of 4000 whose hint had
/// their size had 0.6 and more.
const GLANCED: f32 = 0.5;

/// Least scores of what is not small and no face, so that it is looked at in four turns: rarely it is a turned face. The first
/// is for photos that have a clear face. Of turned faces of Labeled Faces in the Wild, 92 % are found as poor faces, and 2 %
/// more have 0.7.
const LARGE_HINT: f32 = 0.7;
const LARGE_HINT_ALONE: f32 = 0.05;

/// Points of smaller faces, by the longer side of the box in pixels of the look, are too coarse: faces of 40 pixels of a photo
/// of 4000 had a median similarity of 0.55 to the whole photo by the points of the first look, 0.90 by those of the second.
const EXACT: f32 = 32.0;

/// Of the score of a clear face. Of faces of 40 pixels and more on large photos that finer looks found, 19 in 20 have at least
/// 0.99; of six things on photos of 20 to 36 megapixels that are none, all have less than 0.94.
const NEARLY_CLEAR: f32 = 0.95;

/// The side of a photo with a border about it, in longer sides of the photo.
const BORDERED: f32 = 1.2;

/// Second looks take twice as many pixels of the detector's input as the first ones, or so many if those are fewer.
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
        let area = (2 * first.area()).max(LEAST_SECOND_AREA);
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
        3 * self.area.max(whole).max(in_turns)
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
            Some(_) => WEAK,
            None => output.kind.hint(self.least_in(look)),
        };
        let options = DetectOptions { min_score: min_score.min(self.options.min_score), ..self.options };
        let found = detections(output, look.width, look.height, Scale::NONE, &options)?;
        self.note_faces(look, &found, output.kind);
        Ok(())
    }

    /// Pixels of the smallest faces that a first look is for.
    fn least_in(&self, look: &Look) -> f32 {
        if look.step() > self.first.step() { SURE } else { self.first.least() / look.step() }
    }

    fn note_faces(&mut self, look: &Look, found: &[Detection], detector: DetectorKind) {
        for face in found.iter().filter(|face| !look.cuts(&face.bounding_box)) {
            let least = self.least(look, detector);
            let odd = is_odd(face);
            let mut seen = Seen {
                found: Found {
                    detection: look.to_photo(face),
                    turned: look.turn(),
                    doubtful: odd || face.score < detector.clear_score(),
                },
                least,
                in_look: longer_side(&face.bounding_box),
                odd,
                look: Kind::First,
                again: None,
                replaced: false,
            };
            if let Some(about) = look.about.and_then(|about| self.seen.get_mut(about)) {
                if !is_about(&about.found.detection, &seen.found.detection) {
                    continue;
                }
                seen.look = about.again.unwrap_or(Kind::First);
                let better = seen.is_better_than(about);
                about.replaced |= better && seen.is_face();
                if about.is_face() && !better {
                    continue;
                }
            }
            self.seen.push(seen);
        }
    }

    /// The score of a face in a look. Those that the base look did not show have to be clearer: a large photo has many parts,
    /// and each could have something that looks a little like a face.
    fn least(&self, look: &Look, detector: DetectorKind) -> f32 {
        let strict = self.options.min_score.max(NEARLY_CLEAR * detector.clear_score());
        match look.about.and_then(|about| self.seen.get(about)) {
            Some(about) if about.is_face() => about.least,
            None if *look == self.first.base => self.options.min_score,
            _ => strict,
        }
    }

    /// Whether it is a face of which the detector is as sure as is wanted.
    fn is_wanted(&self, seen: &Seen) -> bool {
        seen.is_face() && seen.found.detection.score >= self.wanted.min_score
    }

    /// Which faces it looks for.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    fn faces_now(&self) -> usize {
        self.merged().into_iter().filter(|number| self.is_wanted(&self.seen[*number])).count()
    }

    /// Numbers of what was seen, each thing once: of those that overlap the clearest, else the last looked at, else one that has
    /// the shape of a face.
    fn merged(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.seen.len()).filter(|number| !self.seen[*number].replaced).collect();
        let is_clear = |seen: &Seen| seen.is_face() && !seen.found.doubtful && seen.in_look >= EXACT;
        let key = |number: &usize| {
            let seen = &self.seen[*number];
            ((is_clear(seen), seen.is_face(), seen.look, !seen.odd), seen.found.detection.score)
        };
        numbers.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        let mut kept: Vec<usize> = Vec::new();
        for number in numbers {
            let is_new = |other: &usize| !is_same(&self.seen[*other], &self.seen[number], self.options.nms_iou);
            if kept.iter().all(is_new) {
                kept.push(number);
            }
        }
        kept
    }

    /// Second looks at what was not looked at again yet, the likeliest first, as far as there are pixels left.
    fn second_looks(&mut self) -> Vec<Look> {
        let merged = self.merged();
        let has_clear = merged.iter().any(|number| {
            let seen = &self.seen[*number];
            seen.is_face() && !seen.found.doubtful
        });
        let has_clear = has_clear && self.wanted.detail != Detail::Full;
        let mut looks = Vec::new();
        for number in merged {
            let Some((kind, turns)) = doubt(&self.seen[number], has_clear) else { continue };
            let (pixels, span) = kind.window();
            let area = u64::from(pixels).pow(2) * turns.len() as u64;
            if area > self.area {
                break;
            }
            self.area -= area;
            self.seen[number].again = Some(kind);
            let face = self.seen[number].found.detection.bounding_box;
            let side = span * longer_side(&face);
            let rough = matches!(kind, Kind::Glance | Kind::Turned);
            let window = |turn: &Turn| Look::window(centre(&face), side, pixels, *turn).about(number).rough(rough);
            looks.extend(turns.iter().map(window));
        }
        looks
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
    pub fn finish(&self) -> (Vec<Found>, Searched) {
        let wanted = self.wanted.min_face.map_or(0.0, |least| least.pixels(self.size));
        let faces = self.merged().into_iter().map(|number| &self.seen[number]).filter(|seen| self.is_wanted(seen));
        let mut faces: Vec<Found> =
            faces.map(|seen| seen.found).filter(|face| shorter_side(&face.detection.bounding_box) >= wanted).collect();
        let area = |face: &Found| face.detection.bounding_box.area();
        faces.sort_by(|a, b| area(b).total_cmp(&area(a)));
        let least = if self.wanted.detail == Detail::Fast || !self.scanned {
            (SURE * self.first.base.step()).max(wanted)
        } else {
            (HINTED * self.first.step()).max(self.first.least())
        };
        let min_face_pixels = least.ceil() as u32;
        (faces, Searched { min_face_pixels, looks: self.looks })
    }
}

/// How something should be looked at again, and in which turns.
fn doubt(seen: &Seen, has_clear: bool) -> Option<(Kind, Vec<Turn>)> {
    let as_seen = vec![seen.found.turned];
    let score = seen.found.detection.score;
    match seen.look {
        _ if seen.again.is_some() => None,
        Kind::First if seen.in_look < EXACT && score <= WEAK => Some((Kind::Glance, as_seen)),
        Kind::First if seen.in_look < EXACT => Some((Kind::Closer, as_seen)),
        Kind::Glance => (score > GLANCED).then_some((Kind::Closer, as_seen)),
        Kind::First | Kind::Closer => turns_to_try(seen, has_clear).map(|turns| (Kind::Turned, turns)),
        Kind::Turned => {
            let may_be = seen.found.turned != Turn::Upright && score > GLANCED;
            (seen.is_face() || may_be).then_some((Kind::Exact, as_seen))
        }
        Kind::Exact => None,
    }
}

fn turns_to_try(seen: &Seen, has_clear: bool) -> Option<Vec<Turn>> {
    let least = if has_clear { LARGE_HINT } else { LARGE_HINT_ALONE };
    if !seen.is_face() {
        let may_be = seen.found.detection.score > least && (seen.odd || !has_clear);
        return may_be.then(|| Turn::ALL.to_vec());
    }
    if seen.odd {
        return Some(Turn::ALL.to_vec());
    }
    // Of turned faces nearly all are odd: beside a clear one, what merely has a lower score is not worth it.
    let others = || Turn::ALL.into_iter().filter(|turn| *turn != seen.found.turned).collect();
    (seen.found.doubtful && !has_clear).then(others)
}
