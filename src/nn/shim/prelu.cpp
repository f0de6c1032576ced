// PReLU with its gradients, each in one pass over memory: libtorch writes the gradient of every value to the slopes
// down before it adds them up, which takes longer than the convolutions beside it.
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "caught.h"
#include "shim.h"
#include "threads.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FACEID_CLONES __attribute__((target_clones("avx512f", "avx2,fma", "default")))
#else
#define FACEID_CLONES
#endif

namespace {

// Pixels that one piece of work has; sums are kept for each piece, so that they do not depend on threads.
constexpr int64_t piece = 1024;

FACEID_CLONES void forward_rows(const float* x, const float* slopes, float* y, int64_t rows, int64_t channels) {
    for (int64_t row = 0; row < rows; row++, x += channels, y += channels) {
        for (int64_t c = 0; c < channels; c++) y[c] = x[c] > 0 ? x[c] : slopes[c] * x[c];
    }
}

FACEID_CLONES void backward_rows(const float* x, const float* slopes, const float* gradient, float* to_x, float* to_slopes,
                                 int64_t rows, int64_t channels) {
    for (int64_t row = 0; row < rows; row++, x += channels, gradient += channels, to_x += channels) {
        for (int64_t c = 0; c < channels; c++) {
            const float scaled = slopes[c] * gradient[c], product = x[c] * gradient[c];
            to_x[c] = x[c] > 0 ? gradient[c] : scaled;
            to_slopes[c] += x[c] > 0 ? 0.0f : product;
        }
    }
}

// Calls `body` with the number, the first row and the rows of each piece.
template <class Body>
void for_pieces(int64_t rows, Body body) {
    const int64_t pieces = (rows + piece - 1) / piece;
    faceid::parallel(pieces, 1, 1, [&](int64_t first, int64_t last) {
        for (int64_t number = first; number < last; number++) {
            body(number, number * piece, std::min(piece, rows - number * piece));
        }
    });
}

class PRelu : public torch::autograd::Function<PRelu> {
public:
    // `x` is N x C x H x W in channels-last order, `slopes` has C numbers.
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& slopes) {
        context->save_for_backward({x, slopes});
        const int64_t channels = x.size(1);
        at::Tensor y = at::empty_like(x);
        const float *from = x.const_data_ptr<float>(), *factors = slopes.const_data_ptr<float>();
        float* to = y.mutable_data_ptr<float>();
        for_pieces(x.numel() / channels, [&](int64_t, int64_t row, int64_t rows) {
            forward_rows(from + row * channels, factors, to + row * channels, rows, channels);
        });
        return y;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &slopes = saved[1];
        const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
        const int64_t channels = x.size(1), rows = x.numel() / channels;
        at::Tensor to_x = at::empty_like(x), sums = at::zeros({(rows + piece - 1) / piece, channels}, at::kFloat);
        const float *values = x.const_data_ptr<float>(), *factors = slopes.const_data_ptr<float>();
        const float* given = gradient.const_data_ptr<float>();
        float *to = to_x.mutable_data_ptr<float>(), *sum = sums.mutable_data_ptr<float>();
        for_pieces(rows, [&](int64_t number, int64_t row, int64_t count) {
            const int64_t at = row * channels;
            backward_rows(values + at, factors, given + at, to + at, sum + number * channels, count, channels);
        });
        return {to_x, sums.sum(0)};
    }
};

}  // namespace

extern "C" {

faceid_tensor faceid_prelu(const void* input, const void* slopes, char** error) noexcept {
    const auto& x = *static_cast<const at::Tensor*>(input);
    const auto& factors = *static_cast<const at::Tensor*>(slopes);
    return faceid::caught<faceid_tensor>(error, nullptr, [&] {
        const bool one_pass = x.device().is_cpu() && x.scalar_type() == at::kFloat && x.dim() == 4 && x.numel() > 0 &&
                              factors.scalar_type() == at::kFloat && factors.numel() == x.size(1);
        if (!one_pass) return new at::Tensor(at::prelu(x, factors.reshape({factors.numel()})));
        return new at::Tensor(
            PRelu::apply(x.contiguous(at::MemoryFormat::ChannelsLast), factors.reshape({x.size(1)}).contiguous()));
    });
}
}
