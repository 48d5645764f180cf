//! The logs in guest memory: where the next entry goes, and what happens when there is no room.

use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::amd::registers::{RingBase, Status, offset};

use crate::control::Control;

/// One of the logs: its registers and what says that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) base: u16,
    pub(crate) head: u16,
    pub(crate) tail: u16,
    pub(crate) entry: u32,
    pub(crate) run: Status,
    pub(crate) overflow: Status,
    pub(crate) logged: Status,
}

pub(crate) const EVENT_LOG: Log = Log {
    base: offset::EVENT_LOG,
    head: offset::EVENT_HEAD,
    tail: offset::EVENT_TAIL,
    entry: 16,
    run: Status::EVENT_RUN,
    overflow: Status::EVENT_OVERFLOW,
    logged: Status::EVENT_INTERRUPT,
};

pub(crate) const PPR_LOG: Log = Log {
    base: offset::PPR_LOG,
    head: offset::PPR_HEAD,
    tail: offset::PPR_TAIL,
    entry: 16,
    run: Status::PPR_RUN,
    overflow: Status::PPR_OVERFLOW,
    logged: Status::PPR_INTERRUPT,
};

pub(crate) const GA_LOG: Log = Log {
    base: offset::GA_LOG,
    head: offset::GA_HEAD,
    tail: offset::GA_TAIL,
    entry: 8,
    run: Status::GA_RUN,
    overflow: Status::GA_OVERFLOW,
    logged: Status::GA_INTERRUPT,
};

/// What became of an entry for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It goes here; [`Control::appended`] is to follow.
    At(PhysAddr),
    /// The log is full, and stopped.
    Full,
    /// The log does not run.
    Stopped,
}

impl Control {
    /// Where the next entry of `log` goes. A full log stops (sections 2.5.1 and 2.6).
    pub(crate) fn room(&mut self, log: &Log) -> Room {
        let status = self.status();
        if !status.contains(log.run) {
            return Room::Stopped;
        }
        let base = RingBase::from_bits(self.file.get(log.base));
        let (Some((next, bytes)), Some(tail)) = (self.next(log, base), self.tail(log, base)) else {
            self.set_status(status - log.run);
            return Room::Stopped;
        };
        if next % bytes == self.file.get(log.head) as u32 {
            self.set_status((status - log.run) | log.overflow);
            return Room::Full;
        }
        match base.address().checked_add(u64::from(tail)) {
            Some(place) => Room::At(place),
            None => Room::Stopped,
        }
    }

    fn tail(&self, log: &Log, base: RingBase) -> Option<u32> {
        let tail = self.file.get(log.tail) as u32;
        (tail < base.entries()? * log.entry).then_some(tail)
    }

    fn next(&self, log: &Log, base: RingBase) -> Option<(u32, u32)> {
        let bytes = base.entries()? * log.entry;
        Some((self.tail(log, base)? + log.entry, bytes))
    }

    /// An entry was written where [`room`](Self::room) said: moves the tail and says so.
    pub(crate) fn appended(&mut self, log: &Log) {
        let base = RingBase::from_bits(self.file.get(log.base));
        if let Some((next, bytes)) = self.next(log, base) {
            self.file.set(log.tail, u64::from(next % bytes));
        }
        self.set_status(self.status() | log.logged);
    }

    /// How many entries `log` holds.
    pub(crate) fn entries(&self, log: &Log) -> u32 {
        let base = RingBase::from_bits(self.file.get(log.base));
        let (Some(entries), Some(tail)) = (base.entries(), self.tail(log, base)) else {
            return 0;
        };
        let bytes = entries * log.entry;
        let head = self.file.get(log.head) as u32 % bytes;
        (tail + bytes - head) % bytes / log.entry
    }
}
