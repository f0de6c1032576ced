// Dot products of bytes: the choice of kernel, and the one for processors without any.
#include "dot.h"

#include "shim.h"

namespace {

void dots_portable(const int8_t* rows, const int32_t*, int64_t row_count, int64_t stride, const int8_t* queries,
                   int64_t query_count, int32_t* out) {
    for (int64_t row = 0; row < row_count; row++) {
        const int8_t* a = rows + row * stride;
        for (int64_t query = 0; query < query_count; query++) {
            const int8_t* b = queries + query * stride;
            int32_t sum = 0;
            for (int64_t i = 0; i < stride; i++) sum += a[i] * b[i];
            out[query * row_count + row] = sum;
        }
    }
}

faceid::Dots* kernel_of(int family) {
    switch (family) {
        case 0: return dots_portable;
#if defined(__x86_64__)
        case 1: return __builtin_cpu_supports("avx2") ? faceid::dots_avx2() : nullptr;
        case 2: {
            const bool has_it = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                                __builtin_cpu_supports("avx512vnni");
            return has_it ? faceid::dots_avx512_vnni() : nullptr;
        }
#endif
    }
    return nullptr;
}

faceid::Dots* fastest() {
    for (int family = 2; family > 0; family--) {
        if (auto* kernel = kernel_of(family)) return kernel;
    }
    return dots_portable;
}

}  // namespace

// Loops over plain memory, which throw nothing.
extern "C" {

bool faceid_dots_i8_by(int family, const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride,
                       const int8_t* queries, int64_t query_count, int32_t* out) noexcept {
    auto* kernel = kernel_of(family);
    if (kernel) kernel(rows, row_sums, row_count, stride, queries, query_count, out);
    return kernel != nullptr;
}

void faceid_dots_i8(const int8_t* rows, const int32_t* row_sums, int64_t row_count, int64_t stride,
                    const int8_t* queries, int64_t query_count, int32_t* out) noexcept {
    static faceid::Dots* const kernel = fastest();
    kernel(rows, row_sums, row_count, stride, queries, query_count, out);
}

}
