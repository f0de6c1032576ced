// No exception crosses the boundary to Rust: every function of shim.h is noexcept, and whatever may throw runs in here.
#pragma once
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace faceid {

// Runs `body`; an exception becomes a message, which the caller frees, and the value that stands for failure. (A message
// for which there is no memory is null.)
template <class Result, class Body>
Result caught(char** error, Result failure, Body body) noexcept {
    try {
        return body();
    } catch (const c10::Error& thrown) {
        *error = strdup(thrown.what_without_backtrace());
    } catch (const std::exception& thrown) {
        *error = strdup(thrown.what());
    } catch (...) {
        *error = strdup("an unknown C++ exception");
    }
    return failure;
}

}  // namespace faceid
