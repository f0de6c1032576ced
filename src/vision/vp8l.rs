//! What the prefix codes of a lossless WebP take in memory.
//!
//! A stream may state 65,536 groups of five codes, whose tables take over a gigabyte, for an image of a few pixels. How
//! many there are and how long their codes, only the stream itself tells, so it is read up to its pixels.
//! Format: RFC 9649, section 3.

/// Symbols of the codes of a group: green, lengths of copies and colour cache; red; blue; alpha; distances.
const ALPHABETS: [usize; 5] = [280, 256, 256, 256, 40];
/// Green values and lengths of copies; symbols beyond are of the colour cache.
const LITERALS: u16 = 256;
const COPIES: u16 = 280;
/// In which order the lengths of the code for lengths come.
const LENGTH_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The most groups that a stream can state.
const MOST_GROUPS: u64 = 1 << 16;
/// Bytes of a group where nothing is known of it: tables of five codes, and a tree for all symbols of each.
const MOST_OF_GROUP: u64 = 5 * (4 << 10) + 32 * (280 + 2048 + 3 * 256 + 40);
/// Pixels of the image that says which group is used where, beyond which it is not read, and the most groups count: reading
/// it takes 4 bytes each that nobody has counted yet.
const MOST_KEPT: usize = 1 << 18;

/// Bytes that the decoder takes for the prefix codes of the image of `width` x `height` pixels in `stream`, which begins
/// after the header. What is wrong with the stream is the decoder's to say: what it takes until there is counted.
pub(super) fn tables(stream: &[u8], width: usize, height: usize) -> u64 {
    let mut bytes = 0;
    let _end = count(&mut Bits { stream, at: 0 }, width, height, &mut bytes);
    bytes
}

fn count(bits: &mut Bits, width: usize, height: usize, bytes: &mut u64) -> Option<()> {
    let width = transforms(bits, width, height)?;
    let cache = bits.cache()?;
    let mut groups = 1;
    if bits.read(1)? == 1 {
        let (width, height) = bits.blocks(width, height)?;
        if width * height > MOST_KEPT {
            *bytes = MOST_GROUPS * MOST_OF_GROUP;
            return None;
        }
        let which = image(bits, width, height, true)?;
        groups += which.iter().map(|pixel| pixel >> 8 & 0xffff).max().unwrap_or(0);
    }
    for _ in 0..groups {
        for code in bits.group(cache)? {
            *bytes += code.bytes();
        }
    }
    Some(())
}

/// Reads past what is done to the pixels, each kind once at most; the width that is left of the image.
fn transforms(bits: &mut Bits, mut width: usize, height: usize) -> Option<usize> {
    let mut seen = [false; 4];
    while bits.read(1)? == 1 {
        let kind = bits.read(2)?;
        if std::mem::replace(&mut seen[kind as usize], true) {
            return None;
        }
        match kind {
            0 | 1 => {
                let (width, height) = bits.blocks(width, height)?;
                image(bits, width, height, false)?;
            }
            2 => {}
            _ => {
                let colours = bits.read(8)? as usize + 1;
                image(bits, colours, 1, false)?;
                let packed = [(2, 8), (4, 4), (16, 2)].iter().find(|(most, _)| colours <= *most);
                width = width.div_ceil(packed.map_or(1, |(_, pixels)| *pixels));
            }
        }
    }
    Some(width)
}

/// Reads an image that has one group of codes; its pixels as ARGB if they are `kept`, else none.
fn image(bits: &mut Bits, width: usize, height: usize, kept: bool) -> Option<Vec<u32>> {
    let cache = bits.cache()?;
    let codes = bits.group(cache)?;
    let [green, red, blue, alpha, distance] = codes.each_ref();
    let total = width * height;
    let mut pixels = Vec::with_capacity(if kept { total } else { 0 });
    let mut colours = vec![0; cache.map_or(0, |bits| 1 << bits)];
    let mut done = 0;
    while done < total {
        let symbol = green.symbol(bits)?;
        let first = pixels.len();
        let mut length = 1;
        if symbol < LITERALS {
            let [red, blue, alpha] = [red.symbol(bits)?, blue.symbol(bits)?, alpha.symbol(bits)?].map(u32::from);
            pixels.extend(kept.then_some(alpha << 24 | red << 16 | u32::from(symbol) << 8 | blue));
        } else if symbol < COPIES {
            length = bits.length(symbol - LITERALS)?;
            let code = distance.symbol(bits)?;
            let back = distance_of(bits.length(code)?, width);
            if back > done || length > total - done {
                return None;
            }
            if kept {
                (0..length).for_each(|_| pixels.push(pixels[pixels.len() - back]));
            }
        } else {
            let colour = *colours.get(usize::from(symbol - COPIES))?;
            pixels.extend(kept.then_some(colour));
        }
        if let Some(cache) = cache {
            for pixel in &pixels[first..] {
                colours[(0x1e35_a7bd_u32.wrapping_mul(*pixel) >> (32 - cache)) as usize] = *pixel;
            }
        }
        done += length;
    }
    Some(pixels)
}

