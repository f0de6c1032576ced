//! The declarations of `shim.h`, which says what each of them does.

use std::ffi::{c_char, c_void};

/// An `at::Tensor*`, as in torch-sys.
pub type Tensor = *mut c_void;

#[repr(C)]
pub struct Conv {
    opaque: [u8; 0],
}

#[repr(C)]
pub struct Module {
    opaque: [u8; 0],
}

#[repr(C)]
pub struct Inference {
    opaque: [u8; 0],
}

#[repr(C)]
pub struct ConvSpec {
    pub out_channels: i64,
    pub channels: i64,
    pub groups: i64,
    pub kernel_height: i64,
    pub kernel_width: i64,
    pub stride_y: i64,
    pub stride_x: i64,
    pub pad_top: i64,
    pub pad_left: i64,
    pub pad_bottom: i64,
    pub pad_right: i64,
    pub weights: *const f32,
    pub bias: *const f32,
    pub slopes: *const f32,
}

unsafe extern "C" {
    pub fn faceid_has_kernels(family: i32) -> bool;
    pub fn faceid_use_threads(count: i32);
    pub fn faceid_conv_new(spec: *const ConvSpec, family: i32, error: *mut *mut c_char) -> *mut Conv;
    pub fn faceid_conv_free(conv: *mut Conv);
    pub fn faceid_conv_run(
        conv: *const Conv,
        input: *const c_void,
        residual: *const c_void,
        float_output: bool,
        error: *mut *mut c_char,
    ) -> Tensor;
    pub fn faceid_prelu(input: *const c_void, slopes: *const c_void, error: *mut *mut c_char) -> Tensor;
    pub fn faceid_pixels(
        images: *const *const u8,
        count: i64,
        height: i64,
        width: i64,
        mean: *const f32,
        scale: f32,
        bgr: bool,
        as_bf16: bool,
        error: *mut *mut c_char,
    ) -> Tensor;
    pub fn faceid_pinned(images: *const *const u8, count: i64, bytes: i64, error: *mut *mut c_char) -> Tensor;
    pub fn faceid_inference_begin() -> *mut Inference;
    pub fn faceid_inference_end(mode: *mut Inference);
    pub fn faceid_module_load(
        bytes: *const c_char,
        length: usize,
        cuda_device: i32,
        kind: i32,
        optimise: bool,
        error: *mut *mut c_char,
    ) -> *mut Module;
    pub fn faceid_module_free(module: *mut Module);
    pub fn faceid_module_run(
        module: *const Module,
        input: *const c_void,
        outputs: *mut Tensor,
        limit: i64,
        error: *mut *mut c_char,
    ) -> i64;
    pub fn faceid_dots_i8(
        rows: *const i8,
        row_sums: *const i32,
        row_count: i64,
        stride: i64,
        queries: *const i8,
        query_count: i64,
        out: *mut i32,
    );
    #[cfg(test)]
    pub fn faceid_dots_i8_by(
        family: i32,
        rows: *const i8,
        row_sums: *const i32,
        row_count: i64,
        stride: i64,
        queries: *const i8,
        query_count: i64,
        out: *mut i32,
    ) -> bool;
    pub fn faceid_open_library(path: *const c_char, error: *mut *mut c_char) -> bool;
    pub fn faceid_exit(status: i32) -> !;
    pub fn faceid_tune_heap();
    pub fn faceid_keep_heap();
    pub fn faceid_free_message(message: *mut c_char);
}
