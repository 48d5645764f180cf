//! Turns a driver's accesses into a program for the guest.
//!
//! The driver runs here, before the guest does, and believes that it talks to a unit. What it
//! writes, to registers and to tables, becomes stores. What it reads from registers becomes loads
//! that the guest checks against what was foreseen; what it waits for becomes a wait. So the same
//! driver that drives a unit in this process programs it from within the guest.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_iommu_driver::{RegisterBus, SpinBudget, TimedOut, Until, WaitError};
use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::PhysAddr;

use super::engine::{Operation, Placement, Width};
use super::function::Look;

/// How often the guest looks at what a device is to do. Interpreted, one look takes some
/// microseconds; on hardware a look at a register takes about one.
const SPINS: u64 = 2_000_000;

/// A value that the guest loads, by the index of the operation that loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loaded(pub usize);

/// A program in the making.
pub struct Recorder {
    placement: Placement,
    recording: Mutex<Recording>,
}

#[derive(Default)]
struct Recording {
    program: Vec<Operation>,
    /// The words of guest memory that the driver has stored.
    words: BTreeMap<u64, u64>,
}

impl Recorder {
    /// An empty program, to be placed at `placement`.
    pub fn new(placement: Placement) -> Self {
        Self {
            placement,
            recording: Mutex::default(),
        }
    }

    /// Where the program will be.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Appends an operation.
    pub fn push(&self, operation: Operation) {
        self.recording().program.push(operation);
    }

    /// The number of operations so far, which is the index of the next.
    pub fn len(&self) -> usize {
        self.recording().program.len()
    }

    /// Stores `value` at guest physical `address`.
    pub fn write(&self, width: Width, address: u64, value: u64) {
        self.push(Operation::Store {
            width,
            address,
            value,
        });
    }

    /// Loads from guest physical `address` once, and fails unless the condition is met.
    pub fn expect(&self, width: Width, address: u64, until: Until) -> Loaded {
        self.look(width, address, until, 1)
    }

    /// Loads from guest physical `address` until the condition is met.
    pub fn wait(&self, width: Width, address: u64, until: Until) -> Loaded {
        self.look(width, address, until, SPINS)
    }

    /// Loads the word at guest physical `address`, which a unit has written: it must be `value`,
    /// and the driver, too, sees it there from now on.
    pub fn find(&self, address: PhysAddr, value: u64) -> Loaded {
        let until = Until {
            mask: u64::MAX,
            expected: value,
        };
        let loaded = self.expect(Width::Quad, address.0, until);
        self.recording().words.insert(address.0, value);
        loaded
    }

    /// The program so far.
    pub fn program(&self) -> Vec<Operation> {
        self.recording().program.clone()
    }

    fn look(&self, width: Width, address: u64, until: Until, spins: u64) -> Loaded {
        let mut recording = self.recording();
        let loaded = Loaded(recording.program.len());
        recording.program.push(Operation::Wait {
            width,
            address,
            mask: until.mask,
            value: until.expected,
            spins,
        });
        loaded
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guest memory as the driver sees it: what it stored, and zero elsewhere. Of what a unit writes
/// it learns by waiting.
impl TableMemory for Recorder {
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        let address = aligned(address, 8)?;
        Ok(self.recording().words.get(&address).copied().unwrap_or(0))
    }

    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        let found = self.load(address)?;
        if found != old {
            return Ok(Err(found));
        }
        self.store(address, new)?;
        Ok(Ok(found))
    }

    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        let address = aligned(address, 8)?;
        let mut recording = self.recording();
        recording.words.insert(address, value);
        recording.program.push(Operation::Store {
            width: Width::Quad,
            address,
            value,
        });
        Ok(())
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        let address = aligned(address, 4)?;
        let mut recording = self.recording();
        let shift = (address & 4) * 8;
        let word = recording.words.entry(address & !7).or_default();
        *word = *word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        recording.program.push(Operation::Store {
            width: Width::Double,
            address,
            value: u64::from(value),
        });
        Ok(())
    }
}

fn aligned(address: PhysAddr, size: u64) -> Result<u64, BadAddress> {
    if address.is_aligned(size) {
        Ok(address.0)
    } else {
        Err(BadAddress(address))
    }
}

/// A unit's registers as the driver sees them while it is recorded.
pub struct RecordingBus<'a> {
    recorder: &'a Recorder,
    /// Where the registers are in the guest's address space.
    base: u64,
    /// What a register that nothing was foreseen for reads as.
    look: Look<'a>,
    foreseen: Mutex<HashMap<u16, u64>>,
    read: Mutex<HashMap<u16, Loaded>>,
}

impl<'a> RecordingBus<'a> {
    /// The registers at guest physical `base`. As `look` reads them now, the guest will find them
    /// unless something else is [foreseen](Self::foresee).
    pub fn new(recorder: &'a Recorder, base: u64, look: Look<'a>) -> Self {
        Self {
            recorder,
            base,
            look,
            foreseen: Mutex::default(),
            read: Mutex::default(),
        }
    }

    /// From now on the register at `offset` reads as `value`; the guest fails if it does not.
    pub fn foresee(&self, offset: u16, value: u64) {
        lock(&self.foreseen).insert(offset, value);
    }

    /// What the guest last reads from the register at `offset`, if it reads it.
    pub fn read_of(&self, offset: u16) -> Option<Loaded> {
        lock(&self.read).get(&offset).copied()
    }

    fn address(&self, offset: u16) -> u64 {
        self.base + u64::from(offset)
    }

    fn read(&self, offset: u16, width: Width) -> u64 {
        let value = match lock(&self.foreseen).get(&offset) {
            Some(value) => *value,
            None => (self.look)(self.address(offset), width),
        };
        let until = Until {
            mask: u64::MAX,
            expected: value,
        };
        let loaded = self.recorder.expect(width, self.address(offset), until);
        lock(&self.read).insert(offset, loaded);
        value
    }

    fn write(&self, offset: u16, width: Width, value: u64) {
        self.recorder.write(width, self.address(offset), value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RegisterBus for RecordingBus<'_> {
    fn read32(&self, offset: u16) -> u32 {
        self.read(offset, Width::Double) as u32
    }

    fn read64(&self, offset: u16) -> u64 {
        self.read(offset, Width::Quad)
    }

    fn write32(&self, offset: u16, value: u32) {
        self.write(offset, Width::Double, u64::from(value));
    }

    fn write64(&self, offset: u16, value: u64) {
        self.write(offset, Width::Quad, value);
    }

    fn poll32(&self, offset: u16, until: Until, _: SpinBudget) -> Result<u32, TimedOut> {
        let loaded = self
            .recorder
            .wait(Width::Double, self.address(offset), until);
        lock(&self.read).insert(offset, loaded);
        Ok(until.expected as u32)
    }

    fn poll_memory(
        &self,
        _: &dyn TableMemory,
        address: PhysAddr,
        until: Until,
        _: SpinBudget,
    ) -> Result<u64, WaitError> {
        let address = aligned(address, 8)?;
        self.recorder.wait(Width::Quad, address, until);
        self.recorder
            .recording()
            .words
            .insert(address, until.expected);
        Ok(until.expected)
    }
}
