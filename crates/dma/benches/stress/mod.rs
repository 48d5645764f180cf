//! Devices access memory while a driver maps, unmaps, invalidates and reuses the pages.
//!
//! A page that was taken away and whose invalidation completed is filled with words that no device
//! may see, and is looked at before it is handed out again: a word that a device wrote there, or
//! a word of the owner that a device read, came after the invalidation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vm_iommu_dma::{
    DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, Iotlb, IotlbConfig, Space,
    Translation, Upstream,
};
use vm_iommu_spec::{Access, DmaRequest, DomainId, Fault, FaultReason, Iova, PhysAddr};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Input pages, and frames that they lead to; some frames are always with their owner.
const PAGES: u64 = 48;
const FRAMES: u64 = 64;
const PAGE: usize = 4096;
/// The upper byte of every word that a device writes, and of every word of the owner.
const DEVICE: u64 = 0xdd << 56;
const OWNER: u64 = 0xee << 56;
const KIND: u64 = 0xff << 56;
const PRESENT: u64 = 1;

/// What happened.
pub struct Outcome {
    /// Invalidations that completed.
    pub invalidations: u64,
    /// Drains that completed them.
    pub drains: u64,
    /// Accesses that devices made, and those of them that were refused.
    pub accesses: u64,
    /// See `accesses`.
    pub refused: u64,
    /// From the first to the last invalidation.
    pub elapsed: Duration,
    /// How long drains took: the median, and the longest.
    pub drain: (Duration, Duration),
}

/// One table, an atomic word a page.
struct Table {
    entries: Vec<AtomicU64>,
    space: Arc<Space>,
    iotlb: Arc<Iotlb>,
}

impl DmaRemapper for Table {
    fn bind(&self, _request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        Ok(Arc::clone(&self.space))
    }

