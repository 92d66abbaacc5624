//! The only unsafe code: what the C library offers and no safe crate does.

/// Makes the C library keep less memory that is free. Best called before there are other threads. Measured in docs/decisions/0006-memory-that-is-free.md.
pub fn spare_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// By itself it keeps up to eight for each core, and in each the free memory of the threads that used it.
        const ARENAS: i32 = 2;
        // SAFETY: mallopt takes two numbers and is safe to call from any thread at any time; a refusal changes nothing.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}
