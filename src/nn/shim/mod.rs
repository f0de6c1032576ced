//! What tch has no binding for, in C++ against the same libtorch (`shim.h`), behind safe functions.
//!
//! - [`FusedConv`]: convolutions of channels-last images with bias, activation and residual in one pass over memory.
//! - [`pixels`]: bytes of images to the input of a network in one pass; [`pinned`]: the bytes alone, for a GPU.
//! - [`prelu`]: an activation whose gradients take one pass; [`inference`]: work that needs no gradients.
//! - [`tune_heap`], [`keep_heap`]: what the C++ heap keeps of what networks free.
//! - [`Script`]: TorchScript, frozen and optimised for inference.
//! - [`dots_i8`]: dot products of bytes, for the exact search.
//! - [`open_library`]: CUDA's backend, opened at run time by a binary that was linked without it.
//! - [`SharedGraph`]: a loaded graph that several threads run.
//! - [`exit_at_once`]: an end that does not wait for operations in work.
//!
//! This is the only place with `unsafe`. Tensors cross as `at::Tensor*`: we lend pointers of tensors that outlive the
//! call and that the C++ side only reads, and take ownership of those it returns. C++ exceptions are caught there and
//! come back as messages.

mod conv;
mod dots;
mod ffi;
mod shared;

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};

use tch::{Device, Kind, Tensor};

pub use conv::{ConvSpec, Family, FusedConv};
pub use dots::dots_i8;
pub use shared::SharedGraph;

/// `x` where positive, else `x` times the slope of its channel, with gradients if they are recorded. `slopes` has one number
/// or one for each channel, dimension 1 of `x`, in the type of `x`. On the CPU in float faster than libtorch's.
pub fn prelu(x: &Tensor, slopes: &Tensor) -> Result<Tensor, String> {
    let mut error = ptr::null_mut();
    // SAFETY: both tensors are live and only read.
    let output = unsafe { ffi::faceid_prelu(x.as_ptr().cast(), slopes.as_ptr().cast(), &mut error) };
    take_tensor(output, error)
}

/// Images of interleaved RGB bytes, `height * width * 3` each, as `N x 3 x H x W` in channels-last order:
/// `(pixel - mean) / scale`, blue first if `bgr`, bfloat16 or float. On the CPU.
pub fn pixels(
    images: &[&[u8]],
    (width, height): (u32, u32),
    mean: [f32; 3],
    scale: f32,
    bgr: bool,
    bf16: bool,
) -> Result<Tensor, String> {
    let bytes = width as usize * height as usize * 3;
    assert!(images.iter().all(|image| image.len() == bytes), "the caller checks the sizes");
    let pointers: Vec<*const u8> = images.iter().map(|image| image.as_ptr()).collect();
    let mut error = ptr::null_mut();
    // SAFETY: every pointer leads to `height * width * 3` bytes that live through the call.
    let output = unsafe {
        ffi::faceid_pixels(
            pointers.as_ptr(),
            pointers.len() as i64,
            i64::from(height),
            i64::from(width),
            mean.as_ptr(),
            scale,
            bgr,
            bf16,
            &mut error,
        )
    };
    take_tensor(output, error)
}

/// Images of equal length as `N x bytes` in page-locked memory, from which a GPU copies directly. Needs CUDA's backend.
pub fn pinned(images: &[&[u8]]) -> Result<Tensor, String> {
    let bytes = images.first().map_or(0, |image| image.len());
    assert!(images.iter().all(|image| image.len() == bytes), "the caller checks the sizes");
    let pointers: Vec<*const u8> = images.iter().map(|image| image.as_ptr()).collect();
    let mut error = ptr::null_mut();
    // SAFETY: every pointer leads to `bytes` bytes that live through the call.
    let output = unsafe { ffi::faceid_pinned(pointers.as_ptr(), pointers.len() as i64, bytes as i64, &mut error) };
    take_tensor(output, error)
}

/// Does work whose tensors need no gradients, now or later: libtorch's inference mode.
pub fn inference<T>(work: impl FnOnce() -> T) -> T {
    struct Mode(NonNull<ffi::Inference>);
    impl Drop for Mode {
        fn drop(&mut self) {
            // SAFETY: begun once, on this thread: the guard never leaves this function.
            unsafe { ffi::faceid_inference_end(self.0.as_ptr()) }
        }
    }
    // SAFETY: takes nothing; the mode is that of this thread.
    let _mode = NonNull::new(unsafe { ffi::faceid_inference_begin() }).map(Mode);
    work()
}

/// Outputs of a TorchScript module beyond which it is no network for us.
const MAX_OUTPUTS: usize = 64;

