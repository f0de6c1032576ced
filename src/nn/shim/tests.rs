//! Fused convolutions against libtorch's own.

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::nn::pixels::to_floats;
use crate::nn::testing::{families, made_input};

fn packed(spec: &ConvSpec, family: Family) -> Option<FusedConv> {
    FusedConv::new(spec, family).unwrap()
}

/// Numbers of about one, never the same twice in a row.
fn made(count: i64, seed: i64) -> Vec<f32> {
    (0..count).map(|i| (((i * 7919 + seed * 104_729) % 1999) as f32 / 999.5 - 1.0) * 1.5).collect()
}

fn spec(out_channels: i64, channels: i64, groups: i64, kernel: [i64; 2], stride: [i64; 2], pads: [i64; 4]) -> ConvSpec {
    let weights = made(out_channels * (channels / groups) * kernel[0] * kernel[1], 1);
    // Sums stay of the size of one, whatever the number of summands.
    let summands = (channels / groups * kernel[0] * kernel[1]) as f32;
    let weights = weights.into_iter().map(|weight| weight / summands.sqrt()).collect();
    let slopes = made(out_channels, 3);
    ConvSpec { out_channels, channels, groups, kernel, stride, pads, weights, bias: made(out_channels, 2), slopes }
}

/// What libtorch makes of it, in float.
fn reference(spec: &ConvSpec, input: &Tensor, residual: Option<&Tensor>) -> Tensor {
    let [height, width] = spec.kernel;
    let weights =
        Tensor::from_slice(&spec.weights).reshape([spec.out_channels, spec.channels / spec.groups, height, width]);
    let [top, left, bottom, right] = spec.pads;
    let padded = input.constant_pad_nd([left, right, top, bottom]);
    let bias = Tensor::from_slice(&spec.bias);
    let y = padded.convolution(&weights, Some(bias), spec.stride, [0, 0], [1, 1], false, [0, 0], spec.groups);
    let y = y.prelu(&Tensor::from_slice(&spec.slopes));
    residual.map_or_else(|| y.shallow_clone(), |residual| &y + residual)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Runs the convolution in every family of this processor; the families that have no kernel for it are left out.
fn check(spec: &ConvSpec, images: i64, height: i64, width: i64) -> usize {
    let input = made_input(&[images, spec.channels, height, width]);
    let plain = reference(spec, &input, None);
    let residual = Tensor::from_slice(&made(plain.numel() as i64, 5)).reshape(plain.size());
    let mut checked = 0;
    for family in families() {
        let Some(conv) = FusedConv::new(spec, family).unwrap() else {
            continue;
        };
        // bfloat16 keeps 8 bits of each factor and result.
        let tolerance = if family == Family::Avx512Bf16 { 0.06 } else { 1e-4 };
        for (residual, expected) in [(None, &plain), (Some(&residual), &(&plain + &residual))] {
            for float_output in [true, false] {
                let output = conv.run(&input, residual, float_output).unwrap();
                let is_bf16 = family == Family::Avx512Bf16 && !float_output;
                assert_eq!(output.kind(), if is_bf16 { Kind::BFloat16 } else { Kind::Float });
                let difference = largest_difference(&output, expected);
                assert!(difference <= tolerance, "{family:?} {spec:?} {height}x{width}: {difference}");
            }
        }
        checked += 1;
    }
    checked
}

#[test]
fn convolutions_of_face_networks_equal_libtorchs() {
    let available = families().len();
    for (out_channels, channels, groups, side, stride, pad) in [
        (64, 3, 1, 3, 2, 1), // first layers read three channels
        (8, 3, 1, 3, 2, 1),
        (128, 64, 1, 1, 1, 0),
        (16, 8, 1, 1, 1, 0),
        (64, 64, 64, 3, 1, 1), // depthwise
        (24, 24, 24, 3, 2, 1),
        (512, 512, 512, 7, 1, 0),
        (48, 16, 1, 3, 1, 1), // as by Winograd
        (64, 128, 1, 3, 1, 1),
        (35, 64, 1, 3, 1, 1),
        (48, 24, 1, 3, 1, 1), // not so: channels do not fill vectors, are too many, too few
        (16, 144, 1, 3, 1, 1),
        (8, 32, 1, 3, 1, 1),
        (20, 64, 1, 1, 1, 0), // heads, not whole vectors
        (4, 6, 1, 5, 1, 2),
        (33, 10, 1, 3, 2, 0),
    ] {
        let spec = spec(out_channels, channels, groups, [side; 2], [stride; 2], [pad; 4]);
        assert_eq!(check(&spec, 2, 13, 17), available, "{spec:?}");
    }
    let large = spec(32, 32, 1, [3, 3], [1, 1], [1; 4]);
    assert_eq!(check(&large, 1, 90, 70), available);
}

#[test]
fn shapes_without_a_kernel_are_left_to_libtorch() {
    for family in families() {
        assert!(packed(&spec(8, 8, 2, [3, 3], [1, 1], [1; 4]), family).is_none(), "grouped");
        assert!(packed(&spec(8, 16, 1, [11, 11], [1, 1], [5; 4]), family).is_none(), "a huge kernel");
        let inconsistent = ConvSpec { bias: Vec::new(), ..spec(8, 8, 1, [3, 3], [1, 1], [1; 4]) };
        assert!(packed(&inconsistent, family).is_none());
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    for family in families() {
        let conv = packed(&spec(8, 16, 1, [3, 3], [1, 1], [0; 4]), family).unwrap();
        assert!(conv.run(&made_input(&[1, 15, 9, 9]), None, true).unwrap_err().contains("N x 16 x H x W"));
        assert!(conv.run(&made_input(&[1, 16, 9]), None, true).is_err());
        assert!(conv.run(&made_input(&[1, 16, 2, 9]), None, true).unwrap_err().contains("smaller than the kernel"));
        assert_eq!(conv.run(&made_input(&[0, 16, 9, 9]), None, true).unwrap().size(), [0, 8, 7, 7]);
    }
}

#[test]
fn a_residual_of_another_shape_is_broadcast() {
    for family in families() {
        let spec = spec(8, 16, 1, [1, 1], [1, 1], [0; 4]);
        let input = made_input(&[1, 16, 4, 5]);
        let residual = made_input(&[1, 8, 1, 1]);
        let output = packed(&spec, family).unwrap().run(&input, Some(&residual), true).unwrap();
        assert!(largest_difference(&output, &reference(&spec, &input, Some(&residual))) < 0.06);
    }
}

#[test]
fn pixels_are_normalised_and_ordered() {
    let image: Vec<u8> = (0..2 * 3 * 3).map(|i| i * 14).collect();
    let tensor = pixels(&[&image, &image], (3, 2), [1.0, 2.0, 3.0], 2.0, true, false).unwrap();
    assert_eq!(tensor.size(), [2, 3, 2, 3]);
    let at = |c: i64, y: i64, x: i64| tensor.double_value(&[1, c, y, x]);
    let byte = |y: i64, x: i64, c: i64| f64::from(image[((y * 3 + x) * 3 + c) as usize]);
    assert_eq!(at(0, 1, 2), (byte(1, 2, 2) - 3.0) / 2.0);
    assert_eq!(at(2, 0, 1), (byte(0, 1, 0) - 1.0) / 2.0);
    let reduced = pixels(&[&image], (3, 2), [0.0; 3], 1.0, false, true).unwrap();
    assert_eq!(reduced.kind(), Kind::BFloat16);
    assert_eq!(reduced.double_value(&[0, 1, 0, 0]), byte(0, 0, 1));
}

#[test]
fn a_missing_library_is_a_message() {
    assert!(open_library(Path::new("no_such_library.so")).unwrap_err().contains("no_such_library.so"));
}

#[test]
fn broken_scripts_are_messages() {
    let error = Script::load(b"PK\x03\x04", Device::Cpu, Kind::Float, true).err().unwrap();
    assert!(!error.is_empty());
    assert!(Script::load(b"", Device::Cpu, Kind::Int64, true).err().unwrap().contains("Int64"));
}

/// Threads help one caller at a time, come late or not at all: results are the same.
#[test]
fn threads_that_help_change_nothing() {
    let spec = spec(48, 32, 1, [3, 3], [1, 1], [1; 4]);
    for family in families() {
        let conv = packed(&spec, family).unwrap();
        let run = || numbers(&conv.run(&made_input(&[2, 32, 40, 50]), None, true).unwrap());
        let alone = run();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    use_threads(3);
                    for _ in 0..50 {
                        assert!(run() == alone, "{family:?}");
                    }
                });
            }
        });
    }
}

