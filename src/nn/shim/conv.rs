//! Convolutions of channels-last images with bias, activation and residual in one pass over memory.

use std::ptr::{self, NonNull};

use tch::{Kind, Tensor};

use super::{ffi, take_message, take_tensor};

/// An instruction set with convolutions of its own, and the type of its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Avx2Float = 0,
    Avx512Float = 1,
    Avx512Bf16 = 2,
}

impl Family {
    /// Whether this build has the kernels and this processor runs them.
    pub fn is_available(self) -> bool {
        // SAFETY: takes a number and reads the processor's capabilities.
        unsafe { ffi::faceid_has_kernels(self as i32) }
    }

    /// The type of its activations.
    pub fn kind(self) -> Kind {
        match self {
            Self::Avx2Float | Self::Avx512Float => Kind::Float,
            Self::Avx512Bf16 => Kind::BFloat16,
        }
    }

    /// Channels in a vector of its registers.
    pub fn lanes(self) -> i64 {
        match self {
            Self::Avx2Float => 8,
            Self::Avx512Float | Self::Avx512Bf16 => 16,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2Float => "avx2",
            Self::Avx512Float => "avx512",
            Self::Avx512Bf16 => "avx512_bf16",
        }
    }
}

/// The shape and the numbers of a convolution.
#[derive(Debug, Clone, Default)]
pub struct ConvSpec {
    pub out_channels: i64,
    /// Of the whole input.
    pub channels: i64,
    pub groups: i64,
    /// Height and width.
    pub kernel: [i64; 2],
    pub stride: [i64; 2],
    /// Top, left, bottom, right.
    pub pads: [i64; 4],
    /// `out_channels x (channels / groups) x height x width` numbers.
    pub weights: Vec<f32>,
    /// `out_channels` numbers.
    pub bias: Vec<f32>,
    /// What negative values are multiplied by, for each output channel: 0 is ReLU, 1 is no activation.
    pub slopes: Vec<f32>,
}

impl ConvSpec {
    /// Whether lengths agree and every number is one that a convolution can have.
    fn is_consistent(&self) -> bool {
        let channels = |numbers: &[f32]| numbers.len() as i64 == self.out_channels;
        let [height, width] = self.kernel;
        let positive = [self.out_channels, self.channels, self.groups, height, width, self.stride[0], self.stride[1]];
        positive.iter().all(|number| (1..1 << 16).contains(number))
            && self.pads.iter().all(|pad| (0..1 << 16).contains(pad))
            && self.channels % self.groups == 0
            // Four numbers of 16 bits each.
            && self.weights.len() as i128
                == [self.out_channels, self.channels / self.groups, height, width].map(i128::from).iter().product::<i128>()
            && channels(&self.bias)
            && channels(&self.slopes)
    }
}

/// A convolution with its weights packed for one family.
pub struct FusedConv(NonNull<ffi::Conv>);

// SAFETY: packed weights that nothing changes after `new`; the C++ side keeps its scratch per thread.
unsafe impl Send for FusedConv {}
// SAFETY: as above; `run` takes it as const and several threads may run it at once.
unsafe impl Sync for FusedConv {}

impl FusedConv {
    /// Packs a convolution; `None` if the family has no kernel for its shape (groups other than one or depthwise).
    pub fn new(spec: &ConvSpec, family: Family) -> Result<Option<Self>, String> {
        if !spec.is_consistent() {
            return Ok(None);
        }
        let raw = ffi::ConvSpec {
            out_channels: spec.out_channels,
            channels: spec.channels,
            groups: spec.groups,
            kernel_height: spec.kernel[0],
            kernel_width: spec.kernel[1],
            stride_y: spec.stride[0],
            stride_x: spec.stride[1],
            pad_top: spec.pads[0],
            pad_left: spec.pads[1],
            pad_bottom: spec.pads[2],
            pad_right: spec.pads[3],
            weights: spec.weights.as_ptr(),
            bias: spec.bias.as_ptr(),
            slopes: spec.slopes.as_ptr(),
        };
        let mut error = ptr::null_mut();
        // SAFETY: the three arrays have the lengths that the spec states (checked above) and are copied by the call.
        let packed = NonNull::new(unsafe { ffi::faceid_conv_new(&raw, family as i32, &mut error) }).map(Self);
        if error.is_null() { Ok(packed) } else { Err(take_message(error)) }
    }

    /// `N x C x H x W` in any type and layout to `N x O x H' x W'` in channels-last order.
    ///
    /// The activation comes before the `residual`, which is added (and broadcast where its shape differs). The output
    /// is of the family's kind, or float if asked.
    pub fn run(&self, input: &Tensor, residual: Option<&Tensor>, float_output: bool) -> Result<Tensor, String> {
        let residual = residual.map_or(ptr::null(), Tensor::as_ptr);
        let mut error = ptr::null_mut();
        // SAFETY: the pointers are of live tensors, which the call reads only, and of a live convolution.
        let output = unsafe {
            ffi::faceid_conv_run(self.0.as_ptr(), input.as_ptr().cast(), residual.cast(), float_output, &mut error)
        };
        take_tensor(output, error)
    }
}

impl Drop for FusedConv {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `faceid_conv_new` and is freed once.
        unsafe { ffi::faceid_conv_free(self.0.as_ptr()) }
    }
}
