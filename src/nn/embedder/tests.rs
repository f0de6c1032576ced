use tch::CModule;

use super::super::target::Kernels;
use super::super::testing::{bytes, difference, fixture, floats, made_image, other_weights, weights};
use super::*;

fn chip(n: u32) -> Chip {
    let image = image::RgbImage::from_raw(Chip::SIDE, Chip::SIDE, made_image(Chip::SIDE, Chip::SIDE, n)).unwrap();
    Chip::try_from(image).unwrap()
}

#[test]
fn mobilefacenet_equals_onnx_runtime_alone_and_in_a_batch() {
    let path = weights("mobilefacenet-512.onnx");
    let embedder = Embedder::load(&path, &Target::CPU, InputNormalisation::default()).unwrap();
    assert_eq!((embedder.dimension(), embedder.passes.pass), (512, 4));
    let expected = &fixture("networks.json")["embedder"];
    let chips: Vec<_> = (0..expected["images"].as_u64().unwrap() as u32).map(chip).collect();
    let alone: Vec<_> = chips.iter().flat_map(|chip| embedder.forward(std::slice::from_ref(chip)).unwrap()).collect();
    let together = embedder.forward(&chips).unwrap();
    for rows in [alone, together] {
        let largest = difference(&rows.concat(), &floats(&expected["rows"]));
        println!("largest difference {largest:e}");
        assert!(largest <= 1e-4, "{largest}");
    }
    assert!(embedder.forward(&[]).unwrap().is_empty());
}

/// Its weights are in blocks of 8-bit numbers; ONNX Runtime was run with them as they are.
#[test]
fn sface_equals_onnx_runtime_with_all_kernels() {
    let normalisation = InputNormalisation { mean: 0.0, scale: 1.0, ..InputNormalisation::default() };
    let expected = &fixture("networks.json")["sface"];
    let chips: Vec<_> = (0..expected["images"].as_u64().unwrap() as u32).map(chip).collect();
    let expected = floats(&expected["rows"]);
    let largest = expected.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    for kernels in [Kernels::Libtorch, Kernels::Avx2, Kernels::Avx512] {
        if !kernels.are_available() {
            println!("not tested: {kernels:?}, which this processor lacks");
            continue;
        }
        let target = Target::CPU.with_kernels(kernels);
        let embedder = Embedder::load(&weights("sface-128.onnx"), &target, normalisation).unwrap();
        assert_eq!((embedder.dimension(), embedder.passes.pass), (128, 2));
        let difference = difference(&embedder.forward(&chips).unwrap().concat(), &expected);
        println!("{kernels:?}: largest difference {difference:e} of {largest}");
        assert!(difference <= 1e-4 * largest, "{kernels:?}: {difference}");
    }
}

/// Traces `forward` as TorchScript and loads it as an embedder.
fn traced(normalisation: InputNormalisation, forward: fn(&Tensor) -> Tensor) -> Result<Embedder, NetworkError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.pt");
    let input = Tensor::zeros([2, 3, 112, 112], (Kind::Float, Device::Cpu));
    let module = CModule::create_by_tracing("toy", "forward", &[input], &mut |inputs| vec![forward(&inputs[0])]);
    module.unwrap().save(&path).unwrap();
    Embedder::load(&path, &Target::CPU, normalisation)
}

fn colours(x: &Tensor) -> Tensor {
    x.mean_dim([2_i64, 3].as_slice(), false, Kind::Float)
}

#[test]
fn normalisation_and_channel_order_reach_the_network() {
    let image = image::RgbImage::from_pixel(Chip::SIDE, Chip::SIDE, image::Rgb([10, 20, 30]));
    let chips = [Chip::try_from(image).unwrap()];
    let rgb = InputNormalisation { mean: 10.0, scale: 2.0, ..InputNormalisation::default() };
    assert_eq!(traced(rgb, colours).unwrap().forward(&chips).unwrap(), [[0.0, 5.0, 10.0]]);
    let bgr = InputNormalisation { channels: Channels::Bgr, ..rgb };
    assert_eq!(traced(bgr, colours).unwrap().forward(&chips).unwrap(), [[10.0, 5.0, 0.0]]);
    let useless = InputNormalisation { scale: 0.0, ..rgb };
    assert!(matches!(traced(useless, colours), Err(NetworkError::Contract { .. })));
}