/// Shapes of which some had no row of zeros to read beyond the edge.
#[test]
fn images_without_pixels_are_refused() {
    for family in families() {
        for (out_channels, channels, groups, kernel, pad) in [
            (8, 256, 1, 1, 1),
            (8, 256, 1, 3, 4),  // padding wider than the kernel
            (32, 128, 1, 3, 2), // as by Winograd
            (512, 512, 512, 3, 2),
            (512, 512, 512, 5, 4),
            (8, 3, 1, 3, 2),
        ] {
            let spec = spec(out_channels, channels, groups, [kernel; 2], [1; 2], [pad; 4]);
            let conv = packed(&spec, family).unwrap();
            for (height, width) in [(7, 0), (0, 7), (0, 0)] {
                let error = conv.run(&made_input(&[1, channels, height, width]), None, true).unwrap_err();
                assert!(error.contains("without pixels"), "{family:?} {spec:?}: {error}");
            }
            assert!(conv.run(&made_input(&[0, channels, 0, 0]), None, true).is_err());
            assert_eq!(conv.run(&made_input(&[0, channels, 5, 5]), None, true).unwrap().size()[0], 0);
        }
    }
}

#[test]
fn kernels_larger_than_the_padded_image_are_refused_and_long_strides_are_not() {
    for family in families() {
        for (channels, groups) in [(16, 1), (16, 16), (3, 1)] {
            for pads in [[0, 0, 0, 0], [1, 0, 0, 2], [3, 3, 3, 3]] {
                let conv = packed(&spec(16, channels, groups, [9, 9], [1; 2], pads), family).unwrap();
                let error = conv.run(&made_input(&[1, channels, 2, 12]), None, true).unwrap_err();
                assert!(error.contains("smaller than the kernel"), "{error}");
            }
            let long = spec(16, channels, groups, [3, 3], [65_535; 2], [1, 1, 0, 0]);
            assert_eq!(check(&long, 2, 5, 4), families().len());
            let far = spec(16, channels, groups, [3, 3], [200; 2], [300; 4]);
            assert_eq!(check(&far, 1, 5, 4), families().len());
        }
    }
}

