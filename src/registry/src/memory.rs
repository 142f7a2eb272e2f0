//! The allocator's habits: by default it keeps a heap for each thread that ever met another at a lock, and lets each
//! grow with the largest pieces it has seen. A registry has many threads that mostly wait for the disk, and pieces
//! of few sizes that come and go.

/// Largest piece that comes out of the heap, and how much of the heap's free end is kept, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 256 << 10;

/// One heap, whose free end goes back to the system. To be called before there is a second thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_one_heap() {
    use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: mallopt(3) takes two numbers and touches no memory of ours; there is no other thread yet.
    unsafe {
        mallopt(M_ARENA_MAX, 1);
        mallopt(M_MMAP_THRESHOLD, KEPT);
        mallopt(M_TRIM_THRESHOLD, KEPT);
    }
}

/// Other allocators have other habits.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_one_heap() {}
