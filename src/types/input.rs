//! What of a chip an embedder reads, and how large.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Chip;

/// Shorter sides hold no face; longer ones of an input are beyond any known network.
const SHORTEST: u32 = 16;
const LONGEST: u32 = 512;

/// The part of a chip that a network reads, in pixels of the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipCrop {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// The size that it is brought to, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSize {
    pub width: u32,
    pub height: u32,
}

impl ChipCrop {
    pub const WHOLE: Self = Self { x: 0, y: 0, width: Chip::SIDE, height: Chip::SIDE };

    /// The size of what is cut out.
    pub const fn size(self) -> InputSize {
        InputSize { width: self.width, height: self.height }
    }

    /// Says what is wrong with it, if it is no usable part of a chip.
    pub fn check(self) -> Result<(), String> {
        let fits = |start: u32, length: u32| {
            length >= SHORTEST && start.checked_add(length).is_some_and(|end| end <= Chip::SIDE)
        };
        if fits(self.x, self.width) && fits(self.y, self.height) {
            return Ok(());
        }
        let Self { x, y, width, height } = self;
        Err(format!(
            "crop: a part of the chip of {side} x {side} pixels is expected, {SHORTEST} wide and high at least; this is {width} x \
             {height} from {x}, {y}",
            side = Chip::SIDE
        ))
    }
}

impl InputSize {
    /// Says what is wrong with it, if no network can read it.
    pub fn check(self) -> Result<(), String> {
        if [self.width, self.height].iter().all(|side| (SHORTEST..=LONGEST).contains(side)) {
            return Ok(());
        }
        Err(format!("size: sides of {SHORTEST} to {LONGEST} pixels are expected; this is {self}"))
    }
}

/// As one process tells another: `x,y,width,height`.
impl fmt::Display for ChipCrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

impl FromStr for ChipCrop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text.split(',').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([x, y, width, height]) => Ok(Self { x: *x, y: *y, width: *width, height: *height }),
            _ => Err(format!("{text:?} is not x,y,width,height")),
        }
    }
}

/// `WIDTHxHEIGHT`
impl fmt::Display for InputSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for InputSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        let (width, height) = sides.ok_or_else(|| format!("{text:?} is not WIDTHxHEIGHT"))?;
        Ok(Self { width, height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_is_a_part_of_a_chip() {
        let crop = |x, y, width, height| ChipCrop { x, y, width, height };
        for usable in [ChipCrop::WHOLE, crop(8, 0, 96, 112), crop(96, 96, 16, 16)] {
            assert_eq!(usable.check(), Ok(()));
            assert_eq!(usable.to_string().parse(), Ok(usable));
        }
        for wrong in [crop(20, 0, 96, 112), crop(0, 1, 112, 112), crop(0, 0, 112, 15), crop(u32::MAX, 0, 16, 16)] {
            assert!(wrong.check().unwrap_err().contains("a part of the chip of 112 x 112"), "{wrong}");
        }
        assert!("8,0,96".parse::<ChipCrop>().is_err());
    }

    #[test]
    fn sizes_are_those_of_networks() {
        let size = |width, height| InputSize { width, height };
        assert_eq!((size(128, 96).check(), size(128, 96).to_string().parse()), (Ok(()), Ok(size(128, 96))));
        assert!(size(8, 128).check().unwrap_err().ends_with("this is 8x128"));
        assert!(size(128, 5000).check().is_err() && "128".parse::<InputSize>().is_err());
    }
}