#[test]
fn sizes_that_no_value_may_have_are_refused_before_memory_is_taken() {
    for family in families() {
        for (channels, what) in [(16, "the output"), (3, "the padded input")] {
            let stride = if channels == 3 { 60_000 } else { 1 };
            let conv = packed(&spec(16, channels, 1, [3, 3], [stride; 2], [65_535; 4]), family).unwrap();
            let error = conv.run(&made_input(&[1, channels, 4, 4]), None, true).unwrap_err();
            assert!(error.contains(what) && error.contains("larger than 268435456"), "{error}");
        }
        let conv = packed(&spec(16, 16, 1, [1, 1], [1; 2], [0; 4]), family).unwrap();
        let one = Tensor::zeros([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        let input = made_input(&[1, 16, 1, 1]);
        let wide = one.expand([1 << 27, 16, 1, 1], false);
        assert!(conv.run(&wide, None, true).unwrap_err().contains("the input"));
        let residual = one.expand([1 << 27, 1, 1, 1], false);
        assert!(conv.run(&input, Some(&residual), true).unwrap_err().contains("the sum"));
        let unlike = Tensor::zeros([3, 5, 1, 1], (Kind::Float, Device::Cpu));
        assert!(!conv.run(&input, Some(&unlike), true).unwrap_err().is_empty());
    }
}

#[test]
fn numbers_that_overflow_together_are_no_convolution() {
    let most = (1 << 16) - 1;
    let absurd = ConvSpec {
        out_channels: most,
        channels: most,
        groups: 1,
        kernel: [most; 2],
        stride: [1; 2],
        bias: vec![0.0; most as usize],
        slopes: vec![0.0; most as usize],
        ..ConvSpec::default()
    };
    for family in families() {
        assert!(packed(&absurd, family).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn convolutions_of_any_shape_equal_libtorchs(
        out_channels in 1i64..40, channels in 1i64..24, is_depthwise: bool,
        kernel in (1i64..5, 1i64..5), stride in (1i64..4, 1i64..4), pads in prop::array::uniform4(0i64..4),
        images in 1i64..4, height in 5i64..14, width in 5i64..14,
    ) {
        let (out_channels, groups) = if is_depthwise { (channels, channels) } else { (out_channels, 1) };
        check(&spec(out_channels, channels, groups, kernel.into(), stride.into(), pads), images, height, width);
    }

    #[test]
    fn convolutions_by_winograd_equal_libtorchs(
        out_channels in 16i64..72, sixteens in 1i64..=8, pads in prop::array::uniform4(0i64..4),
        images in 1i64..4, height in 3i64..24, width in 3i64..24,
    ) {
        check(&spec(out_channels, 16 * sixteens, 1, [3, 3], [1, 1], pads), images, height, width);
    }

    #[test]
    fn depthwise_convolutions_of_face_networks_equal_libtorchs(
        channels in 1i64..72, stride in 1i64..3, pads in prop::array::uniform4(0i64..3),
        images in 1i64..3, height in 3i64..20, width in 3i64..40,
    ) {
        check(&spec(channels, channels, channels, [3, 3], [stride; 2], pads), images, height, width);
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    to_floats(&tensor.detach().contiguous()).unwrap()
}

#[test]
fn prelu_and_its_gradients_are_libtorchs() {
    for (shape, slopes) in [(vec![3, 5, 7, 9], 5), (vec![40, 16, 12, 12], 16), (vec![2, 4, 3, 3], 1), (vec![6, 8], 8)] {
        let x = (made_input(&shape) * 0.7 - 0.3).set_requires_grad(true);
        let slopes = (Tensor::arange(slopes, (Kind::Float, Device::Cpu)) * 0.1 - 0.2).set_requires_grad(true);
        let weights = made_input(&shape).cos();
        let both = |y: Tensor| Tensor::run_backward(&[(y * &weights).sum(Kind::Float)], &[&x, &slopes], false, false);
        let (ours, theirs) = (prelu(&x, &slopes).unwrap(), x.prelu(&slopes));
        assert_eq!(numbers(&ours), numbers(&theirs));
        let (ours, theirs) = (both(ours), both(theirs));
        assert_eq!(numbers(&ours[0]), numbers(&theirs[0]), "{shape:?}");
        let largest = theirs[1].abs().max().double_value(&[]);
        let apart = (&ours[1] - &theirs[1]).abs().max().double_value(&[]);
        assert!(apart <= 1e-5 * largest, "{shape:?}: {apart} of {largest}");
    }
}
