// Tensors in and out of the convolutions: packing, threads, types.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "caught.h"
#include "conv.h"
#include "shim.h"
#include "threads.h"

using faceid::bf16;
using faceid::caught;
using faceid::Conv;
using faceid::Kernels;

namespace {

const Kernels* kernels_of(int family) {
#if defined(__x86_64__)
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    switch (family) {
        case 0: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? faceid::kernels_avx2_f32() : nullptr;
        case 1: return avx512 ? faceid::kernels_avx512_f32() : nullptr;
        case 2: return avx512 && __builtin_cpu_supports("avx512bf16") ? faceid::kernels_avx512_bf16() : nullptr;
    }
#endif
    return nullptr;
}

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// To nearest, ties to even, as the processor rounds.
bf16 to_bf16(float value) { return c10::BFloat16(value).x; }

// An element of a 3 x 3 kernel transformed for Winograd's F(2x2, 3x3), see winograd_impl.h.
float transformed_weight(const float* kernel, int64_t element) {
    static constexpr float transform[4][3] = {{1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};
    float sum = 0;
    for (int64_t y = 0; y < 3; y++) {
        for (int64_t x = 0; x < 3; x++) sum += transform[element / 4][y] * transform[element % 4][x] * kernel[y * 3 + x];
    }
    return sum;
}

// Whether the convolution is one for `Kernels::winograd`: measured, it is 1.2 (16 channels to 16) to 2 times as fast as
// `dense` for all of these, on images of any size.
bool suits_winograd(const faceid_conv_spec& spec) {
    return spec.kernel_height == 3 && spec.kernel_width == 3 && spec.stride_y == 1 && spec.stride_x == 1 &&
           spec.groups == 1 && spec.channels % 16 == 0 && spec.channels <= faceid::winograd_channels &&
           spec.out_channels >= 16;
}

}  // namespace

struct faceid_conv {
    const Kernels* kernels;
    faceid_conv_spec spec;
    bool depthwise;
    // Few input channels: the input is copied into padded rows, and a tap reads a whole row of the kernel.
    bool rows;
    bool winograd;                      // taps are elements of the transformed kernel
    int64_t tap_channels;               // channels that one tap reads
    int64_t taps;
    std::vector<float> bias, slopes;    // padded to whole vectors
    std::vector<float> weights_f32;     // of float kernels and of every depthwise convolution
    std::vector<bf16> weights_bf16;

    const void* weights() const {
        return weights_f32.empty() ? static_cast<const void*>(weights_bf16.data()) : weights_f32.data();
    }

    // The weight of an output channel for a channel of a tap; zero beyond the channels.
    float weight(int64_t out, int64_t tap, int64_t channel) const {
        if (out >= spec.out_channels || channel >= tap_channels) return 0;
        if (winograd) return transformed_weight(spec.weights + (out * tap_channels + channel) * 9, tap);
        const int64_t area = spec.kernel_height * spec.kernel_width;
        if (!rows) return spec.weights[(out * tap_channels + channel) * area + tap];
        const int64_t kx = channel / spec.channels, in = channel % spec.channels;
        return spec.weights[(out * spec.channels + in) * area + tap * spec.kernel_width + kx];
    }

    void pack_depthwise() {
        const int64_t padded = round_up(spec.channels, 16);
        weights_f32.assign(static_cast<size_t>(taps * padded), 0);
        for (int64_t t = 0; t < taps; t++) {
            for (int64_t c = 0; c < spec.channels; c++) weights_f32[t * padded + c] = spec.weights[c * taps + t];
        }
    }

    // In the order in which `dense_block` reads: pairs of vectors of output channels, taps, input channels.
    template <class Element, class Convert>
    void pack_dense(std::vector<Element>& to, Convert convert) {
        const int64_t lanes = kernels->lanes, depth = kernels->depth;
        const int64_t vectors = round_up(spec.out_channels, lanes) / lanes, steps = round_up(tap_channels, depth) / depth;
        to.reserve(static_cast<size_t>(vectors * lanes * taps * steps * depth));
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const int64_t wide = std::min<int64_t>(2, vectors - vector);
            for (int64_t t = 0; t < taps; t++) {
                for (int64_t k = 0; k < steps; k++) {
                    for (int64_t lane = 0; lane < wide * lanes; lane++) {
                        for (int64_t d = 0; d < depth; d++) {
                            to.push_back(convert(weight(vector * lanes + lane, t, k * depth + d)));
                        }
                    }
                }
            }
        }
    }
};

