//! Bringing a unit up and down.

use alloc::collections::BTreeMap;

use vm_iommu_pagetable::{Invalidation, TableMemory};
use vm_iommu_spec::vtd::registers::{
    Capability, EventControl, ExtendedCapability, GlobalBits, QueuePointer, RootTableAddress,
    Version, offset,
};
use vm_iommu_spec::{DomainId, MsiMessage, PhysAddr};

use super::domain::Domain;
use super::interrupt::InterruptTable;
use super::link::Link;
use super::queue::{Descriptor, Queue};
use super::{Error, Feature, InterruptSetup, Wait};
use crate::pages::Reserved;
use crate::{Pages, RegisterBus, SpinBudget, Until};

/// How a unit is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How long to wait for each thing that the unit is told to do.
    pub budget: SpinBudget,
    /// QS: the invalidation queue has `1 << queue_size` pages of 4 KiB, of 256 descriptors each;
    /// at most 7.
    pub queue_size: u8,
    /// The interrupt remapping table, if interrupts are to be remapped.
    pub interrupts: Option<InterruptSetup>,
    /// Width in bits of the physical addresses that the unit reaches, from its ACPI table (HAW);
    /// wider ones cannot be mapped.
    pub host_address_width: u8,
    /// What the unit writes when it has recorded a fault, in compatibility format with upper
    /// destination bits in the upper half of the address; `None` leaves the event masked.
    pub fault_event: Option<MsiMessage>,
}

impl Setup {
    /// One page of queue, no interrupt remapping, no fault event, 52-bit physical addresses.
    pub const fn new(budget: SpinBudget) -> Self {
        Self {
            budget,
            queue_size: 0,
            interrupts: None,
            host_address_width: 52,
            fault_event: None,
        }
    }
}

/// A VT-d unit in legacy mode and the tables that it was given.
///
/// `bus` leads to its registers, `memory` is where it reads its tables, `pages` is what they are
/// made of. A unit serves the requesters of one PCI segment; the segment of a
/// [`RequesterId`](vm_iommu_spec::RequesterId) is not looked at.
///
/// After [`Error::Stuck`] and [`Error::BadAddress`] the unit is in an unknown state; all other
/// errors leave everything as it was, but for [`Error::Queue`], after which what was stored may
/// still be cached as it was before.
#[derive(Debug)]
pub struct Unit<B, M, P> {
    pub(super) link: Link<B, M>,
    pub(super) pages: P,
    pub(super) version: Version,
    pub(super) capability: Capability,
    pub(super) extended: ExtendedCapability,
    pub(super) host_address_width: u8,
    pub(super) queue: Queue,
    pub(super) root: PhysAddr,
    /// The domain of each present context entry, by source id.
    pub(super) contexts: BTreeMap<u16, DomainId>,
    pub(super) domains: BTreeMap<DomainId, Domain>,
    /// What the unit could not be told to forget of a domain: it is told again with the next
    /// change.
    pub(super) owed: BTreeMap<DomainId, Invalidation>,
    pub(super) interrupts: Option<InterruptTable>,
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Finds out what the unit can do, turns off what it was found with, and gives it its queue,
    /// interrupt remapping table and root table, in the order that kernels do. Interrupts are
    /// remapped from then on, if `setup` has a table for it; DMA is not translated before
    /// [`enable_translation`](Self::enable_translation).
    ///
    /// # Errors
    /// [`Error`]; what concerns the unit's abilities and the memory for tables is found before
    /// the first store.
    pub fn start(bus: B, memory: M, mut pages: P, setup: &Setup) -> Result<Self, Error> {
        let capability = Capability::from_bits(bus.read64(offset::CAP));
        let extended = ExtendedCapability::from_bits(bus.read64(offset::ECAP));
        if capability.into_bits() == u64::MAX && extended.into_bits() == u64::MAX {
            return Err(Error::Absent);
        }
        let version = Version::from_bits(bus.read32(offset::VER));
        check(extended, setup)?;

        let mut reserved = Reserved::new(&mut pages);
        let mut take = |order| reserved.take(order).ok_or(Error::OutOfMemory);
        let queue = take(setup.queue_size)?;
        let status = take(0)?;
        let root = take(0)?;
        let interrupts = match setup.interrupts {
            None => None,
            Some(setup) => {
                let start = take(InterruptTable::order(setup))?;
                Some(InterruptTable::new(start, setup))
            }
        };
        reserved.keep();

        let mut unit = Self {
            link: Link::new(bus, memory, setup.budget),
            pages,
            version,
            capability,
            extended,
            host_address_width: setup.host_address_width,
            queue: Queue::new(queue, setup.queue_size, status),
            root,
            contexts: BTreeMap::new(),
            domains: BTreeMap::new(),
            owed: BTreeMap::new(),
            interrupts,
        };
        unit.quiesce()?;
        unit.queue.enable(&mut unit.link)?;
        unit.enable_interrupt_remapping()?;
        unit.set_root_table()?;
        if let Some(message) = setup.fault_event {
            unit.enable_fault_event(message);
        }
        Ok(unit)
    }