#[test]
fn networks_that_break_the_contract_are_refused() {
    let load = |forward| traced(InputNormalisation::default(), forward).map(|_| ()).unwrap_err().to_string();
    let mixes_its_batch = load(|x| colours(x) - colours(x).mean_dim([0_i64].as_slice(), true, Kind::Float));
    assert!(mixes_its_batch.contains("not a usable embedder"), "{mixes_its_batch}");
    let draws_lots = load(|x| colours(&x.dropout(0.5, true)));
    assert!(draws_lots.contains("another vector"), "{draws_lots}");
    assert!(load(|x| colours(x) * 0.0).contains("all zero"));
    assert!(load(|x| x.mean_dim([0_i64].as_slice(), true, Kind::Float)).contains("output of shape"));
}

/// A small embedder of `embedders.json`, and what ONNX Runtime gives.
fn small(name: &str, target: &Target) -> (Result<Embedder, NetworkError>, Vec<f32>) {
    let recorded = &fixture("embedders.json")[name];
    let content = bytes(&recorded["model"]).into();
    let embedder = Embedder::from_bytes(content, Format::Onnx, target, InputNormalisation::default());
    (embedder, floats(&recorded["rows"]))
}

#[test]
fn embedders_as_others_export_them_equal_onnx_runtime() {
    let chips: Vec<_> = (0..3).map(chip).collect();
    for name in ["plain", "with_norm", "norm_first", "through_integers", "casts", "half", "mxnet", "pixel_by_pixel"] {
        for kernels in [Kernels::Libtorch, Kernels::Auto] {
            let (embedder, expected) = small(name, &Target::CPU.with_kernels(kernels));
            let embedder = embedder.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(embedder.dimension(), 16);
            let difference = difference(&embedder.forward(&chips).unwrap().concat(), &expected);
            // ONNX Runtime computes in half precision what is kept in it; we do not.
            let tolerance = if matches!(name, "half" | "casts") { 2e-3 } else { 1e-4 };
            println!("{name}, {kernels:?}: largest difference {difference:e}");
            assert!(difference <= tolerance, "{name}, {kernels:?}: {difference}");
        }
    }
}

/// As on a GPU: node by node, with weights of the reduced type and values that a file casts to float.
#[test]
fn a_network_that_casts_runs_in_half_the_bytes() {
    let chips: Vec<_> = (0..3).map(chip).collect();
    for name in ["casts", "through_integers", "mxnet"] {
        let target = Target::cpu(super::super::target::Precision::Bf16).with_kernels(Kernels::Libtorch);
        let (embedder, expected) = small(name, &target);
        let rows = embedder.unwrap_or_else(|error| panic!("{name}: {error}")).forward(&chips).unwrap().concat();
        let largest = expected.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        assert!(difference(&rows, &expected) <= 0.02 * largest, "{name}: {}", difference(&rows, &expected));
    }
}

#[test]
fn inputs_and_outputs_that_do_not_fit_are_named() {
    let refusal = |name| small(name, &Target::CPU).0.map(|_| ()).unwrap_err().to_string();
    let several = refusal("two_embeddings");
    assert!(several.contains("2 chips give y [2, 16], raw [2, 16]; export it with one of them"), "{several}");
    let size = refusal("of_160");
    assert!(size.contains("of shape 1 x 3 x 160 x 160, and would get N x 3 x 112 x 112"), "{size}");
}

#[test]
fn a_network_of_another_size_gets_it_by_its_manifest() {
    let recorded = &fixture("embedders.json")["of_160"];
    let whole = InputNormalisation::default();
    for (size, fits) in [(160, true), (128, false)] {
        let input = InputNormalisation { size: InputSize { width: size, height: size }, ..whole };
        let content = bytes(&recorded["model"]).into();
        assert_eq!(Embedder::from_bytes(content, Format::Onnx, &Target::CPU, input).is_ok(), fits);
    }
    let useless = InputNormalisation { crop: ChipCrop { x: 20, ..ChipCrop::WHOLE }, ..whole };
    assert!(matches!(traced(useless, colours), Err(NetworkError::Contract { .. })));
}