namespace {

// A scratch of each thread that starts convolutions; kernels only read it once it is filled.
template <class Element>
Element* scratch(int64_t elements) {
    thread_local std::vector<Element> memory;
    if (static_cast<int64_t>(memory.size()) < elements) memory.resize(static_cast<size_t>(elements));
    return memory.data();
}

const void* zeros(int64_t elements) {
    thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < elements) memory.assign(static_cast<size_t>(elements), 0.0f);
    return memory.data();
}

// Copies images into rows with their padding around them, so that a row of the kernel is one run of memory.
template <class Element>
void copy_padded(const Element* from, Conv& run, const faceid_conv_spec& spec) {
    const int64_t height = run.height + spec.pad_top + spec.pad_bottom;
    const int64_t width = run.width + spec.pad_left + spec.pad_right;
    const int64_t row = width * spec.channels, inner = run.width * spec.channels;
    // A last pair of channels may reach one element beyond the last row.
    Element* to = scratch<Element>(run.images * height * row + 64);
    std::memset(to + run.images * height * row, 0, 64 * sizeof(Element));
    for (int64_t image = 0; image < run.images; image++) {
        Element* top = to + image * height * row;
        std::memset(top, 0, static_cast<size_t>(spec.pad_top * row) * sizeof(Element));
        std::memset(top + (spec.pad_top + run.height) * row, 0, static_cast<size_t>(spec.pad_bottom * row) * sizeof(Element));
        for (int64_t y = 0; y < run.height; y++) {
            Element* line = top + (spec.pad_top + y) * row;
            const Element* source = from + (image * run.height + y) * inner;
            std::memset(line, 0, static_cast<size_t>(spec.pad_left * spec.channels) * sizeof(Element));
            std::memcpy(line + spec.pad_left * spec.channels, source, static_cast<size_t>(inner) * sizeof(Element));
            std::memset(line + spec.pad_left * spec.channels + inner, 0,
                        static_cast<size_t>(spec.pad_right * spec.channels) * sizeof(Element));
        }
    }
    run.input = to;
    run.height = height;
    run.width = width;
    run.pad_top = run.pad_left = 0;
    run.kernel_width = 1;
}

// Multiplications that are worth a thread of their own.
constexpr int64_t work_per_thread = 400'000;

void run_kernels(const faceid_conv& conv, const Conv& run) {
    const int64_t rows = run.images * run.out_height, positions = rows * run.out_width;
    // Of a position, or of the tile that takes its place.
    const int64_t per_position = conv.taps * conv.tap_channels * (conv.depthwise ? 1 : conv.spec.out_channels);
    int64_t items = positions, per_item = per_position, step = 2 * conv.kernels->tile;
    auto kernel = conv.kernels->dense;
    if (conv.depthwise) {
        items = rows;
        per_item = per_position * run.out_width;
        step = 1;
        kernel = conv.kernels->depthwise;
    } else if (conv.winograd) {
        items = run.images * ((run.out_height + 1) / 2) * ((run.out_width + 1) / 2);
        step = conv.kernels->tile;
        kernel = conv.kernels->winograd;
    }
    const int64_t grain = std::max<int64_t>(1, work_per_thread / std::max<int64_t>(1, per_item));
    faceid::parallel(items, grain, step, [&](int64_t first, int64_t last) { kernel(run, first, last); });
}

at::Tensor prepared(const at::Tensor& tensor, at::ScalarType type) {
    return tensor.to(type).contiguous(at::MemoryFormat::ChannelsLast);
}

// Elements that one value may have, as MAX_ELEMENTS of the ONNX importer says.
constexpr int64_t max_elements = int64_t{1} << 28;

// Refuses a value of these many numbers, which are not negative, if it is larger than any may be.
void check_elements(std::initializer_list<int64_t> counts, const char* what) {
    int64_t product = 1;
    for (const int64_t count : counts) {
        if (count > 0 && product > max_elements / count) {
            throw std::runtime_error(std::string(what) + " of the convolution is larger than " +
                                     std::to_string(max_elements) + " elements");
        }
        product *= std::max<int64_t>(1, count);
    }
}

// The length of the output along an axis.
int64_t out_length(int64_t length, int64_t pads, int64_t kernel, int64_t stride) {
    // Nothing but padding is no image: taps would read zeros where there is not even a row of them.
    if (length < 1) throw std::runtime_error("the convolution reads an image without pixels");
    if (length + pads < kernel) throw std::runtime_error("the image is smaller than the kernel of the convolution");
    return (length + pads - kernel) / stride + 1;
}

