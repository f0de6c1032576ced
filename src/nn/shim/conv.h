// Convolutions of channels-last images with bias, activation and residual fused in: what a face network spends its
// time on. Plain memory in and out; tensors.cpp brings the tensors.
#pragma once
#include <cstdint>

namespace faceid {

using bf16 = uint16_t;

// One convolution of a batch, ready to run. Layouts: images N x H x W x C; `weights` as the packing functions of
// tensors.cpp leave them; `bias` and `slopes` padded with zeros to whole vectors.
struct Conv {
    int64_t images, height, width, channels;              // of the input; the channels that one tap reads
    int64_t pixel;                                         // elements from a pixel of the input to the next
    int64_t out_height, out_width, out_channels;
    int64_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
    const void* input;                                     // elements of the kernel's type
    const void* weights;
    const float* bias;
    const float* slopes;                                   // factor of negative values per channel, 1 for none
    const void* residual;                                  // added last, shaped as the output; may be null
    void* output;
    bool output_is_float;                                  // else of the kernel's type
    const void* zeros;                                     // a row of zeros, at least width * pixel + 64 elements
};

// Input channels of which `winograd` keeps a few transformed tiles on its stack.
constexpr int64_t winograd_channels = 128;

// The kernels of one instruction set. Ranges let several threads share a convolution.
struct Kernels {
    const char* name;
    int64_t lanes;         // output channels in a vector
    int64_t depth;         // input channels that one instruction sums
    int64_t tile;          // output positions that `dense`, and tiles of them that `winograd` computes at once
    bool is_bf16;
    // Groups of one: first..last of the images * out_height * out_width output positions, in an order of the kernel's.
    void (*dense)(const Conv&, int64_t first, int64_t last);
    // Groups of one, 3 x 3 taps, stride one: tiles first..last of images * half the output's height * half its width, both
    // rounded up. Wants a multiple of 16 channels, at most `winograd_channels`.
    void (*winograd)(const Conv&, int64_t first, int64_t last);
    // As many groups as channels: output rows first..last of images * out_height.
    void (*depthwise)(const Conv&, int64_t first, int64_t last);
};

// Null where the compiler cannot build them; the caller checks what the processor has.
const Kernels* kernels_avx2_f32();
const Kernels* kernels_avx512_f32();
const Kernels* kernels_avx512_bf16();

}  // namespace faceid
