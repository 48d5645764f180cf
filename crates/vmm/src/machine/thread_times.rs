//! How much processor time each thread took.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Milliseconds on a processor by the name of the thread; that of a CPU includes the guest's.
/// Threads of one name are one; those of which the host says nothing are left out.
pub(super) type ThreadTimes = BTreeMap<String, f64>;

/// Those of the threads that there are now.
pub(super) fn of_all() -> ThreadTimes {
    let mut times = ThreadTimes::new();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten() {
        if let Some((name, time)) = of(&task.path()) {
            *times.entry(name).or_default() += time;
        }
    }
    times
}

/// That of the calling thread, with its name.
pub(super) fn of_this() -> Option<(String, f64)> {
    of(Path::new("/proc/thread-self"))
}

fn of(task: &Path) -> Option<(String, f64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    // Nanoseconds on a processor, nanoseconds of waiting for one, turns.
    let statistics = fs::read_to_string(task.join("schedstat")).ok()?;
    let nanoseconds: u64 = statistics.split_whitespace().next()?.parse().ok()?;
    Some((name.trim().to_owned(), (nanoseconds / 1000) as f64 / 1e3))
}
