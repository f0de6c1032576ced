// The convolutions in float for processors with AVX2 and FMA.
#include "depthwise_impl.h"
#include "winograd_impl.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace faceid {
namespace {

// 8 floats.
struct Vec {
    using Reg = __m256;
    using Weight = __m256;
    static constexpr int64_t lanes = 8, depth = 1, packed = 16, wide = 4;

    static Reg load(const float* from) { return _mm256_loadu_ps(from); }
    static Reg fma(Reg sum, Reg a, Reg b) { return _mm256_fmadd_ps(a, b, sum); }
    static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    // Blends by the sign: minus zero times a slope is a zero, too.
    static Reg leaky(Reg value, Reg slope) { return _mm256_blendv_ps(value, mul(value, slope), value); }
    static void store(float* to, Reg value) { _mm256_storeu_ps(to, value); }
    static void store_first(float* to, Reg value, int64_t count) {
        float all[lanes];
        store(all, value);
        std::memcpy(to, all, static_cast<size_t>(count) * sizeof(float));
    }

    static Weight load_weight(const float* from) { return load(from); }
    static Weight broadcast(const float* from) { return _mm256_broadcast_ss(from); }
    static Reg multiply_add(Reg sum, Weight a, Weight b) { return fma(sum, a, b); }
};

void depthwise(const Conv& conv, int64_t first, int64_t last) {
    const int64_t whole = conv.channels / 8 * 8;
    depthwise_channels<Vec, float>(conv, first, last, 0, whole);
    if (whole < conv.channels) depthwise_channels<Vec, float>(conv, first, last, whole, whole + 8);
}

const Kernels kernels = {"avx2_f32", Vec::lanes, Vec::depth, 6, false, dense<Vec, float, 6, 12>, winograd<Vec, float, 6>, depthwise};

}  // namespace

const Kernels* kernels_avx2_f32() { return &kernels; }

}  // namespace faceid

#else

namespace faceid {
const Kernels* kernels_avx2_f32() { return nullptr; }
}  // namespace faceid

#endif
