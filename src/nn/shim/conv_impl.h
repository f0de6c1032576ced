// The convolutions, written once for every vector width and element type. A file per instruction set defines `Vec`
// types and instantiates them.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "conv.h"

namespace faceid {
namespace {

// Writes the first `count` lanes of a finished vector.
template <class V, class Out>
inline void store_some(Out* to, typename V::Reg value, int64_t count) {
    if (count >= V::lanes) {
        V::store(to, value);
    } else {
        V::store_first(to, value, count);
    }
}

template <class V, class Element>
inline typename V::Reg load_some(const Element* from, int64_t count) {
    if (count >= V::lanes) return V::load(from);
    Element lanes[V::lanes] = {};
    std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(Element));
    return V::load(lanes);
}

// Activation, residual and store of one vector of one output position.
template <class V, class Element, class Out, bool Residual>
inline void finish(const Conv& conv, typename V::Reg value, int64_t position, int64_t channel) {
    value = V::leaky(value, V::load(conv.slopes + channel));
    const int64_t at = position * conv.out_channels + channel;
    const int64_t count = conv.out_channels - channel;
    if (Residual) value = V::add(value, load_some<V>(static_cast<const Element*>(conv.residual) + at, count));
    store_some<V>(static_cast<Out*>(conv.output) + at, value, count);
}

// Calls `run` with the type of the output and whether there is a residual, so that inner loops need not ask.
template <class Element, class Run>
inline void with_finish(const Conv& conv, Run run) {
    const float* const as_float = nullptr;
    const Element* const as_element = nullptr;
    if (conv.output_is_float) {
        conv.residual ? run(as_float, std::true_type()) : run(as_float, std::false_type());
    } else {
        conv.residual ? run(as_element, std::true_type()) : run(as_element, std::false_type());
    }
}

// Walks over output positions, from one to the next without a division.
struct Walk {
    int64_t y, x;       // of the output, within its image
    int64_t y0, x0;     // of the input that the first tap reads; may lie outside the image
    int64_t corner;     // its offset in elements from the first image
    int64_t image;

    Walk(const Conv& conv, int64_t position) {
        const int64_t per_image = conv.out_height * conv.out_width;
        image = position / per_image;
        y = position % per_image / conv.out_width;
        x = position % conv.out_width;
        locate(conv);
    }

    void locate(const Conv& conv) {
        y0 = y * conv.stride_y - conv.pad_top;
        x0 = x * conv.stride_x - conv.pad_left;
        corner = ((image * conv.height + y0) * conv.width + x0) * conv.pixel;
    }

    void step(const Conv& conv) {
        if (++x < conv.out_width) {
            x0 += conv.stride_x;
            corner += conv.stride_x * conv.pixel;
            return;
        }
        x = 0;
        if (++y == conv.out_height) {
            y = 0;
            image++;
        }
        locate(conv);
    }
};

// Where the inputs of the next `count` of M output positions lie: one pointer per tap and position. What lies outside
// the image reads zeros; a last tile that is not full repeats its last position rather than reading beyond it.
template <class Element, int M>
inline void point(const Conv& conv, Walk& walk, int64_t count, const Element** taps) {
    const auto* input = static_cast<const Element*>(conv.input);
    const auto* zeros = static_cast<const Element*>(conv.zeros);
    const int64_t last_y = conv.height - conv.kernel_height, last_x = conv.width - conv.kernel_width;
    const int64_t row = conv.width * conv.pixel;
    for (int m = 0; m < M; m++) {
        const bool inside = walk.y0 >= 0 && walk.y0 <= last_y && walk.x0 >= 0 && walk.x0 <= last_x;
        const Element** tap = taps + m;
        for (int64_t ky = 0; ky < conv.kernel_height; ky++) {
            const int64_t y = walk.y0 + ky;
            for (int64_t kx = 0; kx < conv.kernel_width; kx++, tap += M) {
                const int64_t x = walk.x0 + kx;
                const bool within = inside || (y >= 0 && y < conv.height && x >= 0 && x < conv.width);
                *tap = within ? input + walk.corner + ky * row + kx * conv.pixel : zeros;
            }
        }
        if (m + 1 < count) walk.step(conv);
    }
    walk.step(conv);
}

constexpr int64_t max_taps = 81;

// M positions times N vectors of output channels from `channel` on: an indirect matrix product (Dukhan 2019, "The
// Indirect Convolution Algorithm", arXiv:1907.02129), the sums held in registers.
template <class V, class Element, class Out, bool Residual, int M, int N>
void dense_block(const Conv& conv, const Element* weights, int64_t channel, int64_t first, int64_t last) {
    const Element* taps[max_taps * M];
    const int64_t tap_count = conv.kernel_height * conv.kernel_width;
    const int64_t steps = (conv.channels + V::depth - 1) / V::depth;
    Walk walk(conv, first);
    for (int64_t position = first; position < last; position += M) {
        const int64_t count = std::min<int64_t>(M, last - position);
        point<Element, M>(conv, walk, count, taps);
        typename V::Reg sums[M][N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            const auto bias = V::load(conv.bias + channel + n * V::lanes);
#pragma GCC unroll 32
            for (int m = 0; m < M; m++) sums[m][n] = bias;
        }
        const Element* weight = weights;
        for (int64_t t = 0; t < tap_count; t++) {
            const Element* const* tap = taps + t * M;
            for (int64_t k = 0; k < steps; k++) {
                typename V::Weight row[N];
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) row[n] = V::load_weight(weight + n * V::lanes * V::depth);
                weight += N * V::lanes * V::depth;
#pragma GCC unroll 32
                for (int m = 0; m < M; m++) {
                    const auto value = V::broadcast(tap[m] + k * V::depth);
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) sums[m][n] = V::multiply_add(sums[m][n], value, row[n]);
                }
            }
        }
        // Unrolled, so that the sums stay in registers.
#pragma GCC unroll 32
        for (int m = 0; m < M; m++) {
            if (m >= count) break;
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) {
                finish<V, Element, Out, Residual>(conv, sums[m][n], position + m, channel + n * V::lanes);
            }
        }
    }
}

