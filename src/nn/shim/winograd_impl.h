// Dense 3 x 3 convolutions of stride one with 16 products where there are 36: Winograd's minimal filtering F(2x2, 3x3)
// (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308). A tile of 2 x 2 outputs
// reads 4 x 4 inputs; both the inputs and the kernel are transformed, multiplied element by element, and the products
// transformed back. Summed over channels, each of the 16 elements is a matrix product of its own.
//
// Not F(4x4, 3x3), which has 9 products where this has 16: its transforms multiply by up to 8, and bfloat16 has no bits
// to lose. Those of F(2x2) only add, and do so in float.
#pragma once
#include "conv_impl.h"

namespace faceid {
namespace {

// Of a tile's transform.
constexpr int64_t winograd_side = 4, winograd_elements = 16;

// A tile of the output: which image, and its place in tiles.
struct OutputTile {
    int64_t image, row, column, rows, columns;

    OutputTile(const Conv& conv, int64_t index) {
        rows = (conv.out_height + 1) / 2;
        columns = (conv.out_width + 1) / 2;
        image = index / (rows * columns);
        row = index / columns % rows;
        column = index % columns;
    }

    void step() {
        if (++column < columns) return;
        column = 0;
        if (++row < rows) return;
        row = 0;
        image++;
    }
};

// Four inputs one below the other, transformed.
template <class V, class Element>
__attribute__((always_inline)) inline void transform_column(const Element* const rows[4], int64_t at,
                                                            typename V::Reg to[4]) {
    const auto a = V::load(rows[0] + at), b = V::load(rows[1] + at), c = V::load(rows[2] + at), d = V::load(rows[3] + at);
    to[0] = V::sub(a, c);
    to[1] = V::add(b, c);
    to[2] = V::sub(c, b);
    to[3] = V::sub(b, d);
}

// The transformed inputs of `count` tiles of one row: `to` holds elements `step` apart, of each tiles, of each channels.
template <class V, class Element>
void transform_row(const Conv& conv, const OutputTile& first, int64_t count, Element* to, int64_t step) {
    const auto* input = static_cast<const Element*>(conv.input);
    const auto* zeros = static_cast<const Element*>(conv.zeros);
    const Element* rows[winograd_side];
    for (int64_t i = 0; i < winograd_side; i++) {
        const int64_t y = 2 * first.row - conv.pad_top + i;
        rows[i] = y < 0 || y >= conv.height ? zeros : input + (first.image * conv.height + y) * conv.width * conv.pixel;
    }
    const Element* const nothing[winograd_side] = {zeros, zeros, zeros, zeros};
    for (int64_t channel = 0; channel < conv.channels; channel += V::lanes) {
        int64_t x = 2 * first.column - conv.pad_left;
        typename V::Reg columns[winograd_side][winograd_side];
        const auto next = [&](int column) __attribute__((always_inline)) {
            const bool within = x >= 0 && x < conv.width;
            transform_column<V, Element>(within ? rows : nothing, within ? x * conv.pixel + channel : 0, columns[column]);
            x++;
        };
        next(0);
        next(1);
        Element* at = to + channel;
        for (int64_t tile = 0; tile < count; tile++, at += conv.channels) {
            next(2);
            next(3);
#pragma GCC unroll 4
            for (int i = 0; i < winograd_side; i++) {
                Element* const element = at + i * winograd_side * step;
                V::store(element, V::sub(columns[0][i], columns[2][i]));
                V::store(element + step, V::add(columns[1][i], columns[2][i]));
                V::store(element + 2 * step, V::sub(columns[2][i], columns[1][i]));
                V::store(element + 3 * step, V::sub(columns[1][i], columns[3][i]));
                // The next tile begins two columns on.
                columns[0][i] = columns[2][i];
                columns[1][i] = columns[3][i];
            }
        }
    }
}

// One element of M tiles times N vectors of output channels.
template <class V, class Element, int M, int N>
inline void multiply_tiles(const Element* inputs, int64_t channels, const Element* weights, const float* start, float* to) {
    typename V::Reg sums[M][N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
        const auto value = V::load(start + n * V::lanes);
#pragma GCC unroll 32
        for (int m = 0; m < M; m++) sums[m][n] = value;
    }
    for (int64_t k = 0; k < channels; k += V::depth) {
        typename V::Weight row[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) row[n] = V::load_weight(weights + n * V::lanes * V::depth);
        weights += N * V::lanes * V::depth;
#pragma GCC unroll 32
        for (int m = 0; m < M; m++) {
            const auto value = V::broadcast(inputs + m * channels + k);
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) sums[m][n] = V::multiply_add(sums[m][n], value, row[n]);
        }
    }
#pragma GCC unroll 32
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) V::store(to + (m * N + n) * V::lanes, sums[m][n]);
    }
}

