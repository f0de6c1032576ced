// Depthwise convolutions: as many groups as channels.
#pragma once
#include "conv_impl.h"

namespace faceid {
namespace {

// One output position of a depthwise convolution, any kernel, near any edge.
template <class V, class Element, class Out, bool Residual>
inline void depthwise_one(const Conv& conv, int64_t image, int64_t oy, int64_t ox, int64_t channel) {
    const auto* input = static_cast<const Element*>(conv.input);
    const auto* weights = static_cast<const float*>(conv.weights);
    const int64_t count = conv.channels - channel;
    auto sum = V::load(conv.bias + channel);
    const int64_t padded = (conv.channels + V::packed - 1) / V::packed * V::packed;
    for (int64_t ky = 0; ky < conv.kernel_height; ky++) {
        const int64_t y = oy * conv.stride_y - conv.pad_top + ky;
        if (y < 0 || y >= conv.height) continue;
        for (int64_t kx = 0; kx < conv.kernel_width; kx++) {
            const int64_t x = ox * conv.stride_x - conv.pad_left + kx;
            if (x < 0 || x >= conv.width) continue;
            const auto value =
                load_some<V>(input + ((image * conv.height + y) * conv.width + x) * conv.pixel + channel, count);
            sum = V::add(sum, V::mul(value, V::load(weights + (ky * conv.kernel_width + kx) * padded + channel)));
        }
    }
    finish<V, Element, Out, Residual>(conv, sum, (image * conv.out_height + oy) * conv.out_width + ox, channel);
}

// What a row of 3 x 3 outputs reads: three rows of the input, zeros for those outside the image.
template <class Element>
struct DepthwiseRow {
    const Element* rows[3];

    DepthwiseRow(const Conv& conv, int64_t image, int64_t oy) {
        for (int ky = 0; ky < 3; ky++) {
            const int64_t y = oy * conv.stride_y - conv.pad_top + ky;
            rows[ky] = y < 0 || y >= conv.height
                           ? static_cast<const Element*>(conv.zeros)
                           : static_cast<const Element*>(conv.input) + (image * conv.height + y) * conv.width * conv.pixel;
        }
    }
};

// `Wide` outputs of a row from `position` on; the first reads from column x on. At an edge, columns outside the image
// read zeros.
template <class V, class Element, class Out, bool Residual, int Stride, int Wide, bool Edge>
__attribute__((always_inline)) inline void depthwise_block(const Conv& conv, const DepthwiseRow<Element>& row, int64_t x,
                                                           int64_t position, int64_t channel) {
    const auto* weights = static_cast<const float*>(conv.weights) + channel;
    const int64_t padded = (conv.channels + V::packed - 1) / V::packed * V::packed;
    typename V::Reg kernel[9], sums[Wide];
    for (int t = 0; t < 9; t++) kernel[t] = V::load(weights + t * padded);
    for (int i = 0; i < Wide; i++) sums[i] = V::load(conv.bias + channel);
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ky++) {
#pragma GCC unroll 24
        for (int column = 0; column < (Wide - 1) * Stride + 3; column++) {
            const bool within = !Edge || (x + column >= 0 && x + column < conv.width);
            const Element* from = within ? row.rows[ky] + (x + column) * conv.pixel : static_cast<const Element*>(conv.zeros);
            const auto value = V::load(from + channel);
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; kx++) {
                const int offset = column - kx;
                if (offset >= 0 && offset % Stride == 0 && offset / Stride < Wide) {
                    auto& sum = sums[offset / Stride];
                    sum = V::fma(sum, value, kernel[ky * 3 + kx]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Wide; i++) finish<V, Element, Out, Residual>(conv, sums[i], position + i, channel);
}

// 3 x 3 outputs of whole rows, `Wide` at a time and at least as many in a row. What is left of a row is computed with
// some of what came before it, which is written again, the same. All channels of a few pixels come before the next ones:
// they lie side by side in memory.
template <class V, class Element, class Out, bool Residual, int Stride, int Wide>
void depthwise_three(const Conv& conv, int64_t first, int64_t last, int64_t channel, int64_t end) {
    constexpr int64_t reach = (Wide - 1) * Stride + 3;
    for (int64_t y = first; y < last; y++) {
        const DepthwiseRow<Element> row(conv, y / conv.out_height, y % conv.out_height);
        for (int64_t at = 0; at < conv.out_width; at += Wide) {
            const int64_t ox = std::min(at, conv.out_width - Wide), x = ox * Stride - conv.pad_left;
            const int64_t position = y * conv.out_width + ox;
            const bool edge = x < 0 || x + reach > conv.width;
            for (int64_t c = channel; edge && c < end; c += V::lanes) {
                depthwise_block<V, Element, Out, Residual, Stride, Wide, true>(conv, row, x, position, c);
            }
            for (int64_t c = channel; !edge && c < end; c += V::lanes) {
                depthwise_block<V, Element, Out, Residual, Stride, Wide, false>(conv, row, x, position, c);
            }
        }
    }
}

template <class V, class Element, class Out, bool Residual>
void depthwise_rows(const Conv& conv, int64_t first, int64_t last, int64_t channel, int64_t end) {
    constexpr int wide = V::wide;
    const bool three = conv.kernel_height == 3 && conv.kernel_width == 3 && end <= conv.channels &&
                       conv.stride_x == conv.stride_y && conv.out_width >= wide;
    if (three && conv.stride_x == 1) {
        depthwise_three<V, Element, Out, Residual, 1, wide>(conv, first, last, channel, end);
    } else if (three && conv.stride_x == 2) {
        depthwise_three<V, Element, Out, Residual, 2, wide>(conv, first, last, channel, end);
    } else {
        for (int64_t row = first; row < last; row++) {
            for (int64_t ox = 0; ox < conv.out_width; ox++) {
                for (int64_t c = channel; c < end; c += V::lanes) {
                    depthwise_one<V, Element, Out, Residual>(conv, row / conv.out_height, row % conv.out_height, ox, c);
                }
            }
        }
    }
}

// Whole vectors of channels, the last of which may reach beyond the channels.
template <class V, class Element>
void depthwise_channels(const Conv& conv, int64_t first, int64_t last, int64_t channel, int64_t end) {
    if (channel >= end) return;
    with_finish<Element>(conv, [&](auto* out, auto residual) {
        using Out = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
        depthwise_rows<V, Element, Out, decltype(residual)::value>(conv, first, last, channel, end);
    });
}

}  // namespace
}  // namespace faceid
