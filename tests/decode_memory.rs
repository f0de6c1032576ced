//! What decoding says that it takes, against what it takes: the peak of resident memory in a process of its own.

mod made;

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use faceid::vision::{DecodeError, DecodeLimits, decode, open};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageEncoder, ImageFormat};
use made::{Scans, deep_png, float_tiff, gif, jpeg, png_with_profile, webp_with_codes};

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 28, max_pixels: 1 << 24, max_memory: 1 << 30 };

/// Large enough that what a process does besides does not matter.
const SIDE: u16 = 4000;

const MB: u64 = 1_000_000;

fn status(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

/// What the work took at most, of memory that was not there before.
fn taken<T>(work: impl FnOnce() -> T) -> (T, u64) {
    // Makes the peak what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let result = work();
    (result, status("VmHWM:").saturating_sub(before))
}

/// Noise in some rows, so that no memory is shared for being black, and files are small.
fn noise(colour: ColorType) -> DynamicImage {
    let mut image = DynamicImage::new(SIDE.into(), SIDE.into(), colour);
    let mut state = 1_u32;
    let mut value = 0_u32;
    let mut next = || {
        value += 1;
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if value % (1 << 18) < 1 << 12 { (state >> 28) as u8 } else { 100 }
    };
    match &mut image {
        DynamicImage::ImageRgb8(image) => image.iter_mut().for_each(|value| *value = next()),
        DynamicImage::ImageRgba8(image) => image.iter_mut().for_each(|value| *value = next()),
        DynamicImage::ImageRgb16(image) => image.iter_mut().for_each(|value| *value = next().into()),
        _ => {}
    }
    image
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A file that says it lies on its side.
fn turned_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let exif = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[6, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(Orientation::from_exif_chunk(&exif), Some(Orientation::Rotate90));
    encoder.set_exif_metadata(exif).unwrap();
    let image = noise(ColorType::Rgb8);
    encoder.write_image(image.as_bytes(), SIDE.into(), SIDE.into(), image.color().into()).unwrap();
    bytes
}

/// Names the file that a child decodes.
const FILE: &str = "FACEID_TEST_DECODES";

/// A process that has done nothing else decodes the file: bytes that it says, that it takes, and that it takes to refuse
/// the image for one byte too few.
fn measured(file: &Path) -> [u64; 3] {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "decoding_in_a_child", "--nocapture"])
        .env(FILE, file)
        .output()
        .unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    let line = output.lines().find_map(|line| line.strip_prefix("measured "));
    let line = line.unwrap_or_else(|| panic!("{output}{}", String::from_utf8_lossy(&child.stderr)));
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// Does nothing unless [`measured`] starts it.
#[test]
fn decoding_in_a_child() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let bytes = std::fs::read(file).unwrap();
    let said = open(&bytes, &LIMITS).unwrap().memory();
    let limits = DecodeLimits { max_memory: said - 1, ..LIMITS };
    let (refused, refusing) = taken(|| decode(&bytes, &limits));
    assert!(matches!(refused, Err(DecodeError::TooMuchMemory { needed, .. }) if needed == said));
    let (image, took) = taken(|| decode(&bytes, &LIMITS));
    image.unwrap();
    println!("\nmeasured {said} {took} {refusing}");
}

/// Large images that are mostly empty, so that less of what is counted is touched.
fn heic() -> Vec<(&'static str, Vec<u8>, f64)> {
    if cfg!(not(feature = "heic")) {
        return Vec::new();
    }
    let [whole, tiles] =
        [&include_bytes!("fixtures/heic/whole.heic")[..], include_bytes!("fixtures/heic/turned_tiles.heic")];
    vec![("HEIC", whole.to_vec(), 0.5), ("HEIC, turned tiles", tiles.to_vec(), 0.5)]
}

/// Each image takes no more than it says, and not much less.
#[test]
fn what_decoding_takes_is_known_before() {
    let side = u32::from(SIDE);
    let (rgb, rgba, deep) = (noise(ColorType::Rgb8), noise(ColorType::Rgba8), noise(ColorType::Rgb16));
    // With the least share that is taken: where the decoder does not tell how its planes are sampled, they count in full,
    // and a file's length counts although most of it is never copied.
    let cases: Vec<(&str, Vec<u8>, f64)> = vec![
        ("JPEG, baseline", jpeg(SIDE, (1, 1), Scans::Baseline), 0.85),
        ("JPEG, baseline, 4:2:0", jpeg(SIDE, (2, 2), Scans::Baseline), 0.85),
        ("JPEG, baseline, 4:1:1", jpeg(SIDE, (4, 1), Scans::Baseline), 0.85),
        ("JPEG, planes one by one", jpeg(SIDE, (1, 1), Scans::OneByOne), 0.85),
        ("JPEG, progressive", jpeg(SIDE, (1, 1), Scans::Progressive), 0.85),
        ("JPEG, progressive, 4:2:0", jpeg(SIDE, (2, 2), Scans::Progressive), 0.55),
        ("PNG", encoded(&rgb, ImageFormat::Png), 0.85),
        ("PNG, transparent", encoded(&rgba, ImageFormat::Png), 0.85),
        ("PNG, 16 bits", deep_png(side), 0.85),
        ("PNG, turned", turned_png(), 0.85),
        ("GIF", gif((SIDE, SIDE), (SIDE, SIDE)), 0.85),
        ("GIF, small canvas", gif((20, 20), (SIDE, SIDE)), 0.0),
        ("TIFF, floats in strips", float_tiff(side, 50), 0.85),
        ("TIFF, floats in one strip", float_tiff(side, side), 0.85),
        ("TIFF, 8 bits", encoded(&rgb, ImageFormat::Tiff), 0.2),
        ("WebP, lossless", encoded(&rgb, ImageFormat::WebP), 0.75),
        ("WebP, lossless, transparent", encoded(&rgba, ImageFormat::WebP), 0.4),
        ("WebP, many prefix codes", webp_with_codes(8_192), 0.85),
        ("BMP", encoded(&rgb, ImageFormat::Bmp), 0.85),
        ("BMP, transparent", encoded(&rgba, ImageFormat::Bmp), 0.85),
        ("PNM", encoded(&rgb, ImageFormat::Pnm), 0.85),
        ("PNM, 16 bits", encoded(&deep, ImageFormat::Pnm), 0.85),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image");
    for (name, bytes, least) in cases.into_iter().chain(heic()) {
        std::fs::write(&file, &bytes).unwrap();
        let [said, took, refusing] = measured(&file);
        println!("{name}: {} MB said, {} MB taken", said / MB, took / MB);
        assert!(took <= said + MB, "{name}: {took} bytes instead of {said}");
        assert!(took as f64 >= said as f64 * least, "{name}: {took} bytes of {said}");
        assert!(refusing < 4 * MB, "{name}: {refusing} bytes to refuse it");
    }
    std::fs::write(&file, png_with_profile(30)).unwrap();
    let [_, took, _] = measured(&file);
    assert!(took < 4 * MB, "{took} bytes for a profile that nobody reads");
}