    /// Translates DMA from now on; requesters without a context entry are blocked.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn enable_translation(&mut self) -> Result<(), Error> {
        self.link.command(GlobalBits::TRANSLATION)
    }

    /// Lets DMA pass untranslated again.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn disable_translation(&mut self) -> Result<(), Error> {
        self.link.disable(GlobalBits::TRANSLATION)
    }

    /// Turns everything off, as before a reset or for the next driver: DMA passes untranslated
    /// and interrupts unremapped. The tables are forgotten.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn stop(mut self) -> Result<(), Error> {
        let enabled = self.enabled();
        [
            GlobalBits::TRANSLATION,
            GlobalBits::INTERRUPT_REMAPPING,
            GlobalBits::QUEUED_INVALIDATION,
        ]
        .into_iter()
        .filter(|enable| enabled.contains(*enable))
        .try_for_each(|enable| self.link.disable(enable))
    }

    /// The unit's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The unit's capabilities.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// The unit's extended capabilities.
    pub fn extended_capability(&self) -> ExtendedCapability {
        self.extended
    }

    /// What the driver has enabled.
    pub fn enabled(&self) -> GlobalBits {
        self.link.enabled()
    }

    /// Where the root table is.
    pub fn root_table(&self) -> PhysAddr {
        self.root
    }

    /// How the unit's registers are reached.
    pub fn bus(&self) -> &B {
        &self.link.bus
    }

    /// The unit's capability for not-present entries decides what is owed after an entry became
    /// present: an invalidation, a flush of the write buffer, or nothing (sections 6.1 and 6.8).
    pub(super) fn after_present(&mut self, descriptors: &[Descriptor]) -> Result<(), Error> {
        if self.capability.caching_mode() {
            self.submit(descriptors)
        } else if self.capability.write_buffer_flush() {
            self.link.flush_write_buffer()
        } else {
            Ok(())
        }
    }

    /// Has the unit carry out invalidations, each after the one before is complete.
    pub(super) fn submit(&mut self, descriptors: &[Descriptor]) -> Result<(), Error> {
        descriptors
            .iter()
            .try_for_each(|descriptor| self.queue.submit(&self.link, *descriptor))
    }

    /// Turns off what an earlier driver left on, and forgets its faults.
    fn quiesce(&mut self) -> Result<(), Error> {
        let found = GlobalBits::from_bits_truncate(self.link.bus.read32(offset::GSTS));
        self.link.found(found);
        self.take_faults();
        for enable in [GlobalBits::TRANSLATION, GlobalBits::INTERRUPT_REMAPPING] {
            if found.contains(enable) {
                self.link.disable(enable)?;
            }
        }
        if found.contains(GlobalBits::QUEUED_INVALIDATION) {
            let tail = QueuePointer::from_bits(self.link.bus.read64(offset::IQT));
            // The pointers are below 2^19.
            let until = Until {
                mask: u64::from(u32::MAX),
                expected: u64::from(tail.offset()),
            };
            self.link
                .bus
                .poll32(offset::IQH, until, self.link.budget)
                .map_err(|source| Error::Stuck {
                    wait: Wait::FoundQueue,
                    source,
                })?;
            self.link.disable(GlobalBits::QUEUED_INVALIDATION)?;
        }
        Ok(())
    }

    fn enable_interrupt_remapping(&mut self) -> Result<(), Error> {
        let Some(table) = &self.interrupts else {
            return Ok(());
        };
        let address = table.register().into_bits();
        self.link.bus.write64(offset::IRTA, address);
        self.link.command(GlobalBits::INTERRUPT_TABLE_POINTER)?;
        if !self.capability.enhanced_set_interrupt_table() {
            self.submit(&[Descriptor::all_interrupts()])?;
        }
        self.link.command(GlobalBits::INTERRUPT_REMAPPING)?;
        if self
            .link
            .enabled()
            .contains(GlobalBits::COMPATIBILITY_FORMAT)
        {
            self.link.disable(GlobalBits::COMPATIBILITY_FORMAT)?;
        }
        Ok(())
    }

    fn set_root_table(&mut self) -> Result<(), Error> {
        let address = RootTableAddress::new().with_address(self.root);
        self.link.bus.write64(offset::RTADDR, address.into_bits());
        self.link.command(GlobalBits::ROOT_TABLE_POINTER)?;
        if !self.capability.enhanced_set_root_table() {
            self.submit(&[Descriptor::all_contexts(), Descriptor::all_translations()])?;
        }
        Ok(())
    }

    fn enable_fault_event(&mut self, message: MsiMessage) {
        let bus = &self.link.bus;
        bus.write32(offset::FEDATA, message.data);
        bus.write32(offset::FEADDR, message.address as u32);
        bus.write32(offset::FEUADDR, (message.address >> 32) as u32);
        bus.write32(offset::FECTL, EventControl::new().into_bits());
        // The write has arrived once the register was read.
        bus.read32(offset::FECTL);
    }
}

/// Whether a unit with these capabilities can be set up so.
fn check(extended: ExtendedCapability, setup: &Setup) -> Result<(), Error> {
    let needs = [
        (extended.coherent(), Feature::Coherency),
        (extended.queued_invalidation(), Feature::QueuedInvalidation),
        (
            setup.interrupts.is_none() || extended.interrupt_remapping(),
            Feature::InterruptRemapping,
        ),
        (
            extended.extended_interrupt_mode()
                || !setup.interrupts.is_some_and(|setup| setup.extended),
            Feature::ExtendedInterruptMode,
        ),
    ];
    if let Some((_, missing)) = needs.into_iter().find(|(has, _)| !has) {
        return Err(Error::Unsupported(missing));
    }
    let sizes = [
        (setup.queue_size, Queue::MAX_SIZE),
        (
            setup.interrupts.map_or(0, |setup| setup.size),
            InterruptSetup::MAX_SIZE,
        ),
    ];
    match sizes.into_iter().find(|(given, most)| given > most) {
        Some((given, most)) => Err(Error::Size { given, most }),
        None => Ok(()),
    }
}
