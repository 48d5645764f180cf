//! Bringing a unit up and down.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use vm_iommu_pagetable::{Invalidation, TableMemory};
use vm_iommu_spec::amd::DeviceTableEntry;
use vm_iommu_spec::amd::registers::{
    Control, DeviceTableBase, ExtendedFeature, ExtendedFeature2, Status, XtInterruptControl, offset,
};
use vm_iommu_spec::{DestinationMode, DomainId, Interrupt, PhysAddr, RequesterId};

use super::command::{Command, CommandBuffer};
use super::device::{BLOCKED, NO_INTERRUPTS};
use super::domain::Domain;
use super::event::EventLog;
use super::interrupt::{InterruptSetup, InterruptTable};
use super::link::Link;
use super::{Error, Feature, Wait};
use crate::pages::{Reserved, order_of};
use crate::{Pages, RegisterBus, SpinBudget};

/// InvTimeOut: devices have a second to drop their translations.
const ONE_SECOND: u8 = 4;

/// How a unit is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How long to wait for each thing that the unit is told to do.
    pub budget: SpinBudget,
    /// The highest source id of a device that the unit serves, from its ACPI table: the device
    /// table has entries up to it, rounded up to whole pages.
    pub last_device: u16,
    /// The command buffer has `1 << command_length` entries of 16 bytes; 8 to 15.
    pub command_length: u8,
    /// The event log has `1 << event_length` entries of 16 bytes; 8 to 15.
    pub event_length: u8,
    /// How interrupts are to be remapped, if they are; otherwise they pass.
    pub interrupts: Option<InterruptSetup>,
    /// NpCache of the capability block: the unit may cache entries that are not present.
    pub np_cache: bool,
    /// IotlbSup of the capability block: the unit serves devices that keep translations.
    pub iotlb_support: bool,
    /// Width in bits of the physical addresses that the unit reaches, from its ACPI table; wider
    /// ones cannot be mapped.
    pub physical_address_width: u8,
    /// What the unit raises when it has logged an event, by the XT interrupt control register;
    /// with `None` events raise no interrupt.
    pub event_interrupt: Option<Interrupt>,
}

impl Setup {
    /// Devices of bus 0; 512 commands and events, as kernels have; no interrupt remapping, 52-bit
    /// physical addresses, no interrupt for events.
    pub const fn new(budget: SpinBudget) -> Self {
        Self {
            budget,
            last_device: 0xff,
            command_length: 9,
            event_length: 9,
            interrupts: None,
            np_cache: false,
            iotlb_support: false,
            physical_address_width: 52,
            event_interrupt: None,
        }
    }
}

/// An AMD-Vi unit and the tables that it was given.
///
/// `bus` leads to its registers, `memory` is where it reads its tables, `pages` is what they are
/// made of. A unit serves the requesters of one PCI segment; the segment of a [`RequesterId`] is
/// not looked at.
///
/// Errors leave everything as it was, as far as the unit still answers. What it was to forget of a
/// domain and did not confirm, it is told again with the next change of the domain; tables that
/// it may still use are kept until then.
#[derive(Debug)]
pub struct Unit<B, M, P> {
    pub(super) link: Link<B, M>,
    pub(super) pages: P,
    pub(super) feature: ExtendedFeature,
    pub(super) feature2: ExtendedFeature2,
    pub(super) physical_address_width: u8,
    pub(super) np_cache: bool,
    pub(super) iotlb_support: bool,
    pub(super) commands: CommandBuffer,
    pub(super) events: EventLog,
    pub(super) device_table: PhysAddr,
    /// How many entries the device table has.
    pub(super) devices: u32,
    /// The domain of each requester that has one, by source id.
    pub(super) attached: BTreeMap<u16, DomainId>,
    pub(super) domains: BTreeMap<DomainId, Domain>,
    /// What the unit was to forget of a domain, but did not confirm.
    pub(super) owed: BTreeMap<DomainId, Invalidation>,
    pub(super) interrupts: Option<InterruptSetup>,
    /// By source id.
    pub(super) interrupt_tables: BTreeMap<u16, InterruptTable>,
}

