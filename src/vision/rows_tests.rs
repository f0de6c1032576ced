//! Images that are converted row by row or part by part become what the `image` crate makes of them as a whole.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::codecs::tiff::TiffEncoder;
use image::{ColorType, DynamicImage, ImageEncoder, ImageFormat};

use super::decode::on_white;
use super::*;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 24, max_pixels: 1 << 20, max_memory: 1 << 26 };

const SIDE: (u32, u32) = (53, 37);

#[track_caller]
fn assert_same(name: &str, bytes: &[u8]) {
    let expected = on_white(image::load_from_memory(bytes).unwrap_or_else(|error| panic!("{name}: {error}")));
    let image = decode(bytes, &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(image.dimensions(), expected.dimensions(), "{name}");
    let differing = image.pixels().zip(expected.pixels()).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{name}: {differing} pixels differ");
}

fn random() -> impl FnMut() -> u32 {
    let mut state = 7_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    }
}

fn noise(colour: ColorType) -> DynamicImage {
    let mut next = random();
    let mut image = DynamicImage::new(SIDE.0, SIDE.1, colour);
    match &mut image {
        DynamicImage::ImageLuma8(image) => image.iter_mut().for_each(|v| *v = next() as u8),
        DynamicImage::ImageLumaA8(image) => image.iter_mut().for_each(|v| *v = next() as u8),
        DynamicImage::ImageRgb8(image) => image.iter_mut().for_each(|v| *v = next() as u8),
        DynamicImage::ImageRgba8(image) => image.iter_mut().for_each(|v| *v = next() as u8),
        DynamicImage::ImageLuma16(image) => image.iter_mut().for_each(|v| *v = next() as u16),
        DynamicImage::ImageLumaA16(image) => image.iter_mut().for_each(|v| *v = next() as u16),
        DynamicImage::ImageRgb16(image) => image.iter_mut().for_each(|v| *v = next() as u16),
        DynamicImage::ImageRgba16(image) => image.iter_mut().for_each(|v| *v = next() as u16),
        // A little below 0 and above 1, and one that is no number.
        DynamicImage::ImageRgb32F(image) => {
            image.iter_mut().for_each(|v| *v = (next() % 1200) as f32 / 1000.0 - 0.1);
            image.get_pixel_mut(3, 3)[0] = f32::NAN;
        }
        DynamicImage::ImageRgba32F(image) => {
            image.iter_mut().for_each(|v| *v = (next() % 1200) as f32 / 1000.0 - 0.1);
        }
        other => panic!("{:?}", other.color()),
    }
    image
}

#[test]
fn samples_of_every_depth_are_converted_alike() {
    use ColorType::{L8, L16, La8, La16, Rgb8, Rgb16, Rgb32F, Rgba8, Rgba16, Rgba32F};
    for colour in [L8, La8, Rgb8, Rgba8, L16, La16, Rgb16, Rgba16] {
        let mut bytes = Cursor::new(Vec::new());
        noise(colour).write_to(&mut bytes, ImageFormat::Png).unwrap();
        assert_same(&format!("PNG {colour:?}"), bytes.get_ref());
    }
    for colour in [L8, Rgb8, Rgba8, L16, Rgb16, Rgba16, Rgb32F, Rgba32F] {
        let (image, mut bytes) = (noise(colour), Cursor::new(Vec::new()));
        TiffEncoder::new(&mut bytes).write_image(image.as_bytes(), SIDE.0, SIDE.1, colour.into()).unwrap();
        assert_same(&format!("TIFF {colour:?}"), bytes.get_ref());
    }
}

/// The seven passes of Adam7: first column, first row, and the steps between columns and rows.
const PASSES: [[usize; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

#[test]
fn interlaced_pngs_are_put_together() {
    for (colour, depth, pixel) in [(2, 8, 3), (6, 8, 4), (0, 16, 2), (6, 16, 8), (4, 8, 2)] {
        let (width, height) = (SIDE.0 as usize, SIDE.1 as usize);
        let mut next = random();
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
        for [x, y, dx, dy] in PASSES {
            for _ in (y..height).step_by(dy) {
                let row: Vec<u8> = (0..(x..width).step_by(dx).len() * pixel).map(|_| next() as u8).collect();
                packed.write_all(&[&[0], row.as_slice()].concat()).unwrap();
            }
        }
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8; 4], data: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(&[kind, data].concat());
            png.extend([&(data.len() as u32).to_be_bytes(), kind.as_slice(), data, &crc.sum().to_be_bytes()].concat());
        };
        let size = [SIDE.0.to_be_bytes(), SIDE.1.to_be_bytes()].concat();
        chunk(b"IHDR", &[size.as_slice(), &[depth, colour, 0, 0, 1]].concat());
        chunk(b"IDAT", &packed.finish().unwrap());
        chunk(b"IEND", &[]);
        assert_same(&format!("PNG, colour {colour}, {depth} bits"), &png);
    }
}

