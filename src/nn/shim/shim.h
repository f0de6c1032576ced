// What tch cannot do, against the same libtorch: fused convolutions, pixels to network inputs, frozen TorchScript,
// CUDA opened at run time, an end that waits for nothing; and dot products of bytes. Plain C, called from ffi.rs. A
// `tensor` is an at::Tensor* as in torch-sys; those that come back belong to the caller. Where a function takes `error`, it returns null (or -1, or false) after setting it to a
// message that the caller frees with faceid_free_message. All are noexcept: an exception that Rust would meet is undefined
// behaviour, one that leaves a noexcept function ends the process. See caught.h.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

typedef void* faceid_tensor;
struct faceid_conv;
struct faceid_module;
struct faceid_inference;

// Kernel families by number: 0 AVX2 float, 1 AVX-512 float, 2 AVX-512 bfloat16. Says whether this build has it and
// the processor runs it.
bool faceid_has_kernels(int family) noexcept;

// How many threads convolutions that the calling thread starts may use, itself counted.
void faceid_use_threads(int count) noexcept;

struct faceid_conv_spec {
    int64_t out_channels, channels, groups;  // channels of the whole input
    int64_t kernel_height, kernel_width, stride_y, stride_x;
    int64_t pad_top, pad_left, pad_bottom, pad_right;
    const float* weights;  // out_channels x (channels / groups) x kernel_height x kernel_width
    const float* bias;     // out_channels, or null
    const float* slopes;   // out_channels factors of negative values, or null
};

// Packs a convolution; null if no kernel of the family fits its shape, which leaves `error` as it is.
faceid_conv* faceid_conv_new(const faceid_conv_spec* spec, int family, char** error) noexcept;
void faceid_conv_free(faceid_conv* conv) noexcept;
// Runs it on N x C x H x W in any type and layout. Gives N x O x H' x W' in channels-last order, as float if asked,
// else in the family's type. `residual` may be null; it is added last, and broadcast where its shape differs. Several threads may share a convolution.
faceid_tensor faceid_conv_run(const faceid_conv* conv, const void* input, const void* residual, bool float_output,
                              char** error) noexcept;

// PReLU, with gradients if they are recorded: x where positive, else the slope of its channel times x. `slopes` has one
// number or one for each channel.
faceid_tensor faceid_prelu(const void* input, const void* slopes, char** error) noexcept;

// Images of interleaved RGB bytes as N x 3 x H x W in channels-last order, (pixel - mean) / scale.
faceid_tensor faceid_pixels(const uint8_t* const* images, int64_t count, int64_t height, int64_t width,
                            const float mean[3], float scale, bool bgr, bool as_bf16, char** error) noexcept;

// Images of `bytes` bytes each, one after the other, in memory that a GPU copies from directly. Needs CUDA's backend.
faceid_tensor faceid_pinned(const uint8_t* const* images, int64_t count, int64_t bytes, char** error) noexcept;

// A TorchScript archive, evaluated, frozen and (on the CPU) optimised for inference.
faceid_module* faceid_module_load(const char* bytes, size_t length, int cuda_device, int kind, bool optimise, char** error) noexcept;
void faceid_module_free(faceid_module* module) noexcept;
// Runs it; its tensors, lists and tuples are flattened into at most `limit` outputs. Returns how many there are.
int64_t faceid_module_run(const faceid_module* module, const void* input, faceid_tensor* outputs, int64_t limit,
                          char** error) noexcept;

// Dot products of bytes, exact: out[q * row_count + r] = sum over i of rows[r * stride + i] * queries[q * stride + i].
// Every byte is in -127..127; row_sums[r] is the sum of row r; stride is a multiple of 64 (rows are padded with zeros)
// up to 2^16, so that sums stay within 32 bits. On the calling thread. Rows are read from memory once, in order.
void faceid_dots_i8(const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride,
                    const int8_t* queries, int64_t query_count, int32_t* out) noexcept;
// The same by one of the kernels, for tests: 0 plain C++, 1 AVX2, 2 AVX-512 VNNI. False if it is not to be had here.
bool faceid_dots_i8_by(int family, const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride,
                       const int8_t* queries, int64_t query_count, int32_t* out) noexcept;

// While it lives, operations of this thread keep no trace of how their results came about, which makes each cheaper. Null
// if there is no memory for it: they keep traces then.
faceid_inference* faceid_inference_begin() noexcept;
void faceid_inference_end(faceid_inference* mode) noexcept;

// Opens a shared library for the whole process, for backends that register themselves.
bool faceid_open_library(const char* path, char** error) noexcept;

// Ends the process at once with this status: no destructor runs.
[[noreturn]] void faceid_exit(int status) noexcept;

// Lets the C++ heap keep what passes of a network free and take again at once; larger blocks go back to the system.
void faceid_tune_heap() noexcept;

// Lets it keep everything, in one heap for the threads that are started later.
void faceid_keep_heap() noexcept;

void faceid_free_message(char* message) noexcept;
}