impl<B: RegisterBus, M: TableMemory, P: Pages> Unit<B, M, P> {
    /// Finds out what the unit can do, turns off what it was found with, gives it its device
    /// table, command buffer and event log, and turns it on, in the order that kernels do. Every
    /// device is blocked from then on; its interrupts are too, if `setup` has them remapped.
    ///
    /// # Errors
    /// [`Error`]; what concerns the unit's abilities and the memory for tables is found before
    /// the first store.
    pub fn start(bus: B, memory: M, mut pages: P, setup: &Setup) -> Result<Self, Error> {
        let feature = ExtendedFeature::from_bits(bus.read64(offset::EXTENDED_FEATURE));
        if feature.into_bits() == u64::MAX {
            return Err(Error::Absent);
        }
        let feature2 = ExtendedFeature2::from_bits(bus.read64(offset::EXTENDED_FEATURE_2));
        check(feature, feature2, setup)?;
        let control = Control::from_bits(bus.read64(offset::CONTROL));

        let table_order = order_of((u64::from(setup.last_device) + 1) * DeviceTableEntry::SIZE);
        let mut reserved = Reserved::new(&mut pages);
        let mut take = |order| reserved.take(order).ok_or(Error::OutOfMemory);
        let device_table = take(table_order)?;
        let commands = take(setup.command_length - 8)?;
        let events = take(setup.event_length - 8)?;
        let semaphore = take(0)?;
        reserved.keep();

        let mut unit = Self {
            link: Link::new(bus, memory, setup.budget, control),
            pages,
            feature,
            feature2,
            physical_address_width: setup.physical_address_width,
            np_cache: setup.np_cache,
            iotlb_support: setup.iotlb_support,
            commands: CommandBuffer::new(commands, setup.command_length, semaphore),
            events: EventLog::new(events, setup.event_length),
            device_table,
            devices: 128 << table_order,
            attached: BTreeMap::new(),
            domains: BTreeMap::new(),
            owed: BTreeMap::new(),
            interrupts: setup.interrupts,
            interrupt_tables: BTreeMap::new(),
        };
        unit.quiesce()?;
        unit.block_all()?;
        let base = DeviceTableBase::new()
            .with_address(device_table)
            .with_size((1 << table_order) - 1);
        unit.link
            .bus
            .write64(offset::DEVICE_TABLE, base.into_bits());
        unit.commands.enable(&mut unit.link);
        unit.enable_features(setup);
        unit.link.set_control(|control| control.with_enable(true));
        unit.forget_all()?;
        unit.events.enable(&mut unit.link);
        if let Some(interrupt) = setup.event_interrupt {
            unit.enable_event_interrupt(interrupt);
        }
        Ok(unit)
    }

