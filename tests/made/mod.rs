//! Images that are small as files and large in memory, made for tests.
//!
//! Each test binary uses a part of them.
#![allow(dead_code)]

mod webp;

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
pub use webp::webp_with_codes;

/// `count` times the same bytes, deflated.
pub fn deflated(block: &[u8], count: u32) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    (0..count).for_each(|_| packed.write_all(block).unwrap());
    packed.finish().unwrap()
}

/// A grey PNG of 8 bits, all samples 0.
pub fn grey_png(side: u32) -> Vec<u8> {
    png(side, [8, 0], 1, None)
}

/// An RGBA PNG of 16 bits, all samples 0.
pub fn deep_png(side: u32) -> Vec<u8> {
    png(side, [16, 6], 8, None)
}

/// A small RGB PNG whose colour profile unpacks to so many MiB.
pub fn png_with_profile(mebibytes: u32) -> Vec<u8> {
    png(48, [8, 2], 3, Some(deflated(&vec![0; 1 << 20], mebibytes)))
}

fn png(side: u32, depth_and_colour: [u8; 2], pixel_bytes: usize, profile: Option<Vec<u8>>) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        png.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(data);
        png.extend([kind.as_slice(), data].concat());
        png.extend(crc.sum().to_be_bytes());
    };
    let size = [side.to_be_bytes(), side.to_be_bytes()].concat();
    chunk(b"IHDR", &[size.as_slice(), &depth_and_colour, &[0; 3]].concat());
    if let Some(profile) = profile {
        chunk(b"iCCP", &[b"profile\0\0", profile.as_slice()].concat());
    }
    chunk(b"IDAT", &deflated(&vec![0; 1 + side as usize * pixel_bytes], side));
    chunk(b"IEND", &[]);
    png
}

/// A GIF of one frame, all its indices 0.
pub fn gif(canvas: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let two = |(width, height): (u16, u16)| [width.to_le_bytes(), height.to_le_bytes()].concat();
    let mut gif = [b"GIF89a".as_slice(), &two(canvas), &[0x81, 0, 0], &[90; 12]].concat();
    gif.extend([b",\0\0\0\0".as_slice(), &two(frame), &[0, 2]].concat());
    for block in lzw_of_zeros(u64::from(frame.0) * u64::from(frame.1)).chunks(255) {
        gif.push(block.len() as u8);
        gif.extend(block);
    }
    gif.extend(b"\0;");
    gif
}

/// Each code stands for one pixel more than the last, until the table is full; then the longest again and again.
fn lzw_of_zeros(pixels: u64) -> Vec<u8> {
    const CLEAR: u64 = 4;
    const END: u64 = 5;
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u64, 0);
    let mut put = |code: u64, width: u32| {
        bits |= code << count;
        count += width;
        while count >= 8 {
            bytes.push(bits as u8);
            (bits, count) = (bits >> 8, count - 8);
        }
    };
    put(CLEAR, 3);
    put(0, 3);
    let (mut left, mut code, mut width) = (pixels - 1, END + 1, 3);
    while left > 0 {
        let covered = code - END + 1;
        if covered > left {
            put(if left > 1 { END + left - 1 } else { 0 }, width);
            break;
        }
        put(code, width);
        left -= covered;
        if code < 4095 {
            code += 1;
            width += u32::from(code == 1 << width && width < 12);
        }
    }
    put(END, width);
    put(0, 7);
    bytes
}

/// A TIFF of RGBA in 32-bit floats, all 0, deflated in strips of `rows` rows each, a divisor of the side.
pub fn float_tiff(side: u32, rows: u32) -> Vec<u8> {
    let strip = deflated(&vec![0; side as usize * 16], rows);
    let strips = side / rows;
    let mut tiff = b"II*\0\0\0\0\0".to_vec();
    (0..strips).for_each(|_| tiff.extend(&strip));
    let length = strip.len() as u32;
    let offsets: Vec<u32> = (0..strips).map(|strip| 8 + strip * length).collect();
    let (short, long) = (3_u16, 4_u16);
    let fields = [
        (256_u16, long, vec![side]),
        (257, long, vec![side]),
        (258, short, vec![32; 4]),
        (259, short, vec![8]),
        (262, short, vec![2]),
        (273, long, offsets),
        (277, short, vec![4]),
        (278, long, vec![rows]),
        (279, long, vec![length; strips as usize]),
        (338, short, vec![2]),
        (339, short, vec![3; 4]),
    ];
    let mut directory = (fields.len() as u16).to_le_bytes().to_vec();
    for (tag, kind, values) in fields {
        let size = if kind == short { 2 } else { 4 };
        let mut value: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()[..size].to_vec()).collect();
        if value.len() > 4 {
            let place = (tiff.len() as u32).to_le_bytes().to_vec();
            tiff.append(&mut value);
            value = place;
        }
        value.resize(4, 0);
        directory.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        directory.extend((values.len() as u32).to_le_bytes());
        directory.extend(value);
    }
    let place = (tiff.len() as u32).to_le_bytes();
    tiff[4..8].copy_from_slice(&place);
    tiff.extend(directory);
    tiff.extend([0; 4]);
    tiff
}

/// How a JPEG says its blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scans {
    Baseline,
    /// Baseline, one plane after the other.
    OneByOne,
    Progressive,
}

/// A grey JPEG of three planes, with the sampling factors of the first; the others have 1 and 1.
pub fn jpeg(side: u16, (across, down): (u8, u8), scans: Scans) -> Vec<u8> {
    let segment =
        |marker: u8, data: &[u8]| [&[0xff, marker], (data.len() as u16 + 2).to_be_bytes().as_slice(), data].concat();
    // One code of one bit in each table: no difference to the block before, and no further coefficients.
    let zeros = |bits: u64| vec![0; bits.div_ceil(8) as usize];
    let whole = |factor: u8| u64::from(side).div_ceil(8 * u64::from(factor));
    let blocks = whole(across) * whole(down) * (u64::from(across * down) + 2);
    let (start, image) = match scans {
        Scans::Baseline => (0xc0, [segment(0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]), zeros(blocks * 2)].concat()),
        Scans::Progressive => (0xc2, [segment(0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 0, 0]), zeros(blocks)].concat()),
        Scans::OneByOne => {
            assert_eq!((across, down), (1, 1));
            let plane = |plane| [segment(0xda, &[1, plane, 0, 0, 63, 0]), zeros(blocks / 3 * 2)].concat();
            (0xc0, (1..=3).flat_map(plane).collect())
        }
    };
    let size = [[8].as_slice(), &side.to_be_bytes(), &side.to_be_bytes()].concat();
    let planes = [3, 1, across << 4 | down, 0, 2, 0x11, 0, 3, 0x11, 0];
    let tables = [0x00, 0x10].map(|table| segment(0xc4, &[[table, 1].as_slice(), &[0; 16]].concat()));
    [
        b"\xff\xd8".to_vec(),
        segment(0xdb, &[[0].as_slice(), &[1; 64]].concat()),
        segment(start, &[size.as_slice(), &planes].concat()),
        tables.concat(),
        image,
        b"\xff\xd9".to_vec(),
    ]
    .concat()
}