/// How many pixels back a distance leads: small ones name a neighbour, above or to the left.
fn distance_of(distance: usize, width: usize) -> usize {
    match NEIGHBOURS.get(distance - 1) {
        Some((left, up)) => (isize::from(*left) + isize::from(*up) * width as isize).max(1) as usize,
        None => distance - NEIGHBOURS.len(),
    }
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    stream: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, at most 32, the first as the lowest; `None` at the end.
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for bit in 0..count {
            value |= u32::from(self.stream.get(self.at / 8)? >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Some(value)
    }

    /// Width and height in blocks, whose side comes first.
    fn blocks(&mut self, width: usize, height: usize) -> Option<(usize, usize)> {
        let side = 4 << self.read(3)?;
        Some((width.div_ceil(side), height.div_ceil(side)))
    }

    /// Bits of an index of the colour cache, if there is one.
    fn cache(&mut self) -> Option<Option<u32>> {
        if self.read(1)? == 0 {
            return Some(None);
        }
        let bits = self.read(4)?;
        (1..=11).contains(&bits).then_some(Some(bits))
    }

    /// The length, or distance, that begins with this symbol.
    fn length(&mut self, symbol: u16) -> Option<usize> {
        if symbol < 4 {
            return Some(usize::from(symbol) + 1);
        }
        let extra = u32::from(symbol - 2) / 2;
        let offset = (2 + usize::from(symbol) % 2) << extra;
        Some(offset + self.read(extra)? as usize + 1)
    }

    fn group(&mut self, cache: Option<u32>) -> Option<[Code; 5]> {
        let mut alphabets = ALPHABETS;
        alphabets[0] += cache.map_or(0, |bits| 1 << bits);
        let [green, red, blue, alpha, distance] = alphabets;
        Some([self.code(green)?, self.code(red)?, self.code(blue)?, self.code(alpha)?, self.code(distance)?])
    }

    fn code(&mut self, alphabet: usize) -> Option<Code> {
        if self.read(1)? == 1 {
            let two = self.read(1)? == 1;
            let width = if self.read(1)? == 1 { 8 } else { 1 };
            let mut symbols = vec![self.read(width)? as u16];
            if two {
                symbols.push(self.read(8)? as u16);
            }
            let mut counts = [0; 16];
            counts[1] = symbols.len();
            return symbols.iter().all(|symbol| usize::from(*symbol) < alphabet).then_some(Code { counts, symbols });
        }
        let mut lengths = [0; LENGTH_ORDER.len()];
        for &symbol in LENGTH_ORDER.iter().take(4 + self.read(4)? as usize) {
            lengths[symbol] = self.read(3)? as u8;
        }
        let lengths = self.lengths(&Code::of_lengths(&lengths)?, alphabet)?;
        Code::of_lengths(&lengths)
    }

    /// The lengths of a code, themselves written by a code.
    fn lengths(&mut self, code: &Code, alphabet: usize) -> Option<Vec<u8>> {
        let mut left = alphabet;
        if self.read(1)? == 1 {
            let width = 2 + 2 * self.read(3)?;
            left = self.read(width)? as usize + 2;
        }
        let mut lengths = Vec::with_capacity(alphabet);
        let mut last = 8;
        while lengths.len() < alphabet && left > 0 {
            left -= 1;
            let (length, times) = match code.symbol(self)? {
                16 => (last, 3 + self.read(2)?),
                17 => (0, 3 + self.read(3)?),
                18 => (0, 11 + self.read(7)?),
                length => (length as u8, 1),
            };
            if length != 0 {
                last = length;
            }
            lengths.extend(std::iter::repeat_n(length, times as usize));
        }
        (lengths.len() <= alphabet).then_some(lengths)
    }
}

/// A canonical prefix code: how many symbols have each length, and the symbols in the order of their codes.
struct Code {
    counts: [usize; 16],
    symbols: Vec<u16>,
}

impl Code {
    /// The code whose symbols have these lengths, 0 for one that does not occur; `None` unless it is complete.
    fn of_lengths(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; 16];
        let mut symbols = Vec::new();
        for length in 1..16 {
            let before = symbols.len();
            symbols.extend((0..).zip(lengths).filter(|(_, of)| **of == length).map(|(symbol, _)| symbol));
            counts[usize::from(length)] = symbols.len() - before;
        }
        let taken: usize = (1..16).map(|length| counts[length] << (15 - length)).sum();
        (symbols.len() == 1 || taken == 1 << 15).then_some(Self { counts, symbols })
    }

    fn symbol(&self, bits: &mut Bits) -> Option<u16> {
        if let [symbol] = self.symbols[..] {
            return Some(symbol);
        }
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.read(1)? as usize;
            if code - first < *count {
                return self.symbols.get(index + code - first).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }

    /// What the decoder takes for it: a table of 4 bytes for each code of up to 10 bits, two nodes of 16 bytes for each
    /// symbol with a longer one, and its place in a list that grows by doubling.
    fn bytes(&self) -> u64 {
        let place = 3 * 56;
        if self.symbols.len() == 1 {
            return place;
        }
        let longest = self.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let long: usize = self.counts[11..].iter().sum();
        place + 64 + (4 << longest.min(10)) + 32 * long as u64
    }
}

/// The neighbours that distances of 1 to 120 name: to the left (negative: to the right), and up. RFC 9649, section 3.6.2.2.
#[rustfmt::skip]
const NEIGHBOURS: [(i8, i8); 120] = [
    (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1), (2, 2), (-2, 2),
    (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (0, 4), (4, 0),
    (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3), (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4),
    (-3, 4), (4, 3), (-4, 3), (5, 0), (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2),
    (4, 4), (-4, 4), (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
    (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6), (6, 3), (-6, 3),
    (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1), (4, 6), (-4, 6), (6, 4), (-6, 4),
    (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7), (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5),
    (8, 0), (4, 7), (-4, 7), (7, 4), (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7),
    (7, 5), (-7, 5), (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of all codes of a lossless file of one chunk, which are read to their end.
    fn read(bytes: &[u8]) -> u64 {
        let sides = u32::from_le_bytes(bytes[21..25].try_into().unwrap()) as usize;
        let mut counted = 0;
        let mut bits = Bits { stream: &bytes[25..], at: 0 };
        count(&mut bits, (sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1, &mut counted).unwrap();
        counted
    }

    #[test]
    fn codes_of_files_that_an_encoder_made_are_read_to_their_end() {
        let one_group = 5 * (3 * 56 + 64 + (4 << 10));
        assert!(read(include_bytes!("../../tests/fixtures/images/webp_lossless.webp")) < one_group);
        assert!(read(include_bytes!("../../tests/fixtures/images/groups.webp")) > 2 * one_group);
    }

    /// Their images may take no bits at all for each pixel, so a stream could have them over and over.
    #[test]
    fn a_transform_comes_once() {
        // A predictor in blocks of 4x4, by codes of one symbol each, in 27 bits.
        let predictor = 1 | [7, 11, 15, 19, 23].iter().map(|at| 1 << at).sum::<u32>();
        let mut bits = Vec::new();
        (0..1000).for_each(|_| bits.extend((0..27).map(|bit| (predictor >> bit & 1) as u8)));
        let stream: Vec<u8> = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | bit)).collect();
        let mut read = Bits { stream: &stream, at: 0 };
        assert_eq!(transforms(&mut read, 4096, 4096), None);
        assert_eq!(read.at, 27 + 3, "it ends where the second one says that it is one");
    }

    #[test]
    fn an_image_of_groups_beyond_all_measure_counts_as_the_most_groups() {
        // No transform and no cache; groups by blocks of 4x4 pixels.
        assert_eq!(tables(&[0b0000_0100], 4096, 4096), MOST_GROUPS * MOST_OF_GROUP);
        assert_eq!(tables(&[0b0000_0100], 1024, 1024), 0, "it ends where the image of groups begins");
    }
}
