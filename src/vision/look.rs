//! What the detector is shown of a photo: the whole or a part of it, shrunk, or a window about a face, turned.

use std::borrow::Cow;

use image::{RgbImage, imageops};

use super::align::Similarity;
use super::exposure::brighten;
use super::raster::Raster;
use super::shrink::{Scale, shrink_to};
use crate::types::{BoundingBox, Detection, Landmarks, Point};

/// By how much something stands turned clockwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Turn {
    #[default]
    Upright,
    Quarter,
    Half,
    ThreeQuarters,
}

impl Turn {
    pub const ALL: [Self; 4] = [Self::Upright, Self::Quarter, Self::Half, Self::ThreeQuarters];

    /// Cosine and sine.
    fn direction(self) -> (f64, f64) {
        match self {
            Self::Upright => (1.0, 0.0),
            Self::Quarter => (0.0, 1.0),
            Self::Half => (-1.0, 0.0),
            Self::ThreeQuarters => (0.0, -1.0),
        }
    }
}

/// One image for the detector, and where in the photo it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    /// The number of what is looked at again.
    pub(super) about: Option<usize>,
    /// It may be drawn from fewer pixels than it has: what it shows will be looked at again, if it is anything.
    rough: bool,
    view: View,
}

#[derive(Debug, Clone, PartialEq)]
enum View {
    /// A rectangle of the shrunk photo.
    Part { left: u32, top: u32, scale: Scale, whole: (u32, u32) },
    /// A square of the photo, turned so that what stands turned by `turn` is upright.
    Window { to_photo: Similarity, upright: Similarity, turn: Turn },
}

impl Look {
    /// A rectangle of `size` pixels of a photo that was shrunk from `photo` to `whole` pixels.
    pub(super) fn part((left, top): (u32, u32), size: (u32, u32), photo: (u32, u32), whole: (u32, u32)) -> Self {
        let view = View::Part { left, top, scale: Scale::between(photo, whole), whole };
        Self { width: size.0, height: size.1, about: None, rough: false, view }
    }

    /// A square about `centre` with sides of `side` pixels of the photo, drawn with `pixels` on each side.
    pub(super) fn window(centre: Point, side: f32, pixels: u32, turn: Turn) -> Self {
        let step = f64::from(side) / f64::from(pixels);
        let middle = (f64::from(pixels) - 1.0) / 2.0;
        let to_photo = |turn: Turn| {
            let (cos, sin) = turn.direction();
            let (a, b) = (cos * step, sin * step);
            let tx = f64::from(centre.x) - (a - b) * middle;
            let ty = f64::from(centre.y) - (b + a) * middle;
            Similarity { a, b, tx, ty }
        };
        let view = View::Window { to_photo: to_photo(turn), upright: to_photo(Turn::Upright), turn };
        Self { width: pixels, height: pixels, about: None, rough: false, view }
    }

    /// The same look, again at what has this number.
    pub(super) fn about(self, number: usize) -> Self {
        Self { about: Some(number), ..self }
    }

    /// The same look, drawn from whatever pixels there are.
    pub(super) fn rough(self, rough: bool) -> Self {
        Self { rough, ..self }
    }

    /// From how coarse a photo it can be drawn: so many of the photo's pixels on each side may be one.
    pub fn coarsest(&self) -> f32 {
        if self.rough { f32::INFINITY } else { self.step() }
    }

    /// Pixels of the photo, on a side, for one of the look.
    pub(super) fn step(&self) -> f32 {
        match &self.view {
            View::Part { scale, .. } => 1.0 / scale.x.max(scale.y),
            View::Window { to_photo, .. } => to_photo.scale() as f32,
        }
    }

    pub(super) fn turn(&self) -> Turn {
        match self.view {
            View::Part { .. } => Turn::Upright,
            View::Window { turn, .. } => turn,
        }
    }

