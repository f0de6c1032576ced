#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use faceid::fuzz_tests;
use libfuzzer_sys::fuzz_target;

/// What is allocated, and the most since it was last asked.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// What decoders may allocate beside what they say: that of WebP asks for a partition of the length that the file claims, up to
/// 16 MiB, and touches none of it if the file is shorter; and tables, small vectors, the state of threads.
const BESIDES: usize = 18 << 20;

struct Counting;

// SAFETY: all work is the system's; only sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(
    // A panic of a decoder is a damaged image; only one that gets out of it ends the run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| {
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let said = fuzz_tests::image(bytes) as usize;
        let took = PEAK.load(Relaxed) - before;
        if took > said + BESIDES {
            eprintln!("it takes {took} bytes of memory, and says {said}");
            std::process::abort();
        }
    }
);
