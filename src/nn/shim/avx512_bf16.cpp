// The convolutions in bfloat16 for processors with AVX-512 BF16: products in bfloat16, sums in float.
#include "depthwise_impl.h"
#include "winograd_impl.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

namespace faceid {
namespace {

// 16 floats, or 16 bfloat16 of which each is a float's upper half.
struct Wide {
    using Reg = __m512;
    using Weight = __m512bh;
    static constexpr int64_t lanes = 16, depth = 2, packed = 16, wide = 7;

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

    static Reg load(const bf16* from) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
    static void store(bf16* to, Reg value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
    }
    static void store_first(bf16* to, Reg value, int64_t count) {
        _mm256_mask_storeu_epi16(to, first(count), (__m256i)_mm512_cvtneps_pbh(value));
    }

    // Products of pairs of channels, summed in float.
    static Weight load_weight(const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static Weight broadcast(const bf16* from) {
        int32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return (__m512bh)_mm512_set1_epi32(pair);
    }
    static Reg multiply_add(Reg sum, Weight a, Weight b) { return _mm512_dpbf16_ps(sum, a, b); }
};

// 8 floats, or 8 bfloat16: for what is left of the channels of a depthwise convolution.
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

    static Reg load(const bf16* from) {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    }
    static void store(bf16* to, Reg value) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), (__m128i)_mm256_cvtneps_pbh(value));
    }
    static void store_first(bf16* to, Reg value, int64_t count) {
        _mm_mask_storeu_epi16(to, first(count), (__m128i)_mm256_cvtneps_pbh(value));
    }
};

void depthwise(const Conv& conv, int64_t first, int64_t last) {
    const int64_t wide = conv.channels / 16 * 16, whole = conv.channels / 8 * 8;
    depthwise_channels<Wide, bf16>(conv, first, last, 0, wide);
    depthwise_channels<Narrow, bf16>(conv, first, last, wide, whole);
    if (whole < conv.channels) depthwise_channels<Narrow, bf16>(conv, first, last, whole, whole + 8);
}

const Kernels kernels = {"avx512_bf16", Wide::lanes, Wide::depth, 14, true, dense<Wide, bf16, 14, 24>, winograd<Wide, bf16, 14>, depthwise};

}  // namespace

const Kernels* kernels_avx512_bf16() { return &kernels; }

}  // namespace faceid

#else

namespace faceid {
const Kernels* kernels_avx512_bf16() { return nullptr; }
}  // namespace faceid

#endif