// The sizes of a run, all of them checked.
Conv sized(const faceid_conv& conv, const at::Tensor& input) {
    const auto& spec = conv.spec;
    if (input.dim() != 4 || input.size(1) != spec.channels || !input.device().is_cpu()) {
        throw std::runtime_error("the convolution reads N x " + std::to_string(spec.channels) + " x H x W");
    }
    Conv run{};
    run.images = input.size(0);
    run.height = input.size(2);
    run.width = input.size(3);
    run.channels = conv.depthwise ? spec.channels : conv.tap_channels;
    run.pixel = spec.channels;
    run.out_channels = spec.out_channels;
    const int64_t rows = spec.pad_top + spec.pad_bottom, columns = spec.pad_left + spec.pad_right;
    run.out_height = out_length(run.height, rows, spec.kernel_height, spec.stride_y);
    run.out_width = out_length(run.width, columns, spec.kernel_width, spec.stride_x);
    check_elements({run.images, run.height, run.width, run.pixel}, "the input");
    check_elements({run.images, run.out_height, run.out_width, run.out_channels}, "the output");
    if (conv.rows) check_elements({run.images, run.height + rows, run.width + columns, run.pixel}, "the padded input");
    run.kernel_height = spec.kernel_height;
    run.kernel_width = spec.kernel_width;
    run.stride_y = spec.stride_y;
    run.stride_x = spec.stride_x;
    run.pad_top = spec.pad_top;
    run.pad_left = spec.pad_left;
    return run;
}

// The residual of another shape, added to the output.
at::Tensor add_broadcast(const at::Tensor& output, const at::Tensor& residual) {
    int64_t elements = 1;
    for (const int64_t length : at::infer_size(output.sizes(), residual.sizes())) {
        check_elements({elements, length}, "the sum");
        elements *= length;
    }
    return output.add(residual);
}

at::Tensor run_conv(const faceid_conv& conv, const at::Tensor& given, const at::Tensor* residual, bool float_output) {
    const auto& spec = conv.spec;
    Conv run = sized(conv, given);
    const auto type = conv.kernels->is_bf16 ? at::kBFloat16 : at::kFloat;
    const at::Tensor input = prepared(given, type);
    run.weights = conv.weights();
    run.bias = conv.bias.data();
    run.slopes = conv.slopes.data();
    run.output_is_float = float_output || !conv.kernels->is_bf16;
    at::Tensor output = at::empty({run.images, run.out_channels, run.out_height, run.out_width},
                                  at::TensorOptions(run.output_is_float ? at::kFloat : at::kBFloat16),
                                  at::MemoryFormat::ChannelsLast);
    run.output = output.data_ptr();
    const bool fits = residual && residual->sizes() == output.sizes();
    const at::Tensor added = fits ? prepared(*residual, type) : at::Tensor();
    if (fits) run.residual = added.data_ptr();
    run.input = input.data_ptr();
    if (conv.rows && conv.kernels->is_bf16) copy_padded(static_cast<const bf16*>(run.input), run, spec);
    if (conv.rows && !conv.kernels->is_bf16) copy_padded(static_cast<const float*>(run.input), run, spec);
    run.zeros = zeros(run.width * run.pixel + 64);
    const bool pointwise = spec.kernel_height * spec.kernel_width * spec.stride_y * spec.stride_x == 1 &&
                           spec.pad_top + spec.pad_left + spec.pad_bottom + spec.pad_right == 0;
    if (pointwise && !conv.depthwise) {
        // Rows and images do not matter then: all of it is one long row.
        run.width = run.out_width = run.images * run.height * run.width;
        run.images = run.height = run.out_height = 1;
    }
    if (output.numel() > 0) run_kernels(conv, run);
    return residual && !fits ? add_broadcast(output, *residual) : output;
}

template <class Element, class Convert>
void write_pixels(const uint8_t* from, Element* to, int64_t pixels, const float mean[3], float scale, bool bgr,
                  Convert convert) {
    // 256 values of each colour, so that a pixel costs three look-ups.
    Element table[3][256];
    for (int c = 0; c < 3; c++) {
        for (int value = 0; value < 256; value++) {
            table[c][value] = convert((static_cast<float>(value) - mean[c]) / scale);
        }
    }
    const int red = bgr ? 2 : 0, blue = 2 - red;
    for (int64_t i = 0; i < pixels; i++, from += 3, to += 3) {
        to[red] = table[0][from[0]];
        to[1] = table[1][from[1]];
        to[blue] = table[2][from[2]];
    }
}