    /// Where a point of the photo is in the look.
    #[cfg(test)]
    pub(super) fn place_of(&self, x: f32, y: f32) -> (f32, f32) {
        match &self.view {
            View::Part { left, top, scale, .. } => {
                ((x + 0.5) * scale.x - 0.5 - *left as f32, (y + 0.5) * scale.y - 0.5 - *top as f32)
            }
            View::Window { to_photo, .. } => {
                let (x, y) = to_photo.inverse().apply(f64::from(x), f64::from(y));
                (x as f32, y as f32)
            }
        }
    }

    pub(super) fn area(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether a box, in pixels of the look, reaches over an edge behind which the photo goes on.
    pub(super) fn cuts(&self, found: &BoundingBox) -> bool {
        let View::Part { left, top, whole, .. } = self.view else { return false };
        let BoundingBox { x, y, width, height } = *found;
        (left > 0 && x < 0.0)
            || (top > 0 && y < 0.0)
            || (left + self.width < whole.0 && x + width > self.width as f32)
            || (top + self.height < whole.1 && y + height > self.height as f32)
    }

    /// A face in pixels of the photo that was found in pixels of the look.
    ///
    /// Pixel centres are whole numbers in both, and the centre of a shrunk pixel is that of the block that it averages:
    /// hence the half pixels.
    pub(super) fn to_photo(&self, found: &Detection) -> Detection {
        let point = |p: Point| match &self.view {
            View::Part { left, top, scale, .. } => {
                Point { x: (p.x + *left as f32 + 0.5) / scale.x - 0.5, y: (p.y + *top as f32 + 0.5) / scale.y - 0.5 }
            }
            View::Window { to_photo, .. } => {
                let (x, y) = to_photo.apply(f64::from(p.x), f64::from(p.y));
                Point { x: x as f32, y: y as f32 }
            }
        };
        let BoundingBox { x, y, width, height } = found.bounding_box;
        let (a, b) = (point(Point { x, y }), point(Point { x: x + width, y: y + height }));
        Detection {
            bounding_box: BoundingBox {
                x: a.x.min(b.x),
                y: a.y.min(b.y),
                width: (a.x - b.x).abs(),
                height: (a.y - b.y).abs(),
            },
            landmarks: Landmarks::from(found.landmarks.points().map(point)),
            score: found.score,
        }
    }
}

/// Draws looks at a photo, each beside its image. Parts of nearly one colour are left out: no face can be in them.
pub fn draw(photo: &Raster, looks: Vec<Look>) -> Vec<(Look, RgbImage)> {
    let mut shrunk: Option<Cow<RgbImage>> = None;
    let mut window: Option<(Similarity, RgbImage)> = None;
    let mut drawn = Vec::with_capacity(looks.len());
    for look in looks {
        let image = match look.view {
            View::Window { upright, turn, .. } => {
                // All turns of a window come one after the other.
                let known = window.take().filter(|(of, image)| *of == upright && image.width() == look.width);
                let (_, image) = window.insert(known.unwrap_or_else(|| {
                    let mut image = photo.window(&upright, look.width);
                    brighten(&mut image);
                    (upright, image)
                }));
                match turn {
                    Turn::Upright => image.clone(),
                    Turn::Quarter => imageops::rotate270(image),
                    Turn::Half => imageops::rotate180(image),
                    Turn::ThreeQuarters => imageops::rotate90(image),
                }
            }
            View::Part { left, top, whole, .. } => {
                // Those of the finest come first, and the coarser ones are made of them.
                let shrunk = match shrunk.take() {
                    Some(finer) if finer.dimensions() == whole => shrunk.insert(finer),
                    Some(finer) if finer.width() >= whole.0 && finer.height() >= whole.1 => {
                        shrunk.insert(Cow::Owned(shrink_to(&finer, whole).into_owned()))
                    }
                    _ => shrunk.insert(photo.shrunk(whole)),
                };
                if (look.width, look.height) == whole {
                    shrunk.clone().into_owned()
                } else {
                    let part = cut(shrunk, (left, top), (look.width, look.height));
                    if is_flat(&part) {
                        continue;
                    }
                    part
                }
            }
        };
        drawn.push((look, image));
    }
    drawn
}

/// A rectangle of an image, copied row by row (the image crate's own way takes it pixel by pixel).
fn cut(image: &RgbImage, (left, top): (u32, u32), (width, height): (u32, u32)) -> RgbImage {
    let mut part = RgbImage::new(width, height);
    let rows = image.as_raw().chunks_exact(3 * image.width() as usize).skip(top as usize);
    for (to, from) in part.chunks_exact_mut(3 * width as usize).zip(rows) {
        to.copy_from_slice(&from[3 * left as usize..][..to.len()]);
    }
    part
}

/// Grey levels between the darkest and the brightest pixel up to which there is nothing to see.
const FLAT_RANGE: u8 = 12;

/// Whether the green of every other pixel is nearly the same.
fn is_flat(image: &RgbImage) -> bool {
    let greens = || image.as_raw().iter().skip(1).step_by(6);
    let (least, most) = greens().fold((u8::MAX, 0), |(least, most), green| (least.min(*green), most.max(*green)));
    most.saturating_sub(least) <= FLAT_RANGE
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// Colours say where a pixel is.
    fn map(width: u32, height: u32) -> Raster {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 40])).into()
    }

    #[test]
    fn windows_show_what_they_say() {
        let photo = map(250, 200);
        for turn in Turn::ALL {
            let look = Look::window(Point { x: 100.0, y: 90.0 }, 60.0, 120, turn);
            let (look, image) = draw(&photo, vec![look]).swap_remove(0);
            for (x, y) in [(100.0, 90.0), (80.0, 75.0), (120.0, 80.0)] {
                let (u, v) = look.place_of(x, y);
                let seen = image.get_pixel(u.round() as u32, v.round() as u32);
                assert!(
                    (f32::from(seen[0]) - x).abs() <= 1.0 && (f32::from(seen[1]) - y).abs() <= 1.0,
                    "{turn:?} {seen:?}"
                );
            }
        }
        // What stands turned clockwise by a quarter has its top on the right.
        let look = Look::window(Point { x: 100.0, y: 90.0 }, 60.0, 60, Turn::Quarter);
        let (top_x, top_y) = look.place_of(120.0, 90.0);
        assert!((top_x - 29.5).abs() < 0.01 && (top_y - 9.5).abs() < 0.01, "{top_x} {top_y}");
    }

    #[test]
    fn parts_are_cut_from_the_shrunk_photo() {
        let photo = map(200, 100);
        let looks = vec![
            Look::part((40, 10), (50, 30), (200, 100), (100, 50)),
            Look::part((0, 0), (50, 25), (200, 100), (50, 25)),
        ];
        let drawn = draw(&photo, looks);
        let (part, image) = &drawn[0];
        let (u, v) = part.place_of(120.0, 40.0);
        assert!((f32::from(image.get_pixel(u.round() as u32, v.round() as u32)[0]) - 120.0).abs() <= 1.5);
        assert_eq!(drawn[1].1.dimensions(), (50, 25));
    }

    #[test]
    fn flat_parts_are_left_out_and_the_whole_is_not() {
        let photo = RgbImage::from_pixel(200, 100, Rgb([200, 201, 199])).into();
        let looks = vec![
            Look::part((0, 0), (100, 100), (200, 100), (200, 100)),
            Look::part((0, 0), (50, 25), (200, 100), (50, 25)),
        ];
        let drawn = draw(&photo, looks);
        assert_eq!(drawn.iter().map(|(look, _)| look.width).collect::<Vec<_>>(), [50]);
    }

    #[test]
    fn faces_over_an_inner_edge_are_cut() {
        let part = Look::part((40, 0), (50, 50), (200, 100), (100, 50));
        let at = |x: f32, y: f32| part.cuts(&BoundingBox { x, y, width: 10.0, height: 10.0 });
        assert!(at(-1.0, 20.0) && at(45.0, 20.0));
        // The photo ends above and below.
        assert!(!at(20.0, -3.0) && !at(20.0, 45.0) && !at(20.0, 20.0));
    }
}
