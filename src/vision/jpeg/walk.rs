//! Whether the image data of a JPEG is all there.
//!
//! Where data ends too early, decoders go on with zeros, and the rest of the photo is grey or smeared; where only the
//! end marker is missing, or bytes stand before it, nothing is lost. Which of both it is, nothing but reading all codes
//! tells. Their values do not matter for that, so this takes a fraction of the time of decoding.

use super::MAX_SCANS;
use super::codes::{Bits, Codes};
use super::segments::{self, END_OF_IMAGE, START_OF_IMAGE, START_OF_SCAN, Segment};

/// Components of an image that is decoded at all.
const MOST_COMPONENTS: usize = 4;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walked {
    /// Every pixel is there; the image data ends at this offset.
    Whole { end: usize },
    /// Codes are missing.
    Cut,
    /// Not understood: the decoder shall decide.
    Unknown,
}

/// Reads all codes of a file whose image has this width and height.
pub(super) fn walk(bytes: &[u8], size: (u32, u32)) -> Walked {
    Image::of_size(size).walk(bytes).unwrap_or(Walked::Unknown)
}

#[derive(Default)]
pub(super) struct Component {
    id: u8,
    /// Blocks of a unit.
    pub across: usize,
    pub down: usize,
    /// Numbers of its tables.
    pub dc: usize,
    pub ac: usize,
    pub quantiser: usize,
    /// Blocks in a row of the image, made up to whole units.
    stride: usize,
    /// Blocks that a scan of this component alone has.
    pub width: usize,
    pub height: usize,
    /// Of each block of a progressive image, which coefficients are not zero.
    set: Vec<u64>,
    /// Of each coefficient, the bits that are still to come; -1: all of it.
    missing: Missing,
}

struct Missing([i8; 64]);

impl Default for Missing {
    fn default() -> Self {
        Self([-1; 64])
    }
}

/// What the headers say.
#[derive(Default)]
pub(super) struct Image {
    /// Width and height, which bound the work.
    size: (usize, usize),
    scans: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Groups of blocks of all components, in a row and in a column.
    pub units: (usize, usize),
    /// Units between restarts, 0 for none.
    pub restart: usize,
    pub dc: [Option<Codes>; MOST_COMPONENTS],
    pub ac: [Option<Codes>; MOST_COMPONENTS],
    /// In the order in which coefficients are stored.
    pub quantisers: [Option<[u16; 64]>; MOST_COMPONENTS],
}

/// What the header of a scan says.
pub(super) struct Scan {
    pub components: Vec<usize>,
    first: u8,
    last: u8,
    /// Whether bits are added to coefficients that are known.
    refines: bool,
    low: u8,
}

impl Image {
    /// An image of this width and height, before anything is read.
    pub fn of_size((width, height): (u32, u32)) -> Self {
        Self { size: (width as usize, height as usize), ..Self::default() }
    }

    fn walk(&mut self, bytes: &[u8]) -> Option<Walked> {
        let mut at = 2;
        let mut end = None;
        while let Some(segment) = segments::segment(bytes, at) {
            at = segment.end;
            let understood = match segment.marker {
                START_OF_SCAN => match self.scan(segment.body) {
                    Some(scan) => {
                        self.scans += 1;
                        if self.scans > MAX_SCANS {
                            return None;
                        }
                        let mut bits = Bits::new(bytes, at);
                        if !self.data(&scan, &mut bits)? {
                            return Some(Walked::Cut);
                        }
                        self.note(&scan);
                        at = bits.end();
                        end = Some(at);
                        Some(())
                    }
                    None => None,
                },
                END_OF_IMAGE => {
                    // Encoders may leave out what adds little, but not a whole component.
                    let end = end.filter(|_| self.components.iter().all(|component| component.missing.0[0] >= 0));
                    return Some(end.map_or(Walked::Cut, |end| Walked::Whole { end }));
                }
                _ => self.header(&segment),
            };
            // Behind the image data may be anything.
            match (understood, end) {
                (Some(()), _) => {}
                (None, Some(_)) => break,
                (None, None) => return None,
            }
        }
        // Without an end marker, only the last bits of all coefficients show that no scan is missing. The last byte is made
        // up with ones; a zero is what a download left open.
        let all = self.components.iter().all(|component| component.missing.0 == [0; 64]);
        let end = end.filter(|end| all && (bytes[end - 1] != 0 || bytes[end - 2] == 0xff));
        Some(end.map_or(Walked::Cut, |end| Walked::Whole { end }))
    }

