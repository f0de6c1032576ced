use faceid::nn::*;
use std::time::Instant;
fn main() {
    tch::set_num_threads(1);
    let w = std::path::Path::new(".deps/weights");
    let target = Target { device: tch::Device::Cpu, precision: Precision::Bf16 };
    let d = Detector::load(&w.join("retinaface-mobilenet0.25.onnx"), &target).unwrap();
    let (ww, hh) = (640u32, 480u32);
    let im: Vec<u8> = (0..ww * hh * 3).map(|i| (i % 251) as u8).collect();
    let mut best = vec![];
    for _ in 0..300 {
        let t = Instant::now();
        std::hint::black_box(d.forward(&[&im], ww, hh).unwrap());
        best.push(t.elapsed().as_secs_f64());
    }
    best.sort_by(f64::total_cmp);
    println!("detect {ww}x{hh}: min {:.2} median {:.2} ms", best[0] * 1e3, best[150] * 1e3);
}
