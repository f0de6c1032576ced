// Spreads the work of one layer over threads.
//
// Not OpenMP: its threads wait actively for the next piece of work, and every piece ends when the slowest thread does.
// Alone on the machine that is fastest; beside a database, or a neighbour, it is many times slower than one thread.
// Here waiting threads sleep after a fraction of a millisecond, and pieces are small and taken by whoever is free, so that a
// thread which does not get a core holds up nobody.
#pragma once
#include <cstdint>
#include <functional>

namespace faceid {

// How many threads the calling thread's work may use, itself counted. One at the start.
void use_threads(int count);

// Calls `body` with ranges of at least `grain` items, multiples of `step` long, that cover 0..items. Threads help one
// caller at a time; another does its work alone. `body` must not throw.
void parallel(int64_t items, int64_t grain, int64_t step, const std::function<void(int64_t, int64_t)>& body);

}  // namespace faceid