/// With bilinear weights by hand: a chip of columns whose value is their number, cut to 16..48 and doubled.
#[test]
fn a_part_of_the_chip_is_cut_out_and_resized() {
    let image = image::RgbImage::from_fn(Chip::SIDE, Chip::SIDE, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let crop = ChipCrop { x: 16, y: 10, width: 32, height: 20 };
    let size = InputSize { width: 64, height: 40 };
    let plain = InputNormalisation { mean: 0.0, scale: 1.0, ..InputNormalisation::default() };
    let cut = InputNormalisation { crop, size: crop.size(), ..plain }.input(&[image.as_raw()], Device::Cpu).unwrap();
    assert_eq!(cut.size(), [1, 3, 20, 32]);
    let at = |tensor: &Tensor, place: [i64; 3]| tensor.double_value(&[0, place[0], place[1], place[2]]);
    assert_eq!((at(&cut, [0, 0, 0]), at(&cut, [1, 19, 0]), at(&cut, [2, 5, 5])), (16.0, 29.0, 7.0));
    let twice = InputNormalisation { crop, size, ..plain }.input(&[image.as_raw()], Device::Cpu).unwrap();
    assert_eq!(twice.size(), [1, 3, 40, 64]);
    // Pixel n of the result has its middle at n / 2 - 1/4 of what was cut out.
    assert_eq!((at(&twice, [0, 0, 0]), at(&twice, [0, 3, 1]), at(&twice, [0, 3, 2])), (16.0, 16.25, 16.75));
    assert_eq!((at(&twice, [1, 1, 9]), at(&twice, [1, 39, 9])), (10.25, 29.0));
}

#[test]
#[ignore = "needs the test photos"]
fn retail_0095_equals_onnx_runtime_with_all_kernels() {
    let input = InputNormalisation {
        mean: 0.0,
        scale: 1.0,
        channels: Channels::Bgr,
        crop: ChipCrop { x: 8, y: 0, width: 96, height: 112 },
        size: InputSize { width: 128, height: 128 },
    };
    let expected = &fixture("networks.json")["retail_0095"];
    let chips: Vec<_> = (0..expected["images"].as_u64().unwrap() as u32).map(chip).collect();
    let expected = floats(&expected["rows"]);
    let largest = expected.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    for kernels in [Kernels::Libtorch, Kernels::Avx2, Kernels::Avx512].into_iter().filter(|it| it.are_available()) {
        let target = Target::CPU.with_kernels(kernels);
        let embedder =
            Embedder::load(&other_weights("face-reidentification-retail-0095.onnx"), &target, input).unwrap();
        assert_eq!(embedder.dimension(), 256);
        let difference = difference(&embedder.forward(&chips).unwrap().concat(), &expected);
        println!("{kernels:?}: largest difference {difference:e} of {largest}");
        assert!(difference <= 1e-4 * largest, "{kernels:?}: {difference}");
    }
}

/// Embeddings by the parts alone, each of length 1, side by side.
fn side_by_side(parts: &[(Vec<u8>, InputNormalisation)], chips: &[Chip]) -> Vec<f32> {
    let rows: Vec<Vec<Vec<f32>>> = parts
        .iter()
        .map(|(content, input)| {
            let embedder = Embedder::from_bytes(content.clone().into(), Format::Onnx, &Target::CPU, *input).unwrap();
            embedder.forward(chips).unwrap()
        })
        .collect();
    let unit = |row: &Vec<f32>| {
        let length = row.iter().map(|number| number * number).sum::<f32>().sqrt();
        row.iter().map(move |number| number / length).collect::<Vec<f32>>()
    };
    (0..chips.len()).flat_map(|chip| rows.iter().flat_map(move |rows| unit(&rows[chip]))).collect()
}

fn check_joined(parts: &[(Vec<u8>, InputNormalisation)], dimension: usize) {
    let given: Vec<_> = parts.iter().map(|(content, input)| (content.clone().into(), *input)).collect();
    let (content, numbers) = join(&given).unwrap();
    assert_eq!(numbers, dimension);
    let chips: Vec<_> = (0..3).map(chip).collect();
    let expected = side_by_side(parts, &chips);
    for kernels in [Kernels::Libtorch, Kernels::Auto] {
        let target = Target::CPU.with_kernels(kernels);
        let whole = Embedder::from_bytes(content.clone().into(), Format::Onnx, &target, JOINED_INPUT).unwrap();
        let difference = difference(&whole.forward(&chips).unwrap().concat(), &expected);
        println!("{kernels:?}: largest difference {difference:e}");
        assert!(difference <= 1e-5, "{kernels:?}: {difference}");
    }
}

#[test]
fn joined_embedders_give_what_they_give_alone() {
    let file = |name: &str| bytes(&fixture("embedders.json")[name]["model"]);
    let other = InputNormalisation {
        mean: 100.0,
        scale: 50.0,
        channels: Channels::Bgr,
        crop: ChipCrop { x: 8, y: 4, width: 96, height: 100 },
        size: InputSize { width: 160, height: 160 },
    };
    let plain = InputNormalisation::default();
    // Versions of the operators from 8 to 17, a second output, pixels last, a declared batch of one.
    let parts = [("mxnet", plain), ("norm_first", plain), ("pixel_by_pixel", plain), ("of_160", other)];
    check_joined(&parts.map(|(name, input)| (file(name), input)), 64);
    let refused = join(&[(file("plain").into(), plain), (Bytes::from_static(b"PK\x03\x04"), plain)]);
    assert!(refused.unwrap_err().to_string().contains("only ONNX"));
}
