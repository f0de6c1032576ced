use faceid::nn::*;
use faceid::types::Chip;
use std::time::Instant;
fn main() {
    let threads: i32 = std::env::args().nth(1).unwrap().parse().unwrap();
    tch::set_num_threads(threads);
    let w = std::path::Path::new(".deps/weights");
    for precision in [Precision::Fp32, Precision::Bf16] {
        let target = Target { device: tch::Device::Cpu, precision };
        let e = Embedder::load(&w.join("mobilefacenet-512.onnx"), &target, InputNormalisation::default()).unwrap();
        let d = Detector::load(&w.join("retinaface-mobilenet0.25.onnx"), &target).unwrap();
        for b in [1usize, 2, 4, 8, 32] {
            let chips: Vec<Chip> = (0..b)
                .map(|i| {
                    Chip::try_from(image::RgbImage::from_fn(112, 112, |x, y| {
                        image::Rgb([(x * 2) as u8, (y * 2) as u8, i as u8])
                    }))
                    .unwrap()
                })
                .collect();
            let mut best = vec![];
            for _ in 0..(400 / b).max(8) {
                let t = Instant::now();
                std::hint::black_box(e.forward(&chips).unwrap());
                best.push(t.elapsed().as_secs_f64());
            }
            best.sort_by(f64::total_cmp);
            println!(
                "{precision} embed {b}: min {:.1}/s median {:.1}/s",
                b as f64 / best[0],
                b as f64 / best[best.len() / 2]
            );
        }
        for (ww, hh) in [(640u32, 480u32), (250, 250)] {
            let im: Vec<u8> = (0..ww * hh * 3).map(|i| (i % 251) as u8).collect();
            let mut best = vec![];
            for _ in 0..100 {
                let t = Instant::now();
                std::hint::black_box(d.forward(&[&im], ww, hh).unwrap());
                best.push(t.elapsed().as_secs_f64());
            }
            best.sort_by(f64::total_cmp);
            println!("{precision} detect {ww}x{hh}: min {:.2} median {:.2} ms", best[0] * 1e3, best[50] * 1e3);
        }
    }
}