// Positions that go through all blocks of output channels before the next ones: their inputs stay in the cache.
constexpr int64_t positions_in_cache = 448;

template <class V, class Element, int M2, int M1>
void dense(const Conv& conv, int64_t first, int64_t last) {
    const int64_t taps = conv.kernel_height * conv.kernel_width;
    const int64_t depth = (conv.channels + V::depth - 1) / V::depth * V::depth;
    const int64_t vectors = (conv.out_channels + V::lanes - 1) / V::lanes;
    const auto* weights = static_cast<const Element*>(conv.weights);
    for (int64_t begin = first; begin < last; begin += positions_in_cache) {
        const int64_t end = std::min(last, begin + positions_in_cache);
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const Element* block = weights + vector * V::lanes * taps * depth;
            with_finish<Element>(conv, [&](auto* out, auto residual) {
                using Out = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
                constexpr bool add = decltype(residual)::value;
                const int64_t channel = vector * V::lanes;
                if (vector + 1 < vectors) {
                    dense_block<V, Element, Out, add, M2, 2>(conv, block, channel, begin, end);
                } else {
                    dense_block<V, Element, Out, add, M1, 1>(conv, block, channel, begin, end);
                }
            });
        }
    }
}

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

// A 3 x 3 row, `Wide` outputs at a time, where every column of the kernel lies inside the image.
template <class V, class Element, class Out, bool Residual, int Stride, int Wide>
inline int64_t depthwise_row(const Conv& conv, int64_t image, int64_t oy, int64_t ox, int64_t end, int64_t channel) {
    const auto* input = static_cast<const Element*>(conv.input);
    const auto* weights = static_cast<const float*>(conv.weights);
    const int64_t padded = (conv.channels + V::packed - 1) / V::packed * V::packed;
    typename V::Reg kernel[9];
    for (int t = 0; t < 9; t++) kernel[t] = V::load(weights + t * padded + channel);
    const auto bias = V::load(conv.bias + channel);
    const Element* rows[3];
    for (int ky = 0; ky < 3; ky++) {
        const int64_t y = oy * Stride - conv.pad_top + ky;
        rows[ky] = y < 0 || y >= conv.height ? static_cast<const Element*>(conv.zeros)
                                             : input + (image * conv.height + y) * conv.width * conv.pixel;
    }
    for (; ox + Wide <= end; ox += Wide) {
        typename V::Reg sums[Wide];
        for (int i = 0; i < Wide; i++) sums[i] = bias;
        const int64_t at = (ox * Stride - conv.pad_left) * conv.pixel + channel;
#pragma GCC unroll 3
        for (int ky = 0; ky < 3; ky++) {
            const Element* row = rows[ky] + at;
#pragma GCC unroll 16
            for (int column = 0; column < (Wide - 1) * Stride + 3; column++) {
                const auto value = V::load(row + column * conv.pixel);
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
        for (int i = 0; i < Wide; i++) {
            const int64_t position = (image * conv.out_height + oy) * conv.out_width + ox + i;
            finish<V, Element, Out, Residual>(conv, sums[i], position, channel);
        }
    }
    return ox;
}

template <class V, class Element, class Out, bool Residual>
void depthwise_rows(const Conv& conv, int64_t first, int64_t last, int64_t channel) {
    // Columns whose kernel lies inside the image.
    const int64_t inner = std::min(conv.out_width, (conv.pad_left + conv.stride_x - 1) / conv.stride_x);
    const int64_t reach = conv.width + conv.pad_left - conv.kernel_width;
    const int64_t outer = std::max(inner, std::min(conv.out_width, reach < 0 ? 0 : reach / conv.stride_x + 1));
    const bool three = conv.kernel_height == 3 && conv.kernel_width == 3 && channel + V::lanes <= conv.channels;
    for (int64_t row = first; row < last; row++) {
        const int64_t image = row / conv.out_height, oy = row % conv.out_height;
        int64_t ox = 0;
        for (; ox < inner; ox++) depthwise_one<V, Element, Out, Residual>(conv, image, oy, ox, channel);
        if (three && conv.stride_x == 1 && conv.stride_y == 1) {
            ox = depthwise_row<V, Element, Out, Residual, 1, 4>(conv, image, oy, ox, outer, channel);
        } else if (three && conv.stride_x == 2 && conv.stride_y == 2) {
            ox = depthwise_row<V, Element, Out, Residual, 2, 4>(conv, image, oy, ox, outer, channel);
        }
        for (; ox < conv.out_width; ox++) depthwise_one<V, Element, Out, Residual>(conv, image, oy, ox, channel);
    }
}

template <class V, class Element>
void depthwise_channels(const Conv& conv, int64_t first, int64_t last, int64_t channel) {
    with_finish<Element>(conv, [&](auto* out, auto residual) {
        using Out = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
        depthwise_rows<V, Element, Out, decltype(residual)::value>(conv, first, last, channel);
    });
}

}  // namespace
}  // namespace faceid