    /// The first scan, and where its data begins.
    pub fn first_scan(&mut self, bytes: &[u8]) -> Option<(Scan, usize)> {
        let mut at = 2;
        loop {
            let segment = segments::segment(bytes, at)?;
            at = segment.end;
            match segment.marker {
                START_OF_SCAN => return Some((self.scan(segment.body)?, at)),
                END_OF_IMAGE => return None,
                _ => self.header(&segment)?,
            }
        }
    }

    /// What stands between scans.
    fn header(&mut self, segment: &Segment) -> Option<()> {
        match segment.marker {
            0xc0..=0xc2 => self.frame(segment.marker == 0xc2, segment.body),
            0xc4 => self.tables(segment.body),
            0xdb => self.quantisers(segment.body),
            0xdd => self.restarts(segment.body),
            START_OF_IMAGE => None,
            _ => Some(()),
        }
    }

    fn quantisers(&mut self, mut body: &[u8]) -> Option<()> {
        while let [place, rest @ ..] = body {
            let wide = place >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            let value =
                |n: usize| if wide { u16::from_be_bytes([values[2 * n], values[2 * n + 1]]) } else { values[n].into() };
            *self.quantisers.get_mut(usize::from(place & 15))? = Some(std::array::from_fn(value));
            body = rest;
        }
        Some(())
    }

    fn restarts(&mut self, body: &[u8]) -> Option<()> {
        self.restart = u16::from_be_bytes(*body.first_chunk()?).into();
        Some(())
    }

    fn frame(&mut self, progressive: bool, body: &[u8]) -> Option<()> {
        let [8, h0, h1, w0, w1, count, components @ ..] = body else { return None };
        let count = usize::from(*count);
        if !self.components.is_empty() || components.len() != 3 * count || !(1..=MOST_COMPONENTS).contains(&count) {
            return None;
        }
        let (width, height) =
            (usize::from(u16::from_be_bytes([*w0, *w1])), usize::from(u16::from_be_bytes([*h0, *h1])));
        if (width, height) != self.size {
            return None;
        }
        self.progressive = progressive;
        for part in components.as_chunks::<3>().0 {
            let (across, down) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) {
                return None;
            }
            let quantiser = usize::from(part[2]);
            self.components.push(Component { id: part[0], across, down, quantiser, ..Component::default() });
        }
        let across = self.components.iter().map(|component| component.across).max()?;
        let down = self.components.iter().map(|component| component.down).max()?;
        self.units = (width.div_ceil(8 * across), height.div_ceil(8 * down));
        for component in &mut self.components {
            component.stride = self.units.0 * component.across;
            component.width = (width * component.across).div_ceil(across).div_ceil(8);
            component.height = (height * component.down).div_ceil(down).div_ceil(8);
        }
        Some(())
    }

    fn tables(&mut self, mut body: &[u8]) -> Option<()> {
        while let [place, rest @ ..] = body {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let tables = if place >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(place & 15))? = Some(Codes::new(counts, symbols)?);
            body = rest;
        }
        Some(())
    }

    fn scan(&mut self, body: &[u8]) -> Option<Scan> {
        let (count, rest) = body.split_first()?;
        let (selected, rest) = rest.split_at_checked(2 * usize::from(*count))?;
        let [first, last, bits] = *rest else { return None };
        let mut components = Vec::new();
        for pair in selected.as_chunks::<2>().0 {
            let index = self.components.iter().position(|component| component.id == pair[0])?;
            let component = &mut self.components[index];
            (component.dc, component.ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            components.push(index);
        }
        // What a baseline scan says of coefficients, no decoder listens to.
        if !self.progressive {
            return (!components.is_empty()).then_some(Scan { components, first: 0, last: 63, refines: false, low: 0 });
        }
        let fits = first <= last && last < 64 && (last == 0 || first > 0 && components.len() == 1);
        (fits && !components.is_empty()).then_some(Scan {
            components,
            first,
            last,
            refines: bits >> 4 != 0,
            low: bits & 15,
        })
    }

    /// Reads the data of a scan; whether all of it is there.
    fn data(&mut self, scan: &Scan, bits: &mut Bits) -> Option<bool> {
        let (width, height) = match scan.components[..] {
            [only] => (self.components[only].width, self.components[only].height),
            _ => self.units,
        };
        let mut run = 0;
        let mut left = self.restart;
        for unit in 0..width * height {
            if self.restart > 0 && left == 0 {
                if !bits.restart() {
                    return Some(false);
                }
                (left, run) = (self.restart, 0);
            }
            left = left.wrapping_sub(1);
            self.unit(scan, (unit % width, unit / width), &mut run, bits)?;
            if bits.is_over() {
                return Some(false);
            }
        }
        Some(true)
    }

    fn unit(&mut self, scan: &Scan, (x, y): (usize, usize), run: &mut u32, bits: &mut Bits) -> Option<()> {
        let is_only = scan.components.len() == 1;
        for index in &scan.components {
            let component = &mut self.components[*index];
            let (across, down) = if is_only { (1, 1) } else { (component.across, component.down) };
            let dc = self.dc.get(component.dc).and_then(Option::as_ref);
            let ac = self.ac.get(component.ac).and_then(Option::as_ref);
            if !self.progressive {
                (0..across * down).try_for_each(|_| baseline(dc?, ac?, bits))?;
            } else if scan.first == 0 {
                for _ in 0..across * down {
                    if scan.refines {
                        bits.skip(1)
                    } else {
                        number(dc?, bits)?
                    };
                }
            } else {
                if component.set.is_empty() {
                    component.set = vec![0; component.stride * self.units.1 * component.down];
                }
                let set = component.set.get_mut(y * component.stride + x)?;
                let range = (scan.first.into(), scan.last.into());
                if scan.refines { refined(ac?, range, set, run, bits) } else { first(ac?, range, set, run, bits) }?;
            }
        }
        Some(())
    }

    fn note(&mut self, scan: &Scan) {
        for index in &scan.components {
            let missing = &mut self.components[*index].missing.0;
            missing[usize::from(scan.first)..=usize::from(scan.last)].fill(scan.low as i8);
        }
    }
}

