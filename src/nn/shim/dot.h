// Dot products of bytes: rows of a matrix with queries. Shapes and limits as of faceid_dots_i8 in shim.h.
#pragma once
#include <cstdint>

namespace faceid {

using Dots = void(const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride, const int8_t* queries,
                  int64_t query_count, int32_t* out);

// Null where the compiler cannot build them; the caller checks what the processor has.
Dots* dots_avx2();
Dots* dots_avx512_vnni();

}  // namespace faceid