    /// Turns everything off, as before a reset or for the next driver: DMA passes untranslated
    /// and interrupts unremapped. The tables are forgotten.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn stop(mut self) -> Result<(), Error> {
        self.quiesce()
    }

    /// The unit's features.
    pub fn feature(&self) -> ExtendedFeature {
        self.feature
    }

    /// More of the unit's features.
    pub fn feature2(&self) -> ExtendedFeature2 {
        self.feature2
    }

    /// What the control register was last told.
    pub fn control(&self) -> Control {
        self.link.control()
    }

    /// Where the device table is.
    pub fn device_table(&self) -> PhysAddr {
        self.device_table
    }

    /// Where the event log is.
    pub fn event_log(&self) -> PhysAddr {
        self.events.base()
    }

    /// How the unit's registers are reached.
    pub fn bus(&self) -> &B {
        &self.link.bus
    }

    /// Has the unit carry out commands.
    pub(super) fn submit(&mut self, commands: &[Command]) -> Result<(), Error> {
        self.commands.submit(&mut self.link, commands)
    }

    /// Turns off what is on, one after the other, the unit itself last.
    fn quiesce(&mut self) -> Result<(), Error> {
        let link = &mut self.link;
        link.set_control(|control| control.with_command_buffer(false));
        link.set_control(|control| control.with_event_interrupt(false));
        link.set_control(|control| control.with_event_log(false));
        link.set_control(|control| control.with_ga_log(false).with_ga_interrupt(false));
        link.set_control(|control| control.with_ppr_log(false).with_ppr_interrupt(false));
        link.wait_stopped(Status::COMMAND_RUN | Status::EVENT_RUN, Wait::Stopped)?;
        link.set_control(|control| control.with_enable(false));
        // Clean of what an earlier driver chose.
        link.set_control(|_| Control::new());
        Ok(())
    }

    /// Blocks every device that the table has an entry for.
    fn block_all(&mut self) -> Result<(), Error> {
        let entry = DeviceTableEntry {
            dma: BLOCKED,
            interrupt: match self.interrupts {
                Some(_) => NO_INTERRUPTS,
                None => Default::default(),
            },
            ..DeviceTableEntry::default()
        };
        let words = entry.words();
        for device in 0..u64::from(self.devices) {
            for (number, word) in (0..).zip(words).filter(|(_, word)| *word != 0) {
                let offset = device * DeviceTableEntry::SIZE + number * 8;
                self.link
                    .memory
                    .store(PhysAddr(self.device_table.0 + offset), word)?;
            }
        }
        Ok(())
    }

    fn enable_features(&mut self, setup: &Setup) {
        let (feature, link) = (self.feature, &mut self.link);
        link.set_control(|control| {
            control
                .with_coherent(true)
                .with_invalidation_timeout(ONE_SECOND)
        });
        if feature.guest_translation() {
            link.set_control(|control| control.with_guest_translation(true));
        }
        let Some(interrupts) = setup.interrupts else {
            return;
        };
        if feature.guest_apic() {
            link.set_control(|control| control.with_guest_apic(true));
        }
        if interrupts.x2apic {
            link.set_control(|control| control.with_x2apic(true));
        }
        if interrupts.length > InterruptSetup::COMMON_LENGTH {
            link.set_control(|control| control.with_interrupt_table_mode(1));
        }
    }

    /// Has the unit forget all that it may have cached.
    fn forget_all(&mut self) -> Result<(), Error> {
        if self.feature.invalidate_all() {
            return self.submit(&[Command::all()]);
        }
        let devices = (0..=u16::MAX).take(self.devices as usize);
        let commands: Vec<Command> = devices
            .map(|source| RequesterId::from_source_id(0, source))
            .flat_map(|requester| [Command::device(requester), Command::interrupts(requester)])
            .collect();
        self.submit(&commands)?;
        let domains: Vec<Command> = (0..=u16::MAX)
            .map(|domain| Command::domain(DomainId(domain)))
            .collect();
        self.submit(&domains)
    }

    fn enable_event_interrupt(&mut self, interrupt: Interrupt) {
        let target = XtInterruptControl::new()
            .with_logical(interrupt.destination_mode == DestinationMode::Logical)
            .with_destination(interrupt.destination)
            .with_vector(interrupt.vector);
        let link = &mut self.link;
        link.bus
            .write64(offset::XT_GENERAL_INTERRUPT, target.into_bits());
        link.set_control(|control| control.with_x2apic_interrupts(true));
        link.set_control(|control| control.with_event_interrupt(true));
    }
}

/// Whether a unit with these features can be set up so.
fn check(feature: ExtendedFeature, feature2: ExtendedFeature2, setup: &Setup) -> Result<(), Error> {
    for given in [setup.command_length, setup.event_length] {
        let (least, most) = (8, 15);
        if !(least..=most).contains(&given) {
            return Err(Error::Size { given, least, most });
        }
    }
    let xt = feature.x2apic() && feature.guest_apic();
    let wants_xt = setup.event_interrupt.is_some() || setup.interrupts.is_some_and(|i| i.x2apic);
    if wants_xt && !xt {
        return Err(Error::Unsupported(Feature::X2Apic));
    }
    if let Some(interrupts) = setup.interrupts {
        let (given, least, most) = (interrupts.length, 0, InterruptSetup::MAX_LENGTH);
        if given > most {
            return Err(Error::Size { given, least, most });
        }
        if given > InterruptSetup::COMMON_LENGTH && feature2.interrupt_table() == 0 {
            let missing = Feature::InterruptEntries(interrupts.entries());
            return Err(Error::Unsupported(missing));
        }
    }
    Ok(())
}
