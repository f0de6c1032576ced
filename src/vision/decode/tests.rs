//! Decoding of the made images in tests/fixtures/images (see scripts/make_fixtures.py) and of hostile bytes.

use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use proptest::prelude::*;

use super::*;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1_000_000, max_memory: 64 << 20 };

const WHITE: [u8; 3] = [255; 3];
/// The quadrants from left to right, the upper two first.
const COLOUR: [[u8; 3]; 4] = [[220, 40, 30], [40, 200, 60], [30, 60, 210], [240, 220, 40]];
const GREY: [[u8; 3]; 4] = [[93; 3], [136; 3], [68; 3], [205; 3]];
/// Green is half transparent, yellow fully.
const ALPHA: [[u8; 3]; 4] = [COLOUR[0], [147, 227, 157], COLOUR[2], WHITE];

/// What the file says of itself.
fn read_header(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageHeader, DecodeError> {
    open(bytes, limits).map(|opened| opened.header())
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    std::fs::read(folder.join(name)).unwrap()
}

/// The images' names that begin with `prefix`.
fn fixtures(prefix: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let is_built = |name: &str| cfg!(feature = "heic") || !name.starts_with("heic");
    names.retain(|name| name.starts_with(prefix) && is_built(name));
    assert!(!names.is_empty(), "no {prefix}* in tests/fixtures/images");
    names.sort();
    names
}

/// Decodes the image and compares several points of each quadrant.
#[track_caller]
fn assert_quadrants(name: &str, expected: [[u8; 3]; 4], tolerance: u8) {
    let image = decode(&fixture(name), &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(image.dimensions(), (48, 32), "{name}");
    for (i, colour) in expected.iter().enumerate() {
        let (left, top) = (24 * (i as u32 % 2), 16 * (i as u32 / 2));
        for (x, y) in [(12, 8), (3, 3), (20, 3), (3, 12), (20, 12)] {
            let pixel = image.get_pixel(left + x, top + y).0;
            let near = pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(*b) <= tolerance);
            assert!(near, "{name} at {},{}: {pixel:?} is not {colour:?}", left + x, top + y);
        }
    }
}

#[test]
fn lossless_images_are_exact() {
    for name in [
        "png_rgb.png",
        "png_palette.png",
        "png_rgb16.png",
        "png_orientation_6.png",
        "webp_lossless.webp",
        "gif_still.gif",
        "gif_animated.gif",
        "bmp_rgb.bmp",
        "bmp_palette.bmp",
        "tiff_rgb.tiff",
        "tiff_lzw.tiff",
        "tiff_orientation_6.tiff",
        "tiff_cmyk.tiff",
        "pnm_rgb.ppm",
    ] {
        assert_quadrants(name, COLOUR, 0);
    }
    for name in
        ["png_grey.png", "png_grey16.png", "png_grey_opaque.png", "tiff_grey16.tiff", "pnm_grey.pgm", "pnm_grey16.pgm"]
    {
        assert_quadrants(name, GREY, 0);
    }
}

#[test]
fn transparency_is_laid_on_white() {
    for name in ["png_alpha.png", "tiff_alpha.tiff", "webp_lossless_alpha.webp"] {
        assert_quadrants(name, ALPHA, 0);
    }
    assert_quadrants("webp_lossy_alpha.webp", ALPHA, 10);
    assert_quadrants("gif_transparent.gif", [COLOUR[0], COLOUR[1], COLOUR[2], WHITE], 0);
}

#[test]
fn jpegs_of_every_kind_are_read() {
    for name in [
        "jpeg_baseline.jpg",
        "jpeg_444.jpg",
        "jpeg_progressive.jpg",
        "jpeg_restarts.jpg",
        "jpeg_rgb.jpg",
        "jpeg_cmyk.jpg",
        "jpeg_ycck.jpg",
    ] {
        assert_quadrants(name, COLOUR, 10);
    }
    assert_quadrants("jpeg_grey.jpg", GREY, 4);
    assert_quadrants("jpeg_grey_progressive.jpg", GREY, 4);
}

#[test]
fn lossy_webp_is_read() {
    for name in ["webp_lossy.webp", "webp_animated.webp", "webp_orientation_6.webp"] {
        assert_quadrants(name, COLOUR, 10);
    }
}

#[test]
#[cfg(feature = "heic")]
fn heic_is_read_and_turned_once() {
    assert_quadrants("heic_still.heic", COLOUR, 10);
    assert_quadrants("heic_alpha.heic", ALPHA, 10);
    assert_quadrants("heic_orientation_6.heic", COLOUR, 10);
}

#[test]
fn heic_is_named_where_it_is_not_built_in() {
    let start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    assert!(is_image(start));
    match decode(start, &LIMITS) {
        Err(DecodeError::Unsupported { reason }) if cfg!(not(feature = "heic")) => {
            assert!(reason.contains("HEIC") && reason.contains("JPEG"), "{reason}");
        }
        result => assert!(matches!(result, Err(DecodeError::Corrupt { format: Format::Heic, .. })), "{result:?}"),
    }
}

/// By how much an image is reduced, and the mean difference between its pixels and the means of the squares of the whole that
/// they stand for.
fn difference_when_reduced(name: &str, step: u32) -> (u32, u32) {
    let bytes = fixture(name);
    let open = || open(&bytes, &LIMITS).unwrap();
    let whole = open().decode().unwrap();
    let opened = open();
    assert_eq!(opened.upright_size(), whole.dimensions(), "{name}");
    let raster = opened.decode_reduced(step as f32 + 0.5).unwrap();
    assert_eq!(raster.size(), whole.dimensions(), "{name}");
    let small = raster.into_image();
    let found = whole.width() / small.width();
    let mean = |x: u32, y: u32, channel: usize| {
        let square = (0..found * found).map(|n| (x * found + n % found, y * found + n / found));
        let sum: u32 = square.map(|(x, y)| u32::from(whole.get_pixel(x, y)[channel])).sum();
        (sum / (found * found)) as u8
    };
    let differences = small
        .enumerate_pixels()
        .flat_map(|(x, y, pixel)| (0..3).map(move |channel| u32::from(pixel[channel].abs_diff(mean(x, y, channel)))));
    (found, differences.sum::<u32>() / small.len() as u32)
}

#[test]
fn a_reduced_jpeg_shows_the_means_of_squares() {
    for name in fixtures("jpeg_") {
        for step in [1, 2, 4, 8] {
            let (found, difference) = difference_when_reduced(&name, step);
            let plain = ["baseline", "444", "restarts", "grey"].iter().any(|kind| name == format!("jpeg_{kind}.jpg"));
            assert!(found == step || !plain, "{name} by {step}: {found}");
            // Colours are stored coarser than brightness, and run over the edges of the quadrants; other corners differ by 80.
            assert!(difference <= 4 + 4 * step, "{name} by {step}: {difference}");
        }
    }
    for orientation in 1..=8 {
        for step in [1, 2, 4, 8] {
            let (found, difference) = difference_when_reduced(&format!("jpeg_orientation_{orientation}.jpg"), step);
            assert_eq!(found, step, "{orientation}");
            assert!(difference <= 4 + 4 * step, "{orientation} by {step}: {difference}");
        }
    }
}

#[test]
fn a_jpeg_with_a_hole_is_refused_when_reduced_too() {
    let whole = fixture("jpeg_orientation_1.jpg");
    // Half of the codes, and an end marker.
    let scan = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    let cut = [&whole[..scan + (whole.len() - scan) / 2], &[0xff, 0xd9]].concat();
    for step in [1.0, 2.0, 8.0] {
        let decoded = open(&cut, &LIMITS).unwrap().decode_reduced(step);
        assert!(matches!(decoded, Err(DecodeError::Corrupt { .. })), "{step}");
    }
}

#[test]
fn every_orientation_is_turned_upright() {
    for orientation in 1..=8 {
        assert_quadrants(&format!("jpeg_orientation_{orientation}.jpg"), COLOUR, 10);
    }
    // The header tells the size as stored.
    let header = read_header(&fixture("jpeg_orientation_6.jpg"), &LIMITS).unwrap();
    assert_eq!(header, ImageHeader { format: Format::Jpeg, width: 32, height: 48 });
}

#[test]
fn headers_are_read_without_the_pixels() {
    for (name, format) in [
        ("jpeg_cmyk.jpg", Format::Jpeg),
        ("png_rgb16.png", Format::Png),
        ("webp_animated.webp", Format::WebP),
        ("gif_animated.gif", Format::Gif),
        ("bmp_rgb.bmp", Format::Bmp),
        ("tiff_lzw.tiff", Format::Tiff),
        ("pnm_grey.pgm", Format::Pnm),
    ] {
        let header = read_header(&fixture(name), &LIMITS).unwrap();
        assert_eq!(header, ImageHeader { format, width: 48, height: 32 }, "{name}");
    }
    let pixels_missing = &fixture("pnm_rgb.ppm")[..20];
    assert!(read_header(pixels_missing, &LIMITS).is_ok());
}

#[test]
fn incomplete_images_are_refused() {
    for name in fixtures("") {
        let bytes = fixture(&name);
        // Two thirds end inside the pixels of the first frame; an animation may lose its second.
        let kept = if name.contains("animated") { bytes.len() / 3 } else { bytes.len() * 2 / 3 };
        let result = decode(&bytes[..kept], &LIMITS);
        assert!(matches!(result, Err(DecodeError::Corrupt { .. })), "{name}: {:?}", result.map(|_| "an image"));
    }
}

#[test]
fn damage_inside_a_jpeg_is_noticed() {
    // Every Huffman code begins with a zero bit somewhere: only ones are no image data.
    let mut bytes = fixture("jpeg_baseline.jpg");
    let end = bytes.len() - 2;
    for byte in bytes[end - 40..end].chunks_mut(2) {
        byte.copy_from_slice(&[0xff, 0x00]);
    }
    assert!(matches!(decode(&bytes, &LIMITS), Err(DecodeError::Corrupt { .. })));
}

#[test]
fn bytes_around_an_image_do_no_harm() {
    for name in ["jpeg_baseline.jpg", "jpeg_progressive.jpg", "png_rgb.png"] {
        let mut bytes = fixture(name);
        let expected = decode(&bytes, &LIMITS).unwrap();
        bytes.extend_from_slice(&[0xff, 0xd8, 0, 1, 2, 3, 0xff]);
        assert!(decode(&bytes, &LIMITS).unwrap() == expected, "{name} with trailing bytes");
    }
    // Some cameras leave out the end marker: every pixel is there, so nothing is lost.
    let bytes = fixture("jpeg_baseline.jpg");
    let expected = decode(&bytes, &LIMITS).unwrap();
    assert!(decode(&bytes[..bytes.len() - 2], &LIMITS).unwrap() == expected);
}

#[test]
fn what_is_no_image_says_so() {
    assert_eq!(decode(b"", &LIMITS), Err(DecodeError::Empty));
    for bytes in [&b"hello, I am called photo.jpg"[..], b"\0", &[0xff; 100], b"%PDF-1.7"] {
        assert!(matches!(decode(bytes, &LIMITS), Err(DecodeError::Unsupported { .. })));
    }
    // A format that is known, but not read here.
    let avif = b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B";
    assert!(matches!(decode(avif, &LIMITS), Err(DecodeError::Unsupported { reason }) if reason.starts_with("AVIF")));
    assert!(is_image(avif) && !is_image(b"\0\0\0\x18ftypisom\0\0\0\0mp42"));
    let bytes = fixture("png_rgb.png");
    let limits = DecodeLimits { max_bytes: bytes.len() - 1, ..LIMITS };
    let refused = DecodeError::TooManyBytes { limit: bytes.len() - 1, actual: bytes.len() };
    assert_eq!(decode(&bytes, &limits), Err(refused.clone()));
    assert_eq!(read_header(&bytes, &limits), Err(refused));
}

/// A valid PNG of any size: all black, so that a thousand pixels take one byte.
fn black_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = vec![0; width as usize * height as usize];
    PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::L8).unwrap();
    bytes
}

