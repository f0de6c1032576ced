//! The functions that a request spends its time in, each alone, on made images: `cargo bench --bench stages`.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faceid::nn::{Detector, Embedder, InputNormalisation, Kernels, Precision, Target};
use faceid::types::{Chip, Detection, Landmarks};
use faceid::vision::{self, DecodeLimits, DetectOptions, Scale};
use image::{ImageFormat, RgbImage};

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 26, max_pixels: 1 << 26, max_memory: 1 << 30 };

/// Waves of several lengths, so that a JPEG of it has something to encode.
fn photo(width: u32, height: u32) -> RgbImage {
    let wave = |at: u32, length: f32| ((at as f32 / length).sin() * 60.0 + 128.0) as u8;
    RgbImage::from_fn(width, height, |x, y| image::Rgb([wave(x, 9.0), wave(y, 5.0), wave(x + 2 * y, 31.0)]))
}

fn face(eye_distance: f32, left: f32, top: f32) -> Landmarks {
    let points = [(0.0, 0.0), (1.0, 0.02), (0.5, 0.55), (0.1, 1.05), (0.9, 1.07)];
    Landmarks::from(points.map(|(x, y)| faceid::types::Point { x: left + x * eye_distance, y: top + y * eye_distance }))
}

fn pixels(c: &mut Criterion) {
    for (width, height) in [(250, 250), (800, 533)] {
        let image = photo(width, height);
        let mut jpeg = std::io::Cursor::new(Vec::new());
        image.write_to(&mut jpeg, ImageFormat::Jpeg).expect("a JPEG can be written to memory");
        let size = format!("{width}x{height}");
        c.bench_with_input(BenchmarkId::new("decode", &size), jpeg.get_ref(), |b, jpeg| {
            b.iter(|| vision::decode(black_box(jpeg), &LIMITS));
        });
        for side in [240, 640].into_iter().filter(|side| *side < width) {
            c.bench_with_input(BenchmarkId::new(format!("shrink to {side}"), &size), &image, |b, image| {
                b.iter(|| vision::shrink(black_box(image), side));
            });
        }
    }
    let image = photo(800, 600);
    for eye_distance in [30.0, 80.0] {
        let landmarks = face(eye_distance, 300.0, 200.0);
        c.bench_with_input(BenchmarkId::new("align, eye distance", eye_distance), &landmarks, |b, landmarks| {
            b.iter(|| vision::align(black_box(&image), landmarks));
        });
    }
}

/// Where `make setup` put the networks.
fn weights(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/weights").join(name)
}

fn networks(c: &mut Criterion) {
    let target = Target::cpu(Precision::auto(false, Kernels::Auto));
    let detector = Detector::load(&weights("retinaface-mobilenet0.25.onnx"), &target).expect("make setup");
    let embedder =
        Embedder::load(&weights("mobilefacenet-512.onnx"), &target, InputNormalisation::default()).expect("make setup");
    let image = photo(640, 480);
    c.bench_function("detect 640x480", |b| b.iter(|| detector.forward(&[black_box(image.as_raw())], 640, 480)));
    let output = detector.forward(&[image.as_raw()], 640, 480).expect("the detector runs").swap_remove(0);
    let options = DetectOptions::default();
    c.bench_function("detections of 640x480", |b| {
        b.iter(|| vision::detections(black_box(&output), 640, 480, Scale::NONE, &options));
    });
    let chip = vision::align(&image, &face(60.0, 300.0, 200.0)).expect("a face that can be aligned");
    let detection = Detection {
        bounding_box: faceid::types::BoundingBox { x: 270.0, y: 160.0, width: 120.0, height: 150.0 },
        landmarks: face(60.0, 300.0, 200.0),
        score: 0.99,
    };
    c.bench_function("quality", |b| b.iter(|| vision::quality(black_box(&detection), &chip)));
    let mut group = c.benchmark_group("embed");
    for batch in [1, 8, 32] {
        let chips: Vec<Chip> = vec![chip.clone(); batch];
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_with_input(BenchmarkId::from_parameter(batch), &chips, |b, chips| {
            b.iter(|| embedder.forward(black_box(chips)));
        });
    }
}

criterion_group!(benches, pixels, networks);
criterion_main!(benches);