// Transforms the products of a tile back, and finishes what lies inside the image.
template <class V, class Element, class Out, bool Residual>
__attribute__((always_inline)) inline void finish_tile(const Conv& conv, const OutputTile& tile, const float* from,
                                                       int64_t step, int64_t channel) {
    typename V::Reg above[winograd_side], below[winograd_side];
#pragma GCC unroll 4
    for (int j = 0; j < winograd_side; j++) {
        const auto at = [&](int i) { return V::load(from + (i * winograd_side + j) * step); };
        const auto b = at(1), c = at(2);
        above[j] = V::add(V::add(at(0), b), c);
        below[j] = V::sub(V::sub(b, c), at(3));
    }
    const auto left = [](const auto* row) { return V::add(V::add(row[0], row[1]), row[2]); };
    const auto right = [](const auto* row) { return V::sub(V::sub(row[1], row[2]), row[3]); };
    const int64_t y = 2 * tile.row, x = 2 * tile.column;
    const int64_t position = (tile.image * conv.out_height + y) * conv.out_width + x;
    const bool has_right = x + 1 < conv.out_width;
    finish<V, Element, Out, Residual>(conv, left(above), position, channel);
    if (has_right) finish<V, Element, Out, Residual>(conv, right(above), position + 1, channel);
    if (y + 1 == conv.out_height) return;
    finish<V, Element, Out, Residual>(conv, left(below), position + conv.out_width, channel);
    if (has_right) finish<V, Element, Out, Residual>(conv, right(below), position + conv.out_width + 1, channel);
}

// N vectors of output channels from `channel` on, for `count` transformed tiles from `first` on; M at once.
template <class V, class Element, int M, int N>
void tiles_block(const Conv& conv, const OutputTile& first, int64_t count, const Element* inputs, int64_t step,
                 const Element* weights, int64_t channel) {
    alignas(64) float products[winograd_elements * M * N * V::lanes];
    constexpr int64_t products_step = M * N * V::lanes;
    const float none[N * V::lanes] = {};
    // Of tiles beyond the count, inputs are whatever was there before, and nobody reads the products.
    for (int64_t element = 0; element < winograd_elements; element++) {
        // Going back, this element is added to each of the four outputs once: the place for the bias.
        const float* start = element == winograd_side + 1 ? conv.bias + channel : none;
        const Element* of_element = weights + element * N * V::lanes * conv.channels;
        float* to = products + element * products_step;
        if (count > M / 2) {
            multiply_tiles<V, Element, M, N>(inputs + element * step, conv.channels, of_element, start, to);
        } else {
            multiply_tiles<V, Element, M / 2, N>(inputs + element * step, conv.channels, of_element, start, to);
        }
    }
    with_finish<Element>(conv, [&](auto* out, auto residual) {
        using Out = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
        constexpr bool add = decltype(residual)::value;
        OutputTile tile = first;
        for (int64_t m = 0; m < count; m++, tile.step()) {
            for (int n = 0; n < N; n++) {
                finish_tile<V, Element, Out, add>(conv, tile, products + (m * N + n) * V::lanes, products_step,
                                                  channel + n * V::lanes);
            }
        }
    });
}

// Tiles first..last of all images, M at once: their transformed inputs and products stay in the nearest caches.
template <class V, class Element, int M>
void winograd(const Conv& conv, int64_t first, int64_t last) {
    alignas(64) Element inputs[winograd_elements * M * winograd_channels];
    const int64_t step = M * conv.channels;
    const int64_t vectors = (conv.out_channels + V::lanes - 1) / V::lanes;
    const auto* weights = static_cast<const Element*>(conv.weights);
    for (int64_t at = first; at < last; at += M) {
        const int64_t count = std::min<int64_t>(M, last - at);
        const OutputTile begin(conv, at);
        OutputTile tile = begin;
        for (int64_t done = 0; done < count;) {
            const int64_t in_row = std::min(count - done, tile.columns - tile.column);
            transform_row<V>(conv, tile, in_row, inputs + done * conv.channels, step);
            done += in_row;
            tile = OutputTile(conv, at + done);
        }
        for (int64_t vector = 0; vector < vectors; vector += 2) {
            const Element* block = weights + vector * V::lanes * winograd_elements * conv.channels;
            if (vector + 1 < vectors) {
                tiles_block<V, Element, M, 2>(conv, begin, count, inputs, step, block, vector * V::lanes);
            } else {
                tiles_block<V, Element, M, 1>(conv, begin, count, inputs, step, block, vector * V::lanes);
            }
        }
    }
}

}  // namespace
}  // namespace faceid