#[test]
fn pixel_limits_hold_for_every_format() {
    let heic = cfg!(feature = "heic").then_some("heic");
    for prefix in ["jpeg", "png", "webp", "gif", "bmp", "tiff", "pnm"].into_iter().chain(heic) {
        let bytes = fixture(&fixtures(prefix)[0]);
        let limits = DecodeLimits { max_pixels: 48 * 32 - 1, ..LIMITS };
        let refused = DecodeError::TooManyPixels { limit: 48 * 32 - 1, width: 48, height: 32 };
        assert_eq!(decode(&bytes, &limits), Err(refused.clone()), "{prefix}");
        assert_eq!(read_header(&bytes, &limits), Err(refused), "{prefix}");
        assert!(decode(&bytes, &DecodeLimits { max_pixels: 48 * 32, ..LIMITS }).is_ok(), "{prefix}");
    }
}

/// The PNG with another size written into its header (its checksum mended).
fn resized_png(mut bytes: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// CRC-32 as PNG uses it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn bombs_are_refused_by_their_headers() {
    let png = |width, height| resized_png(black_png(100, 100), width, height);
    let mut gif = fixture("gif_still.gif");
    gif[6..10].copy_from_slice(&[0x20, 0x4e, 0x20, 0x4e]);
    let mut webp = fixture("webp_lossy.webp");
    let start_code = webp.windows(3).position(|w| w == [0x9d, 0x01, 0x2a]).unwrap();
    webp[start_code + 3..start_code + 7].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    let pnm = b"P6 20000 20000 255\n".to_vec();
    for (name, bytes) in [
        ("png", png(20_000, 20_000)),
        ("wide png", png(i32::MAX as u32, 1)),
        ("gif", gif),
        ("webp", webp),
        ("pnm", pnm),
    ] {
        for limits in [LIMITS, DecodeLimits { max_bytes: 32 << 20, max_pixels: 64_000_000, max_memory: 768 << 20 }] {
            let result = decode(&bytes, &limits);
            assert!(matches!(result, Err(DecodeError::TooManyPixels { .. })), "{name}: {result:?}");
        }
    }
}

