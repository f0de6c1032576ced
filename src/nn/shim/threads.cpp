#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace faceid {
namespace {

using Body = std::function<void(int64_t, int64_t)>;

// Longer than most of what lies between two layers; waking a thread that sleeps on an idle core costs as much as a layer.
constexpr auto patience = std::chrono::microseconds(300);

// Pieces for each thread: enough that one which comes late does little.
constexpr int64_t pieces = 4;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Threads that help one caller at a time.
class Team {
  public:
    // Only for the caller that holds `callers`.
    void run(int threads, int64_t items, int64_t piece, const Body& body) {
        hire(threads - 1);
        body_ = &body;
        items_ = items;
        piece_ = piece;
        next_.store(0);
        tickets_.store(threads - 1);
        open_.store(true);
        epoch_.fetch_add(1);
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> guard(lock_);
            wake_.notify_all();
        }
        work();
        open_.store(false);
        // Whoever is in has a piece in work; whoever comes now finds it closed.
        for (int spins = 0; active_.load() > 0; spins++) {
            if (spins < 1000) {
                relax();
            } else {
                std::this_thread::yield();
            }
        }
    }

    std::mutex callers;

  private:
    // Where the system has no thread to spare, those that there are do the work.
    void hire(int helpers) {
        try {
            for (; helpers_ < helpers; helpers_++) std::thread([this] { help(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    void work() {
        for (;;) {
            const int64_t first = next_.fetch_add(piece_);
            if (first >= items_) return;
            (*body_)(first, std::min(items_, first + piece_));
        }
    }

    void help() {
        uint64_t seen = 0;
        for (;;) {
            seen = await(seen);
            // Counted before it looks: the caller does not leave while anybody who found it open is in.
            active_.fetch_add(1);
            if (open_.load() && tickets_.fetch_sub(1) > 0) work();
            active_.fetch_sub(1);
        }
    }

    // Waits for a caller; first awake, then asleep.
    uint64_t await(uint64_t seen) {
        const auto end = std::chrono::steady_clock::now() + patience;
        do {
            for (int i = 0; i < 64; i++) {
                if (epoch_.load() != seen) return epoch_.load();
                relax();
            }
        } while (std::chrono::steady_clock::now() < end);
        std::unique_lock<std::mutex> guard(lock_);
        sleepers_.fetch_add(1);
        wake_.wait(guard, [&] { return epoch_.load() != seen; });
        sleepers_.fetch_sub(1);
        return epoch_.load();
    }

    const Body* body_ = nullptr;
    int64_t items_ = 0, piece_ = 0;
    int helpers_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<int> tickets_{0}, active_{0}, sleepers_{0};
    std::atomic<uint64_t> epoch_{0};
    std::atomic<bool> open_{false};
    std::mutex lock_;
    std::condition_variable wake_;
};

// Never destroyed: its threads live as long as the process.
Team& team() {
    static Team* const team = new Team;
    return *team;
}

thread_local int threads_of_caller = 1;

}  // namespace

void use_threads(int count) { threads_of_caller = std::max(1, count); }

void parallel(int64_t items, int64_t grain, int64_t step, const Body& body) {
    const int64_t most = std::max<int64_t>(1, items / std::max<int64_t>(1, grain));
    const int threads = static_cast<int>(std::min<int64_t>(threads_of_caller, most));
    std::unique_lock<std::mutex> mine(team().callers, std::defer_lock);
    if (threads < 2 || !mine.try_lock()) {
        body(0, items);
        return;
    }
    const int64_t piece = std::max(grain, (items + threads * pieces - 1) / (threads * pieces));
    team().run(threads, items, (piece + step - 1) / step * step, body);
}

}  // namespace faceid
