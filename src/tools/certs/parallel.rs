//! A parallel map, for generating keys and signatures.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Applies `work` to each item on all processors. Results are in the order of the items. `progress`
/// receives the number of items done so far, from several threads.
pub(super) fn map<T: Sync, R: Send>(
    items: &[T],
    progress: &(dyn Fn(usize) + Sync),
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = AtomicUsize::new(0);
    let one = |item: &T| {
        let result = work(item);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        result
    };
    let parts: Vec<Vec<R>> = std::thread::scope(|scope| {
        let chunks = items.chunks(items.len().div_ceil(threads).max(1));
        let workers: Vec<_> =
            chunks.map(|chunk| scope.spawn(|| chunk.iter().map(one).collect())).collect();
        // A panic in a worker is passed on.
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    parts.into_iter().flatten().collect()
}
