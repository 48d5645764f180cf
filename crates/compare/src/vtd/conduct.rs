//! Puts a case to one side, and notes what can be seen from outside.

use serde::Serialize;
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::vtd::FaultRecord;
use vm_iommu_spec::vtd::descriptor::raw;
use vm_iommu_spec::vtd::registers::{
    Capability, ContextCommand, ExtendedCapability, FaultStatus, GlobalBits, Granularity,
    IotlbInvalidate, QueueAddress, offset,
};

use super::case::{Case, Request};
use crate::qtest::QtestError;
use crate::side::{SLOTS, Side, layout};

/// How often a command's end is looked for.
const LOOKS: u32 = 1000;

/// A recorded fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// FR.
    pub reason: u8,
    /// FI, the page of the address.
    pub page: u64,
    /// SID.
    pub source: u16,
    /// T1: it was a read.
    pub read: bool,
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// The fault that the unit recorded.
    pub fault: Option<Recorded>,
    /// The word that was read; `None` for writes, and after a fault.
    pub read: Option<u64>,
    /// Where the word that was written arrived.
    pub written: Vec<u64>,
}

/// A side and what its unit was told.
pub struct Conductor<S> {
    /// The side.
    pub side: S,
    enabled: GlobalBits,
    capability: Capability,
    extended: ExtendedCapability,
    tail: u64,
}

impl<S: Side> Conductor<S> {
    /// Reads what the unit can do.
    ///
    /// # Errors
    /// Those of the side.
    pub fn new(mut side: S) -> Result<Self, QtestError> {
        let capability = Capability::from_bits(side.read64(offset::CAP)?);
        let extended = ExtendedCapability::from_bits(side.read64(offset::ECAP)?);
        Ok(Self {
            side,
            enabled: GlobalBits::empty(),
            capability,
            extended,
            tail: 0,
        })
    }

    /// CAP_REG and ECAP_REG.
    pub fn capabilities(&self) -> (Capability, ExtendedCapability) {
        (self.capability, self.extended)
    }

    /// Puts the case to the unit, from a unit that does not translate to one that does not.
    ///
    /// # Errors
    /// Those of the side, and [`QtestError::Stuck`] if the unit does not follow.
    pub fn conduct(&mut self, case: &Case) -> Result<Vec<Observation>, QtestError> {
        let length = layout::STRUCTURES.end - layout::STRUCTURES.start;
        self.side.clear(layout::STRUCTURES.start, length)?;
        for (address, word) in &case.words {
            self.side.store(*address, *word)?;
        }
        self.side.set_slots(&patterns())?;
        self.side.write64(offset::RTADDR, case.root_address)?;
        self.command(GlobalBits::ROOT_TABLE_POINTER)?;
        self.invalidate(case.queued)?;
        self.set(GlobalBits::TRANSLATION, true)?;
        let mut observations = Vec::with_capacity(case.requests.len());
        for (slot, request) in case.requests.iter().enumerate() {
            observations.push(self.request(case, *request, slot as u16)?);
        }
        self.set(GlobalBits::TRANSLATION, false)?;
        let slots = self.side.slots()?;
        for ((observation, request), word) in observations.iter_mut().zip(&case.requests).zip(slots)
        {
            observation.read = (!request.write && observation.fault.is_none()).then_some(word);
        }
        Ok(observations)
    }

    fn request(
        &mut self,
        case: &Case,
        request: Request,
        slot: u16,
    ) -> Result<Observation, QtestError> {
        let places: Vec<u64> = case.data_places(request.iova).collect();
        for place in &places {
            self.side.store(*place, tag(*place))?;
        }
        if request.write {
            self.side.dma_write(request.iova, slot)?;
        } else {
            self.side.dma_read(request.iova, slot)?;
        }
        let fault = self.take_fault()?;
        let mut written = Vec::new();
        if request.write {
            let words = self.side.load_all(&places)?;
            let arrived = places.iter().zip(words);
            written.extend(
                arrived.filter_map(|(place, word)| (word == pattern(slot)).then_some(*place)),
            );
        }
        for place in places {
            self.side.store(place, 0)?;
        }
        Ok(Observation {
            fault,
            read: None,
            written,
        })
    }

    /// Takes the record of a fault, if there is one.
    fn take_fault(&mut self) -> Result<Option<Recorded>, QtestError> {
        let place = self.capability.fault_recording_offset();
        let [low, high] = self.side.read128(place)?;
        let record = FaultRecord::from_words(low, high);
        if !record.fault() {
            return Ok(None);
        }
        self.side.write32(place + 12, 1 << 31)?;
        let overflow = FaultStatus::new().with_overflow(true);
        self.side.write32(offset::FSTS, overflow.into_bits())?;
        Ok(Some(Recorded {
            reason: record.reason(),
            page: record.page(),
            source: record.source(),
            read: record.read(),
        }))
    }

