//! The codes and bits of the image data of a JPEG, read without a look at what they mean.

/// A prefix code: by the next bits, the symbol and the length of its code.
pub(super) struct Codes {
    short: Vec<(u8, u8)>,
    /// Of each length: the first code behind those of that length, made up to 16 bits, and where its symbols are.
    long: [(u32, i32); 17],
    symbols: Vec<u8>,
}

/// Codes of up to this many bits are looked up.
const SHORT: u32 = 9;

impl Codes {
    /// The codes of so many symbols of each length.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut short = vec![(0, 0); 1 << SHORT];
        let mut long = [(0, 0); 17];
        let (mut code, mut index) = (0_u32, 0_usize);
        for (length, count) in (1..).zip(counts) {
            long[length as usize].1 = index as i32 - code as i32;
            for _ in 0..*count {
                if code >= 1 << length {
                    return None;
                }
                if length <= SHORT {
                    let start = (code << (SHORT - length)) as usize;
                    short[start..start + (1 << (SHORT - length))].fill((*symbols.get(index)?, length as u8));
                }
                code += 1;
                index += 1;
            }
            long[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Some(Self { short, long, symbols: symbols.to_vec() })
    }

    pub fn symbol(&self, bits: &mut Bits) -> Option<u8> {
        let (symbol, length) = self.next(bits)?;
        bits.drop(length);
        Some(symbol)
    }

    /// The next symbol, and how long its code is, which is not passed yet.
    #[inline(always)]
    pub fn next(&self, bits: &mut Bits) -> Option<(u8, u32)> {
        let next = bits.peek();
        let (symbol, length) = self.short[(next >> (16 - SHORT)) as usize];
        if length > 0 { Some((symbol, length.into())) } else { self.long(next) }
    }

    fn long(&self, next: u32) -> Option<(u8, u32)> {
        let length = (SHORT + 1..=16).find(|length| next < self.long[*length as usize].0)?;
        let index = (next >> (16 - length)) as i32 + self.long[length as usize].1;
        Some((*self.symbols.get(usize::try_from(index).ok()?)?, length))
    }
}

/// Bits of image data, the highest of each byte first; behind its end, zeros.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest one.
    buffer: u64,
    /// How many of them are known; less than none once some were read that are not there.
    known: i32,
    /// A marker, or the end of the file, was reached.
    ended: bool,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, known: 0, ended: false }
    }

    #[inline(always)]
    fn fill(&mut self) {
        if self.known > 32 || self.ended {
            return;
        }
        if let Some(Ok(next)) = self.bytes.get(self.at..self.at + 4).map(<[u8; 4]>::try_from)
            && !next.contains(&0xff)
        {
            self.buffer |= u64::from(u32::from_be_bytes(next)) << (32 - self.known);
            (self.known, self.at) = (self.known + 32, self.at + 4);
            return;
        }
        self.fill_slowly();
    }

    #[cold]
    fn fill_slowly(&mut self) {
        while self.known <= 48 {
            let Some(&byte) = self.bytes.get(self.at) else { break };
            let mut next = self.at + 1;
            if byte == 0xff {
                // Any number of them may fill up.
                next += self.bytes[next..].iter().take_while(|byte| **byte == 0xff).count();
                if self.bytes.get(next) != Some(&0) {
                    break;
                }
                next += 1;
            }
            self.buffer |= u64::from(byte) << (56 - self.known);
            (self.known, self.at) = (self.known + 8, next);
        }
        self.ended = self.known <= 48;
    }

    /// The next 16 bits.
    #[inline(always)]
    fn peek(&mut self) -> u32 {
        self.fill();
        (self.buffer >> 48) as u32
    }

    /// Passes up to 32 bits after a look at the next.
    #[inline(always)]
    pub fn drop(&mut self, count: u32) {
        self.buffer <<= count;
        self.known -= count as i32;
    }

    /// After a look at the next: the number of `size` bits, at most 16, behind a code of `length`, and passes both. A number
    /// whose highest bit is 0 is negative (ITU-T T.81, F.2.2.1).
    #[inline(always)]
    pub fn value(&mut self, length: u32, size: u32) -> i32 {
        let value = (self.buffer << length).checked_shr(64 - size).unwrap_or(0) as i32;
        self.drop(length + size);
        if value < 1 << size >> 1 { value + 1 - (1 << size) } else { value }
    }

    pub fn skip(&mut self, count: u32) {
        self.fill();
        self.drop(count);
    }

    /// At most 16.
    pub fn read(&mut self, count: u32) -> u32 {
        let value = self.peek();
        self.drop(count);
        value >> (16 - count)
    }

    pub fn is_over(&self) -> bool {
        self.known < 0
    }

    /// Where the image data ends, of which the last bits were read: behind the byte that they are in.
    pub fn end(&self) -> usize {
        let mut end = self.at;
        for _ in 0..self.known / 8 {
            // A byte of ones is followed by a zero, which is none.
            end -= if end >= 2 && self.bytes[end - 2..end] == [0xff, 0] { 2 } else { 1 };
        }
        end
    }

    /// Goes on behind the next marker, if that is one of a restart.
    pub fn restart(&mut self) -> bool {
        let mut at = self.end();
        loop {
            let Some(found) = self.bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) else { return false };
            at += found + 1;
            match self.bytes.get(at) {
                Some(0 | 0xff) => {}
                Some(0xd0..=0xd7) => break,
                _ => return false,
            }
        }
        *self = Self::new(self.bytes, at + 1);
        true
    }
}