/// A TorchScript module, evaluated, frozen and optimised for inference.
pub struct Script {
    module: NonNull<ffi::Module>,
    device: Device,
    kind: Kind,
}

// SAFETY: a frozen module holds constants and code; libtorch runs it from several threads at once.
unsafe impl Send for Script {}
// SAFETY: as above.
unsafe impl Sync for Script {}

impl Script {
    /// Reads an archive, puts it on `device` and casts its weights to `kind` (float, half or bfloat16).
    ///
    /// `optimise` freezes it and, in float on the CPU, lets libtorch rewrite it for oneDNN.
    pub fn load(archive: &[u8], device: Device, kind: Kind, optimise: bool) -> Result<Self, String> {
        let cuda_device = match device {
            Device::Cuda(number) => i32::try_from(number).map_err(|_| "no such CUDA device".to_owned())?,
            _ => -1,
        };
        // The numbers of libtorch's types, which tch keeps to itself.
        let kind_number = match kind {
            Kind::Half => 5,
            Kind::Float => 6,
            Kind::BFloat16 => 15,
            other => return Err(format!("a network cannot run in {other:?}")),
        };
        let mut error = ptr::null_mut();
        // SAFETY: the bytes live through the call, which copies what it keeps.
        let module = unsafe {
            let bytes = archive.as_ptr().cast::<c_char>();
            ffi::faceid_module_load(bytes, archive.len(), cuda_device, kind_number, optimise, &mut error)
        };
        match NonNull::new(module) {
            Some(module) => Ok(Self { module, device, kind }),
            None => Err(take_message(error)),
        }
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// The type of its weights and of what it reads.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Runs it without recording gradients; tensors, lists and tuples that it returns are flattened into one list.
    pub fn run(&self, input: &Tensor) -> Result<Vec<Tensor>, String> {
        let mut outputs = [ptr::null_mut(); MAX_OUTPUTS];
        let mut error = ptr::null_mut();
        // SAFETY: the input is live and only read; there is room for as many outputs as the limit says.
        let count = unsafe {
            let limit = MAX_OUTPUTS as i64;
            ffi::faceid_module_run(self.module.as_ptr(), input.as_ptr().cast(), outputs.as_mut_ptr(), limit, &mut error)
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(take_message(error));
        };
        // SAFETY: the first `count` pointers are new tensors that now belong to us.
        Ok(outputs[..count].iter().map(|output| unsafe { Tensor::from_ptr(output.cast()) }).collect())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `faceid_module_load` and is freed once.
        unsafe { ffi::faceid_module_free(self.module.as_ptr()) }
    }
}

/// How many threads convolutions that the calling thread starts may use, itself counted.
pub fn use_threads(count: i32) {
    // SAFETY: sets a number of the calling thread.
    unsafe { ffi::faceid_use_threads(count) }
}

/// Opens a shared library for the whole process.
pub fn open_library(path: &Path) -> Result<(), String> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    let mut error = ptr::null_mut();
    // SAFETY: a NUL-terminated path. The library's initialisers run; it is libtorch's own.
    let is_open = unsafe { ffi::faceid_open_library(path.as_ptr(), &mut error) };
    if is_open { Ok(()) } else { Err(take_message(error)) }
}

/// Ends the process at once with this status. What `exit` does first, libtorch's destructors among it, would pull away the
/// ground under threads that are in the middle of an operation.
pub fn exit_at_once(status: u8) -> ! {
    // SAFETY: takes a number and does not return, so nothing of this process is used after it.
    unsafe { ffi::faceid_exit(i32::from(status)) }
}

/// Lets the C++ heap keep what one pass frees for the next; blocks of 16 MiB and more go back to the system at once.
pub fn tune_heap() {
    // SAFETY: sets two parameters of malloc.
    unsafe { ffi::faceid_tune_heap() }
}

/// Lets the C++ heap keep all that is freed, of any size, for what comes next: for training, whose steps are alike. Threads
/// that are started later share one heap.
pub fn keep_heap() {
    // SAFETY: sets parameters of malloc.
    unsafe { ffi::faceid_keep_heap() }
}

fn take_tensor(tensor: *mut c_void, error: *mut c_char) -> Result<Tensor, String> {
    if tensor.is_null() {
        return Err(take_message(error));
    }
    // SAFETY: a new tensor that now belongs to us.
    Ok(unsafe { Tensor::from_ptr(tensor.cast()) })
}

fn take_message(message: *mut c_char) -> String {
    if message.is_null() {
        return "no message".to_owned();
    }
    // SAFETY: a NUL-terminated string that the C++ side allocated and that is freed once.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        ffi::faceid_free_message(message);
        text
    }
}

#[cfg(test)]
mod tests;
