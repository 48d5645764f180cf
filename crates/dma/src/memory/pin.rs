//! Short reads of published state from any thread, whether it has a handle or not.
//!
//! A unit reads tables and queues from device threads, vCPUs and its worker. Each thread has a
//! count that is odd while it reads; whoever retires state waits for the counts that are odd. The
//! fence between the count and the read is the light side of a [`Barrier`], so that a read pays
//! two stores to its own cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::barrier::Barrier;

/// One thread's count, on a cache line pair of its own.
#[repr(align(128))]
struct Reader {
    count: AtomicU64,
    barrier: Barrier,
}

struct Readers {
    /// All that ever were; never freed, so that no thread outlives its own.
    all: Vec<&'static Reader>,
    /// Those of threads that ended.
    free: Vec<&'static Reader>,
}

static READERS: Mutex<Readers> = Mutex::new(Readers {
    all: Vec::new(),
    free: Vec::new(),
});

thread_local! {
    /// Without a destructor of its own, so that looking costs no more than a load.
    static READER: Cell<Option<&'static Reader>> = const { Cell::new(None) };
    /// Hands the reader on when the thread ends.
    static LEAVER: Leaver = const { Leaver };
}

struct Leaver;

impl Drop for Leaver {
    fn drop(&mut self) {
        if let Some(reader) = READER.take() {
            readers().free.push(reader);
        }
    }
}

/// While it lives, what this thread reads of published state stays.
pub(super) struct Pin {
    reader: &'static Reader,
    before: u64,
}

/// Begins to read. May be nested.
#[inline(always)]
pub(super) fn pin() -> Pin {
    let reader = match READER.get() {
        Some(reader) => reader,
        None => join(),
    };
    let before = reader.count.load(Ordering::Relaxed);
    // Stays odd while nested: the outermost ends it.
    reader.count.store(before | 1, Ordering::Relaxed);
    reader.barrier.light();
    Pin { reader, before }
}

impl Drop for Pin {
    #[inline(always)]
    fn drop(&mut self) {
        // Even again, and another count than before; where nested, odd as before.
        let ended = (self.before & 1 ^ 1) << 1;
        let count = self.before.wrapping_add(ended);
        self.reader.count.store(count, Ordering::Release);
    }
}

/// Waits until no thread reads what was published before what is published now. The caller must
/// not be reading.
pub(super) fn synchronize() {
    let readers = readers();
    let Some(first) = readers.all.first() else {
        std::sync::atomic::fence(Ordering::SeqCst);
        return;
    };
    first.barrier.heavy();
    for reader in &readers.all {
        let count = reader.count.load(Ordering::Acquire);
        let mut spins = 0;
        while !count.is_multiple_of(2) && reader.count.load(Ordering::Acquire) == count {
            crate::sync::relax(&mut spins);
        }
    }
}

#[cold]
fn join() -> &'static Reader {
    let mut readers = readers();
    let reader = readers.free.pop().unwrap_or_else(|| {
        // All take the same form: the heavy side must match every light one.
        let barrier = match readers.all.first() {
            Some(first) => first.barrier,
            None => Barrier::detect(),
        };
        let reader: &'static Reader = Box::leak(Box::new(Reader {
            count: AtomicU64::new(0),
            barrier,
        }));
        readers.all.push(reader);
        reader
    });
    drop(readers);
    READER.set(Some(reader));
    // In a thread that is ending, nobody hands it on, which costs memory and nothing else.
    let _ = LEAVER.try_with(|_| ());
    reader
}

fn readers() -> MutexGuard<'static, Readers> {
    READERS.lock().unwrap_or_else(PoisonError::into_inner)
}