#[test]
fn a_webp_frame_larger_than_its_canvas_is_refused() {
    // The file states its canvas in the VP8X chunk, which stays as it is.
    for name in ["webp_lossy_alpha.webp", "webp_animated.webp", "webp_orientation_6.webp"] {
        let mut bytes = fixture(name);
        let start_code = bytes.windows(3).position(|w| w == [0x9d, 0x01, 0x2a]).unwrap();
        bytes[start_code + 3..start_code + 7].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
        let refused = decode(&bytes, &LIMITS).unwrap_err();
        assert!(matches!(refused, DecodeError::Corrupt { .. }), "{name}: {refused}");
    }
}

#[test]
fn a_panic_in_a_decoder_is_a_damaged_image() {
    let result = guarded(Format::Gif, || -> Result<(), _> { panic!("out of bounds (this panic is part of a test)") });
    assert!(matches!(result, Err(DecodeError::Corrupt { format: Format::Gif, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_an_image_or_an_error(
        magic in prop::sample::select(vec![
            &b""[..], b"\xff\xd8\xff", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"MM\0*\0\0\0\x08", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"P6 ",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [magic, &tail].concat();
        let _ = read_header(&bytes, &LIMITS);
        let _ = decode(&bytes, &LIMITS);
    }

    #[test]
    fn any_damage_gives_an_image_or_an_error(
        name in prop::sample::select(fixtures("")),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = fixture(&name);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Ok(image) = decode(&bytes, &LIMITS) {
            prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= LIMITS.max_pixels);
        }
        let _ = open(&bytes, &LIMITS).and_then(|opened| opened.decode_reduced(4.0));
    }
}
