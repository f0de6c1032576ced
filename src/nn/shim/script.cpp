#include "shim.h"

#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <climits>
#include <istream>
#include <streambuf>
#include <stdexcept>
#include <vector>

#include <torch/script.h>

#include "caught.h"

using faceid::caught;

namespace {

void flatten(const c10::IValue& value, std::vector<at::Tensor>& outputs) {
    if (value.isTensor()) {
        if (value.toTensor().defined()) outputs.push_back(value.toTensor());
    } else if (value.isTuple()) {
        for (const auto& item : value.toTupleRef().elements()) flatten(item, outputs);
    } else if (value.isList()) {
        for (const c10::IValue& item : value.toListRef()) flatten(item, outputs);
    } else {
        throw std::runtime_error("the TorchScript module returns something other than tensors");
    }
}

// Reads from memory without a copy.
struct Bytes : std::streambuf {
    Bytes(const char* bytes, size_t length) {
        char* begin = const_cast<char*>(bytes);
        setg(begin, begin, begin + length);
    }
    pos_type seekoff(off_type offset, std::ios_base::seekdir from, std::ios_base::openmode) override {
        char* base = from == std::ios_base::beg ? eback() : from == std::ios_base::cur ? gptr() : egptr();
        // An archive may name any place.
        if (offset < eback() - base || offset > egptr() - base) return pos_type(off_type(-1));
        setg(eback(), base + offset, egptr());
        return gptr() - eback();
    }
    pos_type seekpos(pos_type position, std::ios_base::openmode mode) override {
        return seekoff(position, std::ios_base::beg, mode);
    }
};

}  // namespace

struct faceid_module {
    torch::jit::Module module;
};

struct faceid_inference {
    c10::InferenceMode guard;
};

extern "C" {

faceid_inference* faceid_inference_begin() noexcept {
    try {
        return new faceid_inference;
    } catch (...) {
        return nullptr;
    }
}

// Destructors throw nothing, here and below.
void faceid_inference_end(faceid_inference* mode) noexcept { delete mode; }

faceid_module* faceid_module_load(const char* bytes, size_t length, int cuda_device, int kind, bool optimise,
                                  char** error) noexcept {
    return caught<faceid_module*>(error, nullptr, [&] {
        Bytes buffer(bytes, length);
        std::istream stream(&buffer);
        const at::Device device =
            cuda_device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(cuda_device));
        torch::jit::Module module = torch::jit::load(stream, device);
        module.eval();
        module.to(static_cast<at::ScalarType>(kind));
        if (optimise) {
            module = torch::jit::freeze(module);
            if (cuda_device < 0 && kind == static_cast<int>(at::kFloat)) module = torch::jit::optimize_for_inference(module);
        }
        return new faceid_module{module};
    });
}

void faceid_module_free(faceid_module* module) noexcept { delete module; }

int64_t faceid_module_run(const faceid_module* module, const void* input, faceid_tensor* outputs, int64_t limit,
                          char** error) noexcept {
    return caught<int64_t>(error, -1, [&] {
        const c10::InferenceMode guard;
        // `forward` is not const, though it changes nothing in a frozen module.
        torch::jit::Module shared = module->module;
        std::vector<at::Tensor> tensors;
        flatten(shared.forward({*static_cast<const at::Tensor*>(input)}), tensors);
        if (static_cast<int64_t>(tensors.size()) > limit) throw std::runtime_error("it returns too many tensors");
        for (size_t i = 0; i < tensors.size(); i++) outputs[i] = new at::Tensor(tensors[i].clone());
        return static_cast<int64_t>(tensors.size());
    });
}

bool faceid_open_library(const char* path, char** error) noexcept {
    // The initialisers of the library run in here.
    return caught<bool>(error, false, [&] {
        if (dlopen(path, RTLD_NOW | RTLD_GLOBAL)) return true;
        const char* message = dlerror();
        throw std::runtime_error(message ? message : "unknown error");
    });
}

void faceid_exit(int status) noexcept { _exit(status); }

void faceid_tune_heap() noexcept {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

void faceid_keep_heap() noexcept {
#ifdef __GLIBC__
    // Nothing of its own from the system for large blocks, nothing back to it, and one heap for all threads: a block that
    // was freed serves the next step.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
    mallopt(M_ARENA_MAX, 1);
#endif
}

void faceid_free_message(char* message) noexcept { free(message); }
}
