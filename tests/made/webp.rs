//! A lossless WebP of a few pixels with as many prefix codes as its format allows.

/// Bits, the lowest of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    left: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.left == 0 {
                self.bytes.push(0);
                self.left = 8;
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (8 - self.left);
            self.left -= 1;
        }
    }

    /// A code of one symbol.
    fn single(&mut self, symbol: u8) {
        self.push(0b101, 3);
        self.push(symbol.into(), 8);
    }

    /// A code of eleven symbols with 1 to 10 bits, which the decoder reads by a table of 1,024 places.
    fn long(&mut self) {
        self.push(0, 1);
        // How many lengths of the code for lengths follow, less four. They come as 17, 18, 0, 1, 2, 3, 4, 5, 16, 6, ...:
        // three bits for lengths of 1 to 6, four for those of 7 to 10.
        self.push(10, 4);
        for length in [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4] {
            self.push(length, 3);
        }
        // Eleven lengths follow: nine, less two, in four bits.
        self.push(1, 1);
        self.push(1, 3);
        self.push(9, 4);
        for length in (1..=10).chain([10]) {
            // Codes come with their highest bit first.
            let (code, count) = if length <= 6 { (length - 1, 3) } else { (12 + length - 7, 4) };
            (0..count).rev().for_each(|bit| self.push(code >> bit & 1, 1));
        }
    }
}

/// 16 x 16 pixels with this many groups of five codes, at most 65,536.
pub fn webp_with_codes(groups: u32) -> Vec<u8> {
    const SIDE: u32 = 16;
    let mut bits = Bits::default();
    bits.push(0x2f, 8);
    bits.push(SIDE - 1, 14);
    bits.push(SIDE - 1, 14);
    bits.push(0, 4);
    // No transform, no colour cache; groups by blocks of 4 x 4 pixels.
    bits.push(0, 2);
    bits.push(1, 1);
    bits.push(0, 3);
    // The image of the groups: no cache, every pixel the last group (green its low byte, red its high one).
    let [low, high, ..] = (groups - 1).to_le_bytes();
    bits.push(0, 1);
    [low, high, 0, 0, 0].into_iter().for_each(|symbol| bits.single(symbol));
    (0..5 * groups).for_each(|_| bits.long());
    // The pixels: symbol 0 of each code has one bit.
    bits.push(0, 32);
    let mut stream = bits.bytes;
    stream.extend([0; (SIDE * SIDE * 4 / 8) as usize]);
    if stream.len() % 2 == 1 {
        stream.push(0);
    }
    let length = |bytes: usize| (bytes as u32).to_le_bytes();
    [b"RIFF".as_slice(), &length(stream.len() + 12), b"WEBPVP8L", &length(stream.len()), &stream].concat()
}
