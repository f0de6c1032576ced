// The convolutions in float for processors with AVX-512.
#include "depthwise_impl.h"
#include "winograd_impl.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace faceid {
namespace {

// 16 floats.
struct Wide {
    using Reg = __m512;
    using Weight = __m512;
    static constexpr int64_t lanes = 16, depth = 1, packed = 16, wide = 7;

    static Reg load(const float* from) { return _mm512_loadu_ps(from); }
    static Reg fma(Reg sum, Reg a, Reg b) { return _mm512_fmadd_ps(a, b, sum); }
    static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static Reg leaky(Reg value, Reg slope) {
        const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
        return _mm512_mask_mul_ps(value, negative, value, slope);
    }
    static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
    static void store(float* to, Reg value) { _mm512_storeu_ps(to, value); }
    static void store_first(float* to, Reg value, int64_t count) { _mm512_mask_storeu_ps(to, first(count), value); }

    static Weight load_weight(const float* from) { return load(from); }
    static Weight broadcast(const float* from) { return _mm512_set1_ps(*from); }
    static Reg multiply_add(Reg sum, Weight a, Weight b) { return fma(sum, a, b); }
};

// 8 floats: for what is left of the channels of a depthwise convolution.
struct Narrow {
    using Reg = __m256;
    static constexpr int64_t lanes = 8, packed = 16, wide = 7;

    static Reg load(const float* from) { return _mm256_loadu_ps(from); }
    static Reg fma(Reg sum, Reg a, Reg b) { return _mm256_fmadd_ps(a, b, sum); }
    static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static Reg leaky(Reg value, Reg slope) {
        const __mmask8 negative = _mm256_cmp_ps_mask(value, _mm256_setzero_ps(), _CMP_LT_OQ);
        return _mm256_mask_mul_ps(value, negative, value, slope);
    }
    static __mmask8 first(int64_t count) { return static_cast<__mmask8>((1u << count) - 1); }
    static void store(float* to, Reg value) { _mm256_storeu_ps(to, value); }
    static void store_first(float* to, Reg value, int64_t count) { _mm256_mask_storeu_ps(to, first(count), value); }
};

void depthwise(const Conv& conv, int64_t first, int64_t last) {
    const int64_t wide = conv.channels / 16 * 16, whole = conv.channels / 8 * 8;
    depthwise_channels<Wide, float>(conv, first, last, 0, wide);
    depthwise_channels<Narrow, float>(conv, first, last, wide, whole);
    if (whole < conv.channels) depthwise_channels<Narrow, float>(conv, first, last, whole, whole + 8);
}

const Kernels kernels = {"avx512_f32", Wide::lanes, Wide::depth, 14, false, dense<Wide, float, 14, 24>, winograd<Wide, float, 14>, depthwise};

}  // namespace

const Kernels* kernels_avx512_f32() { return &kernels; }

}  // namespace faceid

#else

namespace faceid {
const Kernels* kernels_avx512_f32() { return nullptr; }
}  // namespace faceid

#endif
