//! How often, and why, processors left the guest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a processor left the guest, as reports name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitKind {
    /// A read from an I/O port.
    PortRead,
    /// A write to an I/O port.
    PortWrite,
    /// A read from an address without memory.
    MmioRead,
    /// A write to an address without memory.
    MmioWrite,
    /// The end of an interrupt that the I/O APIC waits for.
    EndOfInterrupt,
    /// A signal of this process.
    Signal,
    /// Anything else.
    Other,
}

impl ExitKind {
    const ALL: [(Self, &'static str); 7] = [
        (Self::PortRead, "pio_read"),
        (Self::PortWrite, "pio_write"),
        (Self::MmioRead, "mmio_read"),
        (Self::MmioWrite, "mmio_write"),
        (Self::EndOfInterrupt, "ioapic_eoi"),
        (Self::Signal, "signal"),
        (Self::Other, "other"),
    ];
}

/// The exits of one processor.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; ExitKind::ALL.len()]);

impl ExitCounters {
    /// Counts one.
    #[inline]
    pub fn count(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts by the names of the kinds.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ExitKind::ALL
            .iter()
            .zip(&self.0)
            .map(|((_, name), counter)| (*name, counter.load(Ordering::Relaxed)))
    }

    /// The sums over several processors, without the kinds that never occurred.
    pub fn total<'a>(all: impl IntoIterator<Item = &'a Self>) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for (name, count) in all.into_iter().flat_map(Self::by_name) {
            if count > 0 {
                *sums.entry(name).or_default() += count;
            }
        }
        sums
    }
}