/// A frame of 4 colours on a canvas.
fn gif(canvas: (u16, u16), frame: ::gif::Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let palette = [10, 20, 30, 200, 100, 50, 0, 0, 0];
    let mut encoder = ::gif::Encoder::new(&mut bytes, canvas.0, canvas.1, &palette).unwrap();
    encoder.write_frame(&frame).unwrap();
    drop(encoder);
    bytes
}

#[test]
fn gif_frames_are_drawn_on_their_canvas() {
    let mut next = random();
    for (canvas, left, top, width, height) in [
        ((40, 30), 0, 0, 40, 30),
        ((40, 30), 5, 7, 20, 10),
        ((40, 30), 30, 25, 20, 10),
        ((10, 10), 6, 6, 16, 16),
        ((20, 10), 0, 0, 64, 48),
    ] {
        for interlaced in [false, true] {
            let pixels: Vec<u8> = (0..width * height).map(|_| (next() % 3) as u8).collect();
            let mut frame = ::gif::Frame::from_indexed_pixels(width, height, pixels, Some(2));
            (frame.left, frame.top, frame.interlaced) = (left, top, interlaced);
            assert_same(&format!("{canvas:?} {left} {top} {width} {height} {interlaced}"), &gif(canvas, frame));
        }
    }
}

#[test]
fn a_gif_frame_beside_its_canvas_leaves_it_white() {
    let mut frame = ::gif::Frame::from_indexed_pixels(4, 4, vec![1; 16], None);
    frame.left = 25;
    let image = decode(&gif((20, 10), frame), &LIMITS).unwrap();
    assert!(image.iter().all(|value| *value == 255));
}

#[test]
fn a_gif_frame_larger_than_the_limit_is_refused() {
    let frame = ::gif::Frame::from_indexed_pixels(200, 100, vec![0; 20_000], None);
    let bytes = gif((10, 10), frame);
    let limits = DecodeLimits { max_pixels: 19_999, ..LIMITS };
    let refused = DecodeError::TooManyPixels { limit: 19_999, width: 200, height: 100 };
    assert_eq!(decode(&bytes, &limits), Err(refused));
    assert!(decode(&bytes, &DecodeLimits { max_pixels: 20_000, ..LIMITS }).is_ok());
}

/// Opacity of `alpha` everywhere but in one pixel, in every format that has any.
fn with_alpha(alpha: u8, other: u8) -> Vec<(&'static str, Vec<u8>)> {
    let DynamicImage::ImageRgba8(mut image) = noise(ColorType::Rgba8) else { unreachable!() };
    image.pixels_mut().for_each(|pixel| pixel[3] = alpha);
    image.get_pixel_mut(20, 30)[3] = other;
    let image = DynamicImage::ImageRgba8(image);
    let formats = [("PNG", ImageFormat::Png), ("BMP", ImageFormat::Bmp), ("WebP", ImageFormat::WebP)];
    let encode = |image: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let mut files: Vec<(&str, Vec<u8>)> = formats.map(|(name, format)| (name, encode(&image, format))).into();
    files.push(("TIFF", encode(&image, ImageFormat::Tiff)));
    let deep = DynamicImage::ImageRgba16(image.to_rgba16());
    files.push(("PNG, 16 bits", encode(&deep, ImageFormat::Png)));
    files
}

#[test]
fn opacity_of_nothing_but_zeros_is_none() {
    let DynamicImage::ImageRgba8(colours) = noise(ColorType::Rgba8) else { unreachable!() };
    let colours = DynamicImage::ImageRgba8(colours).into_rgb8();
    for (name, bytes) in with_alpha(0, 0) {
        assert!(decode(&bytes, &LIMITS).unwrap() == colours, "{name}");
    }
    // A single pixel that is visible makes all others invisible.
    for (name, bytes) in with_alpha(0, 255) {
        let image = decode(&bytes, &LIMITS).unwrap();
        for (x, y, pixel) in image.enumerate_pixels() {
            let expected = if (x, y) == (20, 30) { colours.get_pixel(x, y).0 } else { [255; 3] };
            assert_eq!(pixel.0, expected, "{name} at {x},{y}");
        }
    }
}