    /// Drops everything from all caches, as a driver does after setting the root table.
    fn invalidate(&mut self, queued: bool) -> Result<(), QtestError> {
        let command = ContextCommand::new()
            .with_requested(Granularity::Global)
            .with_invalidate(true);
        let iotlb = IotlbInvalidate::new()
            .with_requested(Granularity::Global)
            .with_invalidate(true);
        if queued && self.extended.queued_invalidation() {
            return self.invalidate_by_queue();
        }
        self.set(GlobalBits::QUEUED_INVALIDATION, false)?;
        self.side.write64(offset::CCMD, command.into_bits())?;
        self.until("the context-cache invalidation", |side| {
            let value = ContextCommand::from_bits(side.read64(offset::CCMD)?);
            Ok(!value.invalidate())
        })?;
        let register = self.extended.iotlb_offset() + 8;
        self.side.write64(register, iotlb.into_bits())?;
        self.until("the IOTLB invalidation", |side| {
            let value = IotlbInvalidate::from_bits(side.read64(register)?);
            Ok(!value.invalidate())
        })
    }

    fn invalidate_by_queue(&mut self) -> Result<(), QtestError> {
        if !self.enabled.contains(GlobalBits::QUEUED_INVALIDATION) {
            self.side.write64(offset::IQT, 0)?;
            let address = QueueAddress::new().with_address(PhysAddr(layout::QUEUE));
            self.side.write64(offset::IQA, address.into_bits())?;
            self.set(GlobalBits::QUEUED_INVALIDATION, true)?;
            self.tail = 0;
        }
        let contexts = raw::ContextInvalidate::new().with_granularity(Granularity::Global);
        let iotlb = raw::IotlbInvalidate::new().with_granularity(Granularity::Global);
        let wait = raw::Wait::new().with_status_write(true).with_status_data(1);
        let descriptors = [
            [contexts.into_bits(), 0],
            [iotlb.into_bits(), 0],
            [wait.into_bits(), layout::STATUS],
        ];
        for [low, high] in descriptors {
            self.side.store(layout::QUEUE + self.tail, low)?;
            self.side.store(layout::QUEUE + self.tail + 8, high)?;
            self.tail = (self.tail + 16) % 0x1000;
        }
        self.side.write64(offset::IQT, self.tail)?;
        self.until("the invalidation queue", |side| {
            Ok(side.load(layout::STATUS)? == 1)
        })
    }

    fn set(&mut self, bit: GlobalBits, on: bool) -> Result<(), QtestError> {
        if self.enabled.contains(bit) == on {
            return Ok(());
        }
        self.enabled.set(bit, on);
        self.side.write32(offset::GCMD, self.enabled.bits())?;
        self.until("a global command", |side| {
            let status = GlobalBits::from_bits_truncate(side.read32(offset::GSTS)?);
            Ok(status.contains(bit) == on)
        })
    }

    /// A one-shot command.
    fn command(&mut self, bit: GlobalBits) -> Result<(), QtestError> {
        let value = self.enabled | bit;
        self.side.write32(offset::GCMD, value.bits())?;
        self.until("a global command", |side| {
            let status = GlobalBits::from_bits_truncate(side.read32(offset::GSTS)?);
            Ok(status.contains(bit))
        })
    }

    fn until(
        &mut self,
        what: &'static str,
        mut done: impl FnMut(&mut S) -> Result<bool, QtestError>,
    ) -> Result<(), QtestError> {
        for _ in 0..LOOKS {
            self.side.settle()?;
            if done(&mut self.side)? {
                return Ok(());
            }
        }
        Err(QtestError::Stuck { what })
    }
}

/// What a place of data holds before a request: its address, where the lowest bits of an entry
/// make it absent, should it be taken for one.
pub fn tag(place: u64) -> u64 {
    0x5a << 56 | place << 4
}

/// What a slot holds before a request.
pub fn pattern(slot: u16) -> u64 {
    0xa5 << 56 | u64::from(slot) << 4
}

/// What all slots hold before a case.
pub fn patterns() -> [u64; SLOTS] {
    std::array::from_fn(|slot| pattern(slot as u16))
}

/// The place that a word which was read came from, if it is a tag.
pub fn place_of(word: u64) -> Option<u64> {
    let place = word << 8 >> 12;
    (tag(place) == word && layout::DATA.contains(&place)).then_some(place)
}