/// A number whose code is the count of bits that follow it.
fn number(codes: &Codes, bits: &mut Bits) -> Option<()> {
    let (size, length) = codes.next(bits)?;
    (size <= 16).then(|| bits.drop(length + u32::from(size)))
}

fn baseline(dc: &Codes, ac: &Codes, bits: &mut Bits) -> Option<()> {
    number(dc, bits)?;
    let mut at = 1;
    while at < 64 {
        let (symbol, length) = ac.next(bits)?;
        let size = u32::from(symbol & 15);
        bits.drop(length + size);
        if size == 0 && symbol != 0xf0 {
            break;
        }
        at += (symbol >> 4) + 1;
    }
    Some(())
}

/// The first bits of some coefficients of a block.
fn first(ac: &Codes, (from, to): (u32, u32), set: &mut u64, run: &mut u32, bits: &mut Bits) -> Option<()> {
    if *run > 0 {
        *run -= 1;
        return Some(());
    }
    let mut at = from;
    while at <= to {
        let symbol = u32::from(ac.symbol(bits)?);
        match (symbol >> 4, symbol & 15) {
            (15, 0) => at += 16,
            (size, 0) => {
                *run = (1 << size) - 1 + bits.read(size);
                break;
            }
            (zeros, size) => {
                bits.skip(size);
                at += zeros;
                *set |= 1_u64.checked_shl(at).unwrap_or(0);
                at += 1;
            }
        }
    }
    Some(())
}

/// One more bit of some coefficients: those that are known to be something take a bit each, wherever they are passed.
fn refined(ac: &Codes, (from, to): (u32, u32), set: &mut u64, run: &mut u32, bits: &mut Bits) -> Option<()> {
    let mut at = from;
    let before = *set;
    while *run == 0 && at <= to {
        let symbol = u32::from(ac.symbol(bits)?);
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        match (zeros, size) {
            (15, 0) => {}
            (size, 0) => {
                *run = (1 << size) + bits.read(size);
                break;
            }
            _ => bits.skip(1),
        }
        while at <= to {
            if before >> at & 1 == 1 {
                bits.skip(1);
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size > 0 && at <= to {
            *set |= 1 << at;
        }
        at += 1;
    }
    if *run > 0 {
        if at <= to {
            let left = before >> at & (u64::MAX >> (63 - (to - at)));
            (0..left.count_ones()).for_each(|_| bits.skip(1));
        }
        *run -= 1;
    }
    Some(())
}

#[cfg(test)]
mod tests;
