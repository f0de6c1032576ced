// The order in which rows meet queries, written once. A file per instruction set defines `Tile`, the products of a few
// rows with a few queries, and instantiates it.
#pragma once
#include <xmmintrin.h>

#include "dot.h"

namespace faceid {
namespace {

// Rows that a tile takes: their sums leave the registers as one vector.
constexpr int64_t tile_rows = 4;

// How far ahead of the products rows are fetched, in bytes.
constexpr int64_t fetch_ahead = 4096;

// In a matrix larger than the cache, rows must be touched in the order of memory: only then does the processor's own
// prefetching keep up. A tile reads its rows side by side, so on its way it asks for what follows, line after line.
// Always inline, because GCC takes a function that only prefetches for one without effect and drops its calls.
template <int Lines>
__attribute__((always_inline)) inline void fetch(uintptr_t address) {
#pragma GCC unroll 8
    for (int line = 0; line < Lines; line++) {
        _mm_prefetch(reinterpret_cast<const char*>(address + static_cast<uintptr_t>(line) * 64), _MM_HINT_T0);
    }
}

// What a tile works on; its results go to out[query * row_count + row].
struct Place {
    const int8_t* rows;
    const int32_t* row_sums;
    int64_t stride;
    const int8_t* queries;
    int64_t row_count;
    int32_t* out;
    uintptr_t next;  // what to fetch; a number, since it may lie past the last row, where a prefetch does no harm
};

// Calls the tile of `queries` queries, which is at most Queries, fetching Lines lines with every 64 bytes of a row.
template <template <int, int, int> class Tile, int Rows, int Queries, int Lines>
inline void run_tile(const Place& place, int64_t queries) {
    if constexpr (Queries > 1) {
        if (queries < Queries) return run_tile<Tile, Rows, Queries - 1, Lines>(place, queries);
    }
    Tile<Rows, Queries, Lines>::run(place);
}

// All queries with some rows, which stay in the innermost cache meanwhile.
template <template <int, int, int> class Tile, int Rows, int MaxQueries>
inline void run_rows(Place place, int64_t query_count) {
    const int64_t tiles = (query_count + MaxQueries - 1) / MaxQueries;
    // The first tiles share the work of fetching as many rows as they take.
    const int64_t lines = tiles >= Rows ? 1 : tiles > 1 ? Rows / 2 : Rows;
    place.next = reinterpret_cast<uintptr_t>(place.rows) + fetch_ahead;
    for (int64_t tile = 0, done = 0; tile < tiles; tile++) {
        // Tiles of about the same size rather than a small one at the end.
        const int64_t queries = (query_count - done) / (tiles - tile);
        if (tile * lines >= Rows) {
            run_tile<Tile, Rows, MaxQueries, 0>(place, queries);
        } else if (lines == 1) {
            run_tile<Tile, Rows, MaxQueries, 1>(place, queries);
        } else if (lines == Rows) {
            run_tile<Tile, Rows, MaxQueries, Rows>(place, queries);
        } else {
            run_tile<Tile, Rows, MaxQueries, Rows / 2>(place, queries);
        }
        done += queries;
        place.queries += queries * place.stride;
        place.out += queries * place.row_count;
        place.next += static_cast<uintptr_t>(lines * place.stride);
    }
}

// MaxQueries: as many as leave the sums of a tile in registers.
template <template <int, int, int> class Tile, int MaxQueries>
void dots(const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride, const int8_t* queries,
          int64_t query_count, int32_t* out) {
    int64_t row = 0;
    const auto place = [&] { return Place{rows + row * stride, row_sums + row, stride, queries, row_count, out + row, 0}; };
    for (; row + tile_rows <= row_count; row += tile_rows) run_rows<Tile, tile_rows, MaxQueries>(place(), query_count);
    for (; row < row_count; row++) run_rows<Tile, 1, MaxQueries>(place(), query_count);
}

}  // namespace
}  // namespace faceid
