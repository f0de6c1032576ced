// Dot products of bytes for processors with AVX-512 VNNI, which sums four products of bytes in one step.
#if defined(__AVX512VNNI__)
#include <immintrin.h>

#include "dot_impl.h"

namespace faceid {
namespace {

// The instruction multiplies unsigned with signed bytes: queries enter with 128 added to each, and 128 times the sum of
// the row is taken off at the end.
inline __m512i load_query(const int8_t* from) {
    return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
}

// sum += query * row. With the intrinsic GCC 12 copies every sum to the stack in the inner loop, at half the speed.
__attribute__((always_inline)) inline void multiply_add(__m512i& sum, __m512i query, __m512i row) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(query), "v"(row));
}

// The totals of four vectors.
inline __m128i totals(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Writes the products of one query with Rows rows.
template <int Rows>
inline void finish(const __m512i (&sums)[Rows], const int32_t* row_sums, int32_t* out) {
    if constexpr (Rows == 1) {
        // Unsigned, where too much wraps around: only the difference is sure to be in range.
        const auto sum = static_cast<uint32_t>(_mm512_reduce_add_epi32(sums[0]));
        out[0] = static_cast<int32_t>(sum - 128 * static_cast<uint32_t>(row_sums[0]));
    } else {
        static_assert(Rows == 4);
        const __m128i added = _mm_slli_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row_sums)), 7);
        const __m128i result = _mm_sub_epi32(totals(sums[0], sums[1], sums[2], sums[3]), added);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), result);
    }
}

template <int Rows, int Queries, int Lines>
struct Tile {
    static void run(const Place& place) {
        const int64_t stride = place.stride;
        __m512i sums[Queries][Rows];
#pragma GCC unroll 8
        for (int q = 0; q < Queries; q++) {
#pragma GCC unroll 8
            for (int r = 0; r < Rows; r++) sums[q][r] = _mm512_setzero_si512();
        }
        for (int64_t at = 0; at < stride; at += 64) {
            fetch<Lines>(place.next + static_cast<uintptr_t>(at * Lines));
            __m512i row[Rows];
#pragma GCC unroll 8
            for (int r = 0; r < Rows; r++) row[r] = _mm512_loadu_si512(place.rows + r * stride + at);
#pragma GCC unroll 8
            for (int q = 0; q < Queries; q++) {
                const __m512i query = load_query(place.queries + q * stride + at);
#pragma GCC unroll 8
                for (int r = 0; r < Rows; r++) multiply_add(sums[q][r], query, row[r]);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < Queries; q++) finish(sums[q], place.row_sums, place.out + q * place.row_count);
    }
};

// One query with one row.
inline __m512i single(const int8_t* row, const int8_t* query, int64_t stride) {
    __m512i even = _mm512_setzero_si512(), odd = even;  // two, since each step waits for the one before
    int64_t at = 0;
    for (; at + 128 <= stride; at += 128) {
        multiply_add(even, load_query(query + at), _mm512_loadu_si512(row + at));
        multiply_add(odd, load_query(query + at + 64), _mm512_loadu_si512(row + at + 64));
    }
    if (at < stride) multiply_add(even, load_query(query + at), _mm512_loadu_si512(row + at));
    return _mm512_add_epi32(even, odd);
}

// One query waits for memory only: rows one after the other are read faster than side by side with prefetching.
void dots_of_any_count(const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride,
                       const int8_t* queries, int64_t query_count, int32_t* out) {
    int64_t row = 0;
    for (; query_count == 1 && row + tile_rows <= row_count; row += tile_rows) {
        __m512i sums[tile_rows];
#pragma GCC unroll 8
        for (int64_t r = 0; r < tile_rows; r++) sums[r] = single(rows + (row + r) * stride, queries, stride);
        finish(sums, row_sums + row, out + row);
    }
    // The rest, or with more queries all rows. 24 sums, 4 rows, a query and what is added to it fill 30 of 32 registers.
    dots<Tile, 6>(rows + row * stride, row_sums + row, row_count - row, stride, queries, query_count, out + row);
}

}  // namespace

Dots* dots_avx512_vnni() { return dots_of_any_count; }

}  // namespace faceid

#else
#include "dot.h"

namespace faceid {
Dots* dots_avx512_vnni() { return nullptr; }
}  // namespace faceid

#endif