// Null if no kernel of the family fits.
faceid_conv* packed(const faceid_conv_spec& spec, int family) {
    const Kernels* kernels = kernels_of(family);
    const bool depthwise = spec.groups > 1 && spec.groups == spec.channels && spec.groups == spec.out_channels;
    const bool rows = !depthwise && spec.channels < 8 && spec.channels * spec.kernel_width <= 64;
    const bool fits = kernels && (depthwise || spec.groups == 1) && spec.kernel_height * spec.kernel_width <= 81 &&
                      (rows || depthwise || spec.channels % kernels->depth == 0);
    if (!fits) return nullptr;
    auto conv = std::make_unique<faceid_conv>();
    conv->kernels = kernels;
    conv->spec = spec;
    conv->depthwise = depthwise;
    conv->rows = rows;
    conv->winograd = suits_winograd(spec);
    conv->tap_channels = depthwise ? 1 : rows ? spec.channels * spec.kernel_width : spec.channels;
    conv->taps = conv->winograd ? 16 : rows ? spec.kernel_height : spec.kernel_height * spec.kernel_width;
    const size_t padded = static_cast<size_t>(round_up(spec.out_channels, 16));
    conv->bias.assign(padded, 0.0f);
    conv->slopes.assign(padded, 1.0f);
    if (spec.bias) std::copy_n(spec.bias, spec.out_channels, conv->bias.begin());
    if (spec.slopes) std::copy_n(spec.slopes, spec.out_channels, conv->slopes.begin());
    if (depthwise) {
        conv->pack_depthwise();
    } else if (kernels->is_bf16) {
        conv->pack_dense(conv->weights_bf16, to_bf16);
    } else {
        conv->pack_dense(conv->weights_f32, [](float weight) { return weight; });
    }
    // They belong to the caller.
    conv->spec.weights = conv->spec.bias = conv->spec.slopes = nullptr;
    return conv.release();
}

}  // namespace

extern "C" {

// Looks at the processor and at pointers; nothing there throws.
bool faceid_has_kernels(int family) noexcept { return kernels_of(family) != nullptr; }

// Sets a number.
void faceid_use_threads(int count) noexcept { faceid::use_threads(count); }

faceid_conv* faceid_conv_new(const faceid_conv_spec* spec, int family, char** error) noexcept {
    return caught<faceid_conv*>(error, nullptr, [&] { return packed(*spec, family); });
}

// Destructors throw nothing.
void faceid_conv_free(faceid_conv* conv) noexcept { delete conv; }

faceid_tensor faceid_conv_run(const faceid_conv* conv, const void* input, const void* residual, bool float_output,
                              char** error) noexcept {
    return caught<faceid_tensor>(error, nullptr, [&] {
        return new at::Tensor(run_conv(*conv, *static_cast<const at::Tensor*>(input),
                                       static_cast<const at::Tensor*>(residual), float_output));
    });
}

faceid_tensor faceid_pixels(const uint8_t* const* images, int64_t count, int64_t height, int64_t width,
                            const float mean[3], float scale, bool bgr, bool as_bf16, char** error) noexcept {
    return caught<faceid_tensor>(error, nullptr, [&] {
        at::Tensor output = at::empty({count, 3, height, width},
                                      at::TensorOptions(as_bf16 ? at::kBFloat16 : at::kFloat),
                                      at::MemoryFormat::ChannelsLast);
        const int64_t pixels = height * width;
        for (int64_t image = 0; image < count; image++) {
            const int64_t at = image * pixels * 3;
            if (as_bf16) {
                write_pixels(images[image], static_cast<bf16*>(output.data_ptr()) + at, pixels, mean, scale, bgr, to_bf16);
            } else {
                write_pixels(images[image], static_cast<float*>(output.data_ptr()) + at, pixels, mean, scale, bgr,
                             [](float value) { return value; });
            }
        }
        return new at::Tensor(output);
    });
}

faceid_tensor faceid_pinned(const uint8_t* const* images, int64_t count, int64_t bytes, char** error) noexcept {
    return caught<faceid_tensor>(error, nullptr, [&] {
        at::Tensor output = at::empty({count, bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
        for (int64_t image = 0; image < count; image++) {
            std::memcpy(output.data_ptr<uint8_t>() + image * bytes, images[image], static_cast<size_t>(bytes));
        }
        return new at::Tensor(output);
    });
}
}
