// Dot products of bytes for processors with AVX2.
#if defined(__AVX2__)
#include <immintrin.h>

#include "dot_impl.h"

namespace faceid {
namespace {

inline __m256i load(const int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

// sum += query * row, in pairs and then in fours. The multiplication wants an unsigned factor: the row takes the sign of
// the query. Without -128 a pair is at most 2 * 127 * 127, which 16 bits hold.
inline __m256i multiply_add(__m256i sum, __m256i query, __m256i magnitude, __m256i row) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(row, query));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Writes the products of one query with Rows rows.
template <int Rows>
inline void finish(const __m256i (&sums)[Rows], int32_t* out) {
    if constexpr (Rows == 1) {
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums[0]), _mm256_extracti128_si256(sums[0], 1));
        const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        out[0] = _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
    } else {
        static_assert(Rows == 4);
        const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), four);
    }
}

template <int Rows, int Queries, int Lines>
struct Tile {
    static void run(const Place& place) {
        const int64_t stride = place.stride;
        __m256i sums[Queries][Rows];
#pragma GCC unroll 8
        for (int q = 0; q < Queries; q++) {
#pragma GCC unroll 8
            for (int r = 0; r < Rows; r++) sums[q][r] = _mm256_setzero_si256();
        }
        for (int64_t at = 0; at < stride; at += 32) {
            if (at % 64 == 0) fetch<Lines>(place.next + static_cast<uintptr_t>(at * Lines));
            __m256i query[Queries], magnitude[Queries];
#pragma GCC unroll 8
            for (int q = 0; q < Queries; q++) {
                query[q] = load(place.queries + q * stride + at);
                magnitude[q] = _mm256_abs_epi8(query[q]);
            }
#pragma GCC unroll 8
            for (int r = 0; r < Rows; r++) {
                const __m256i row = load(place.rows + r * stride + at);
#pragma GCC unroll 8
                for (int q = 0; q < Queries; q++) sums[q][r] = multiply_add(sums[q][r], query[q], magnitude[q], row);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < Queries; q++) finish(sums[q], place.out + q * place.row_count);
    }
};

}  // namespace

// 8 sums, 2 queries with their magnitudes, a row, the ones and 2 steps in between fill the 16 registers.
Dots* dots_avx2() { return dots<Tile, 2>; }

}  // namespace faceid

#else
#include "dot.h"

namespace faceid {
Dots* dots_avx2() { return nullptr; }
}  // namespace faceid

#endif