    fn translate(&self, _space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        let entry = self.entries.get((request.address.0 >> 12) as usize);
        let entry = entry.map_or(0, |entry| entry.load(Ordering::Acquire));
        if entry & PRESENT == 0 {
            return Err(request.fault(FaultReason::NotMemory));
        }
        Ok(Translation {
            output: PhysAddr(entry & !0xfff),
            page_shift: 12,
            permissions: Access::READ | Access::WRITE,
            attributes: Default::default(),
        })
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }
}

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Runs until `invalidations` are complete, with as many `devices`.
///
/// # Panics
/// If a byte lands in a page, or comes from one, after its invalidation completed.
pub fn run(invalidations: u64, devices: u64) -> Outcome {
    let range = [(GuestAddress(0), FRAMES as usize * PAGE)];
    let ram = GuestRam::new(GuestMemoryMmap::from_ranges(&range).expect("memory"));
    // Fewer entries than pages, so that entries are evicted too.
    let iotlb = Iotlb::new(IotlbConfig { sets: 16 });
    let table = Arc::new(Table {
        entries: (0..PAGES).map(|_| AtomicU64::new(0)).collect(),
        space: Space::new(DomainId(1), iotlb.tag(), ()),
        iotlb,
    });
    let port = DmaPort::new(Upstream {
        output: Arc::new(ram.clone()),
        remapper: Some(table.clone()),
        epochs: Arc::new(Epochs::default()),
        msi: Arc::new(DiscardMsi),
    });
    port.set_bus_master(true);
    let stop = AtomicBool::new(false);
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    thread::scope(|scope| {
        for seed in 1..=devices {
            let (handle, stop, counts) = (port.handle(), &stop, &counts);
            scope.spawn(move || device(handle, seed, stop, counts));
        }
        // Stops the devices also when a look at a page fails.
        let _stop = Stop(&stop);
        while counts[0].load(Ordering::Relaxed) < devices {
            thread::yield_now();
        }
        let mut driver = Driver::new(&ram, &table, &port);
        driver.run(invalidations);
        let [accesses, refused] = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        driver.outcome(accesses, refused)
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Accesses pages at random until told to stop.
fn device(mut handle: DmaHandle, seed: u64, stop: &AtomicBool, counts: &[AtomicU64; 2]) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut words = [0_u64; PAGE / 8];
    let mut bytes = [0_u8; PAGE];
    while !stop.load(Ordering::Relaxed) {
        let len = [8, 64, 512, PAGE][random.below(4) as usize];
        let offset = random.below((PAGE - len) as u64 / 8 + 1) * 8;
        let address = Iova((random.below(PAGES) << 12) | offset);
        let bytes = &mut bytes[..len];
        let done = match random.below(4) {
            0 => handle.read(address, bytes).is_ok(),
            1 => {
                let session = handle.session();
                let read = session.read_slice(bytes, GuestAddress(address.0));
                read.is_ok()
            }
            write => {
                words[..len / 8].fill(DEVICE | random.below(1 << 40));
                for (bytes, word) in bytes.chunks_mut(8).zip(&words) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                if write == 2 {
                    handle.write(address, bytes).is_ok()
                } else {
                    let session = handle.session();
                    let written = session.write_slice(bytes, GuestAddress(address.0));
                    written.is_ok()
                }
            }
        };
        counts[0].fetch_add(1, Ordering::Relaxed);
        counts[1].fetch_add(u64::from(!done), Ordering::Relaxed);
        if done {
            let seen = bytes.chunks(8).any(|word| word[7] == (OWNER >> 56) as u8);
            assert!(
                !seen,
                "a device read a page after its invalidation completed"
            );
        }
        if random.below(64) == 0 {
            handle.park();
        }
    }
}

/// Who owns the frames that are not mapped.
struct Driver<'a> {
    memory: Arc<GuestMemoryMmap>,
    table: &'a Table,
    port: &'a Arc<DmaPort>,
    random: Random,
    /// Frames that were taken away, the longest ago first.
    owned: VecDeque<u64>,
    completed: u64,
    drains: Vec<Duration>,
    began: Instant,
}

impl<'a> Driver<'a> {
    fn new(ram: &GuestRam, table: &'a Table, port: &'a Arc<DmaPort>) -> Self {
        let mut driver = Self {
            memory: ram.memory(),
            table,
            port,
            random: Random(0x2545_f491_4f6c_dd1d),
            owned: VecDeque::new(),
            completed: 0,
            drains: Vec::new(),
            began: Instant::now(),
        };
        for frame in 0..FRAMES {
            driver.take(frame << 12);
        }
        for page in 0..PAGES {
            driver.map(page);
        }
        driver
    }

    fn run(&mut self, invalidations: u64) {
        self.began = Instant::now();
        while self.completed < invalidations {
            let batch = self.random.below(8) + 1;
            let first = self.random.below(PAGES - batch + 1);
            let frames: Vec<u64> = (first..first + batch)
                .map(|page| self.unmap(page))
                .collect();
            self.invalidate(first, batch);
            let begun = Instant::now();
            self.port.upstream().epochs.drain().wait();
            self.drains.push(begun.elapsed());
            for frame in frames {
                self.take(frame);
            }
            for page in first..first + batch {
                self.map(page);
            }
        }
    }

    fn unmap(&self, page: u64) -> u64 {
        self.table.entries[page as usize].swap(0, Ordering::AcqRel) & !0xfff
    }

    /// Makes `batch` pages from `first` unreachable, in one of the ways there are.
    fn invalidate(&mut self, first: u64, batch: u64) {
        let (iotlb, tag) = (&self.table.iotlb, self.table.space.tag());
        match self.random.below(8) {
            0 => iotlb.invalidate_all(),
            1 => iotlb.invalidate_tag(tag),
            2 => {
                let last = Iova(((first + batch) << 12) - 1);
                iotlb.invalidate_range(tag, Iova(first << 12), last);
            }
            _ => {
                for page in first..first + batch {
                    let last = Iova((page << 12) | 0xfff);
                    iotlb.invalidate_range(tag, Iova(page << 12), last);
                }
            }
        }
        self.completed += batch;
    }

    /// Reuses a frame that no device may touch any more.
    fn take(&mut self, frame: u64) {
        let words: Vec<u8> = (0..PAGE as u64 / 8)
            .flat_map(|word| (OWNER | (frame << 16) | word).to_le_bytes())
            .collect();
        let place = GuestAddress(frame);
        self.memory.write_slice(&words, place).expect("memory");
        self.owned.push_back(frame);
    }

    /// Hands out the frame that was taken away the longest ago.
    fn map(&mut self, page: u64) {
        let frame = self.owned.pop_front().expect("more frames than pages");
        let mut bytes = [0; PAGE];
        let place = GuestAddress(frame);
        self.memory.read_slice(&mut bytes, place).expect("memory");
        for (word, bytes) in (0..).zip(bytes.chunks(8)) {
            let found = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            let left = OWNER | (frame << 16) | word;
            assert_eq!(
                (found & KIND, found),
                (OWNER, left),
                "a device wrote to a page after its invalidation completed"
            );
        }
        self.memory.write_slice(&[0; PAGE], place).expect("memory");
        self.table.entries[page as usize].store(frame | PRESENT, Ordering::Release);
    }

    fn outcome(mut self, accesses: u64, refused: u64) -> Outcome {
        let elapsed = self.began.elapsed();
        self.drains.sort_unstable();
        let longest = self.drains.last().copied().unwrap_or_default();
        let median = self.drains.get(self.drains.len() / 2).copied();
        Outcome {
            invalidations: self.completed,
            drains: self.drains.len() as u64,
            accesses,
            refused,
            elapsed,
            drain: (median.unwrap_or_default(), longest),
        }
    }
}
