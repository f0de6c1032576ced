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
__attribute__((always_inline)) inline void finish(const Conv& conv, typename V::Reg value, int64_t position, int64_t channel) {
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

// The output positions of an image whose kernel lies inside it; the others are its border.
struct Inside {
    int64_t top, bottom, left, right;

    explicit Inside(const Conv& conv) {
        range(conv.height, conv.out_height, conv.kernel_height, conv.stride_y, conv.pad_top, top, bottom);
        range(conv.width, conv.out_width, conv.kernel_width, conv.stride_x, conv.pad_left, left, right);
    }

    int64_t positions() const { return (bottom - top) * (right - left); }

    static void range(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t& from, int64_t& to) {
        const int64_t reach = size + pad - kernel;
        from = std::min(out, (pad + stride - 1) / stride);
        to = std::max(from, std::min(out, reach < 0 ? 0 : reach / stride + 1));
    }
};

// Where an output position is, and the first tap of its kernel.
struct Place {
    int64_t y, x;       // of the input; may lie outside the image
    int64_t corner;     // its offset in elements from the first image
    int64_t position;   // of the output

    void locate(const Conv& conv, int64_t image, int64_t out_y, int64_t out_x) {
        y = out_y * conv.stride_y - conv.pad_top;
        x = out_x * conv.stride_x - conv.pad_left;
        corner = ((image * conv.height + y) * conv.width + x) * conv.pixel;
        position = (image * conv.out_height + out_y) * conv.out_width + out_x;
    }
};

// Walks over the inside of all images, row by row.
struct InsideWalk {
    Place place;
    int64_t image, y, x;

    InsideWalk(const Conv& conv, const Inside& inside, int64_t index) {
        const int64_t columns = inside.right - inside.left;
        image = index / inside.positions();
        y = inside.top + index % inside.positions() / columns;
        x = inside.left + index % columns;
        place.locate(conv, image, y, x);
    }

    void step(const Conv& conv, const Inside& inside) { advance(conv, inside, 1); }

    // Positions up to the end of this one's row.
    int64_t in_row(const Inside& inside) const { return inside.right - x; }

    // Goes on by at most the positions of the row.
    void advance(const Conv& conv, const Inside& inside, int64_t count) {
        x += count;
        if (x < inside.right) {
            place.corner += count * conv.stride_x * conv.pixel;
            place.position += count;
            return;
        }
        x = inside.left;
        if (++y == inside.bottom) {
            y = inside.top;
            image++;
        }
        place.locate(conv, image, y, x);
    }
};

// Walks over the borders of all images: what is above the inside, beside it, below it.
struct BorderWalk {
    Place place;
    int64_t index;

    BorderWalk(const Conv& conv, const Inside& inside, int64_t first) : index(first) { locate(conv, inside); }

    void step(const Conv& conv, const Inside& inside) {
        index++;
        locate(conv, inside);
    }

    void locate(const Conv& conv, const Inside& inside) {
        const int64_t per_image = conv.out_height * conv.out_width - inside.positions();
        const int64_t image = index / per_image;
        int64_t rest = index % per_image;
        const int64_t above = inside.top * conv.out_width, inner = inside.right - inside.left;
        const int64_t beside = conv.out_width - inner, middle = (inside.bottom - inside.top) * beside;
        if (rest < above) {
            place.locate(conv, image, rest / conv.out_width, rest % conv.out_width);
        } else if ((rest -= above) < middle) {
            const int64_t x = rest % beside;
            place.locate(conv, image, inside.top + rest / beside, x < inside.left ? x : x + inner);
        } else {
            rest -= middle;
            place.locate(conv, image, inside.bottom + rest / conv.out_width, rest % conv.out_width);
        }
    }
};

constexpr int64_t max_taps = 81;

// The inputs of M output positions: a pointer to the first tap of each, or on the border, where taps outside the image
// read zeros, one to each tap.
template <class Element, int M, bool Border>
struct Tile {
    const Element* taps[Border ? max_taps * M : M];
    int64_t position[M];

    // The next `count` positions; a tile that is not full repeats its last one.
    template <class Walk>
    void fill(const Conv& conv, const Inside& inside, Walk& walk, int64_t count) {
        const auto* input = static_cast<const Element*>(conv.input);
        if constexpr (!Border) {
            // Mostly a tile is full and lies in one row.
            if (count == M && walk.in_row(inside) >= M) {
                const Element* first = input + walk.place.corner;
                const int64_t step = conv.stride_x * conv.pixel;
                for (int m = 0; m < M; m++) {
                    taps[m] = first + m * step;
                    position[m] = walk.place.position + m;
                }
                walk.advance(conv, inside, M);
                return;
            }
        }
        for (int m = 0; m < M; m++) {
            position[m] = walk.place.position;
            if (Border) {
                point(conv, walk.place, taps + m);
            } else {
                taps[m] = input + walk.place.corner;
            }
            if (m + 1 < count) walk.step(conv, inside);
        }
        walk.step(conv, inside);
    }

    static void point(const Conv& conv, const Place& place, const Element** tap) {
        const auto* input = static_cast<const Element*>(conv.input);
        for (int64_t ky = 0; ky < conv.kernel_height; ky++) {
            const int64_t y = place.y + ky;
            for (int64_t kx = 0; kx < conv.kernel_width; kx++, tap += M) {
                const int64_t x = place.x + kx;
                const bool within = y >= 0 && y < conv.height && x >= 0 && x < conv.width;
                *tap = within ? input + place.corner + (ky * conv.width + kx) * conv.pixel
                              : static_cast<const Element*>(conv.zeros);
            }
        }
    }
};

// M positions times N vectors of output channels from `channel` on: an indirect matrix product (Dukhan 2019, "The
// Indirect Convolution Algorithm", arXiv:1907.02129), the sums held in registers.
template <class V, class Element, class Out, bool Residual, bool Border, int M, int N>
void dense_block(const Conv& conv, const Inside& inside, const Element* weights, int64_t channel, int64_t first,
                 int64_t last) {
    using Walk = std::conditional_t<Border, BorderWalk, InsideWalk>;
    const int64_t tap_count = conv.kernel_height * conv.kernel_width;
    const int64_t depth = (conv.channels + V::depth - 1) / V::depth * V::depth;
    Tile<Element, M, Border> tile;
    Walk walk(conv, inside, first);
    for (int64_t at = first; at < last; at += M) {
        tile.fill(conv, inside, walk, std::min<int64_t>(M, last - at));
        typename V::Reg sums[M][N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            const auto bias = V::load(conv.bias + channel + n * V::lanes);
#pragma GCC unroll 32
            for (int m = 0; m < M; m++) sums[m][n] = bias;
        }
        const Element* weight = weights;
        int64_t kx = 0, offset = 0;
        for (int64_t t = 0; t < tap_count; t++) {
            const Element* const* tap = Border ? tile.taps + t * M : tile.taps;
            for (int64_t k = offset; k < offset + depth; k += V::depth) {
                typename V::Weight row[N];
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) row[n] = V::load_weight(weight + n * V::lanes * V::depth);
                weight += N * V::lanes * V::depth;
#pragma GCC unroll 32
                for (int m = 0; m < M; m++) {
                    const auto value = V::broadcast(tap[m] + k);
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) sums[m][n] = V::multiply_add(sums[m][n], value, row[n]);
                }
            }
            if (!Border) {
                // To the next tap: to the right, or to the start of the next row.
                kx++;
                offset += conv.pixel;
                if (kx == conv.kernel_width) {
                    kx = 0;
                    offset += (conv.width - conv.kernel_width) * conv.pixel;
                }
            }
        }
        // Unrolled, so that the sums stay in registers. What a tile repeats is written again, the same.
#pragma GCC unroll 32
        for (int m = 0; m < M; m++) {
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) {
                finish<V, Element, Out, Residual>(conv, sums[m][n], tile.position[m], channel + n * V::lanes);
            }
        }
    }
}

// Positions that go through all blocks of output channels before the next ones: their inputs stay in the cache.
constexpr int64_t positions_in_cache = 448;

template <class V, class Element, bool Border, int M2, int M1>
void dense_part(const Conv& conv, const Inside& inside, int64_t first, int64_t last) {
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
                    dense_block<V, Element, Out, add, Border, M2, 2>(conv, inside, block, channel, begin, end);
                } else {
                    dense_block<V, Element, Out, add, Border, M1, 1>(conv, inside, block, channel, begin, end);
                }
            });
        }
    }
}

// Positions are counted through the inside of all images, then through all borders.
template <class V, class Element, int M2, int M1>
void dense(const Conv& conv, int64_t first, int64_t last) {
    const Inside inside(conv);
    const int64_t middle = conv.images * inside.positions();
    if (first < middle) dense_part<V, Element, false, M2, M1>(conv, inside, first, std::min(last, middle));
    if (last > middle) {
        dense_part<V, Element, true, M2, M1>(conv, inside, std::max(first, middle) - middle, last - middle);
    }
}

}  // namespace
}  // namespace faceid
