//! The driver on an emulated unit, with a device behind it: the whole way from a driver's call to
//! a device's byte.

mod common;

use std::sync::Arc;

use common::{DEVICE, RW, Registers, TABLES, UnitBus};

use vm_iommu_dma::{GuestRam, InterruptRemapper};
use vm_iommu_driver::vtd::{InterruptSetup, InterruptSource, Setup, Unit};
use vm_iommu_driver::{PagePool, SpinBudget};
use vm_iommu_pagetable::Levels;
use vm_iommu_spec::vtd::FaultReason;
use vm_iommu_spec::{Access, DeliveryMode, DomainId, Interrupt, Iova, PhysAddr, RequesterId};
use vm_iommu_vtd::{Vtd, VtdConfig};

const SETUP: Setup = Setup {
    interrupts: Some(InterruptSetup {
        size: 7,
        extended: true,
    }),
    ..Setup::new(SpinBudget(1_000_000))
};

impl Registers for Vtd {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.mmio_read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.mmio_write(offset, data);
    }

    fn turn(&self) {
        let _ = self.step();
    }
}

type Driver = Unit<UnitBus<Vtd>, GuestRam, PagePool<GuestRam>>;
type Bed = common::Bed<Vtd, Driver>;

impl Bed {
    fn new(config: VtdConfig) -> Self {
        Self::with(
            |ram, epochs| Vtd::new(config, ram, epochs, Arc::new(())).unwrap(),
            start,
        )
    }

    fn translating(config: VtdConfig) -> Self {
        let mut bed = Self::new(config);
        bed.driver.enable_translation().unwrap();
        bed
    }

    /// A domain in which `iova` is `memory`, given to the device.
    fn domain(&mut self, iova: Iova, memory: PhysAddr, length: u64) -> DomainId {
        let domain = self.driver.create_domain(Levels::Four).unwrap();
        self.driver.map(domain, iova, memory, length, RW).unwrap();
        self.driver.attach(DEVICE, domain).unwrap();
        domain
    }

    /// The one fault that was recorded since the last look.
    fn take_fault(&mut self) -> (FaultReason, u16, u64) {
        let log = self.driver.take_faults();
        assert!(!log.overflow);
        let [record] = log.records[..] else {
            panic!("not one record: {:x?}", log.records);
        };
        (
            record.fault_reason().unwrap(),
            record.source(),
            record.page(),
        )
    }
}

fn start(unit: &Arc<Vtd>, ram: &GuestRam) -> Driver {
    let pages = PagePool::new(ram.clone(), TABLES);
    Unit::start(UnitBus(Arc::clone(unit)), ram.clone(), pages, &SETUP).unwrap()
}

/// Units that a driver has to treat differently.
fn configurations() -> [VtdConfig; 5] {
    let base = VtdConfig::default();
    [
        base,
        VtdConfig {
            caching_mode: true,
            ..base
        },
        VtdConfig {
            write_buffer_flush: true,
            ..base
        },
        VtdConfig {
            maximum_address_mask: None,
            ..base
        },
        VtdConfig {
            enhanced_set_root_table: true,
            enhanced_set_interrupt_table: true,
            two_mib_pages: false,
            one_gib_pages: false,
            ..base
        },
    ]
}

#[test]
fn a_device_reaches_what_is_mapped_and_only_while_it_is() {
    for config in configurations() {
        let mut bed = Bed::translating(config);
        let iova = Iova(0x1234_5678_9000);
        let domain = bed.domain(iova, PhysAddr(0x20_0000), 0x3000);
        bed.store(0x20_1010, 0xfeed);
        assert_eq!(bed.read(Iova(iova.0 + 0x1010)), Ok(0xfeed));
        bed.write(Iova(iova.0 + 0x2000), 0xbeef).unwrap();
        assert_eq!(bed.load(0x20_2000), 0xbeef);

        let unmapped = bed.driver.unmap(domain, Iova(iova.0 + 0x1000), 0x1000);
        assert_eq!(unmapped, Ok(0x1000));
        assert!(bed.read(Iova(iova.0 + 0x1010)).is_err());
        let fault = (FaultReason::ReadDenied, 0x118, iova.0 + 0x1000);
        assert_eq!(bed.take_fault(), fault);
        assert_eq!(bed.read(Iova(iova.0 + 0x2000)), Ok(0xbeef));
        assert_eq!(bed.driver.take_faults().records, []);

        // What is mapped anew is seen at once, although its absence was just looked at.
        let again = (Iova(iova.0 + 0x1000), PhysAddr(0x30_0000));
        bed.driver
            .map(domain, again.0, again.1, 0x1000, RW)
            .unwrap();
        bed.store(0x30_0000, 7);
        assert_eq!(bed.read(again.0), Ok(7));
    }
}

#[test]
fn large_pages_are_split_by_unmapping_a_part() {
    let mut bed = Bed::translating(VtdConfig::default());
    let domain = bed.domain(Iova(0x4000_0000), PhysAddr(0x20_0000), 0x20_0000);
    bed.store(0x20_5000, 5);
    assert_eq!(bed.read(Iova(0x4000_5000)), Ok(5));
    bed.driver.unmap(domain, Iova(0x4000_4000), 0x1000).unwrap();
    assert!(bed.read(Iova(0x4000_4000)).is_err());
    assert_eq!(bed.read(Iova(0x4000_5000)), Ok(5));
}

#[test]
fn permissions_hold_as_soon_as_they_are_changed() {
    for config in configurations() {
        let mut bed = Bed::translating(config);
        let domain = bed.domain(Iova(0x5000), PhysAddr(0x20_0000), 0x1000);
        bed.write(Iova(0x5000), 1).unwrap();
        bed.driver
            .protect(domain, Iova(0x5000), 0x1000, Access::READ)
            .unwrap();
        assert_eq!(bed.read(Iova(0x5000)), Ok(1));
        assert!(bed.write(Iova(0x5000), 2).is_err());
        assert_eq!(bed.take_fault(), (FaultReason::WriteDenied, 0x118, 0x5000));
    }
}

#[test]
fn a_device_without_a_domain_is_blocked() {
    for config in configurations() {
        let mut bed = Bed::translating(config);
        assert!(bed.read(Iova(0x1000)).is_err());
        let fault = (FaultReason::RootEntryNotPresent, 0x118, 0x1000);
        assert_eq!(bed.take_fault(), fault);
        bed.domain(Iova(0x1000), PhysAddr(0x20_0000), 0x1000);
        bed.store(0x20_0000, 3);
        assert_eq!(bed.read(Iova(0x1000)), Ok(3));
        bed.driver.detach(DEVICE).unwrap();
        assert!(bed.read(Iova(0x1000)).is_err());
        let fault = (FaultReason::ContextEntryNotPresent, 0x118, 0x1000);
        assert_eq!(bed.take_fault(), fault);
    }
}

#[test]
fn a_device_that_changes_domains_sees_nothing_of_the_earlier_one() {
    for config in configurations() {
        let mut bed = Bed::translating(config);
        let first = bed.domain(Iova(0x1000), PhysAddr(0x20_0000), 0x1000);
        bed.store(0x20_0000, 1);
        bed.store(0x30_0000, 2);
        assert_eq!(bed.read(Iova(0x1000)), Ok(1));
        bed.domain(Iova(0x1000), PhysAddr(0x30_0000), 0x1000);
        assert_eq!(bed.read(Iova(0x1000)), Ok(2));
        bed.driver.destroy_domain(first).unwrap();
        // Its tables are used again for the next.
        let reused = bed.domain(Iova(0x1000), PhysAddr(0x20_0000), 0x1000);
        assert_eq!(reused, first);
        assert_eq!(bed.read(Iova(0x1000)), Ok(1));
    }
}

#[test]
fn a_device_that_passes_through_uses_physical_addresses() {
    let mut bed = Bed::translating(VtdConfig::default());
    let domain = bed.driver.create_pass_through_domain().unwrap();
    bed.driver.attach(DEVICE, domain).unwrap();
    bed.store(0x20_0000, 9);
    assert_eq!(bed.read(Iova(0x20_0000)), Ok(9));
}

#[test]
fn an_interrupt_is_remapped_while_its_entry_is_there() {
    for config in configurations() {
        let mut bed = Bed::new(config);
        let index = bed.driver.allocate_interrupt().unwrap();
        let target = |vector| Interrupt {
            destination: 0x1_0003,
            delivery_mode: DeliveryMode::Fixed,
            vector,
            ..Interrupt::default()
        };
        let source = InterruptSource::Requester(DEVICE);
        let message = index.message();
        assert!(bed.unit.remap(DEVICE, message).is_err());
        assert_eq!(bed.take_fault().0, FaultReason::IrEntryNotPresent);

        for vector in [0x41, 0x42] {
            bed.driver
                .set_interrupt(index, target(vector), source)
                .unwrap();
            let remapped = bed.unit.remap(DEVICE, message);
            assert_eq!(remapped, Ok(target(vector)));
        }

        let stranger = RequesterId::from_source_id(0, 0x0119);
        assert!(bed.unit.remap(stranger, message).is_err());
        let log = bed.driver.take_faults();
        assert_eq!(log.records.len(), 1);
        assert_eq!(log.records[0].source(), 0x0119);
        assert_eq!(log.records[0].interrupt_index(), index.0);
        let reason = log.records[0].fault_reason();
        assert_eq!(reason, Some(FaultReason::IrSourceInvalid));

        bed.driver.free_interrupt(index).unwrap();
        assert!(bed.unit.remap(DEVICE, message).is_err());
        assert_eq!(bed.take_fault().0, FaultReason::IrEntryNotPresent);
    }
}

#[test]
fn more_faults_than_registers_are_an_overflow() {
    let config = VtdConfig {
        fault_records: 4,
        ..VtdConfig::default()
    };
    let mut bed = Bed::translating(config);
    for page in 0..6 {
        assert!(bed.read(Iova(page << 12)).is_err());
    }
    let log = bed.driver.take_faults();
    assert!(log.overflow);
    let pages: Vec<u64> = log.records.iter().map(|record| record.page()).collect();
    assert_eq!(pages, [0, 0x1000, 0x2000, 0x3000]);
    assert_eq!(bed.driver.take_faults(), Default::default());
    assert!(bed.read(Iova(0x9000)).is_err());
    assert_eq!(bed.take_fault().2, 0x9000);
}

#[test]
fn a_second_driver_takes_over_a_running_unit() {
    let mut bed = Bed::translating(VtdConfig::default());
    bed.domain(Iova(0x1000), PhysAddr(0x20_0000), 0x1000);
    assert!(bed.read(Iova(0x1000)).is_ok());
    bed.lose_tables();
    bed.driver = start(&bed.unit, &bed.ram);
    bed.driver.enable_translation().unwrap();
    assert!(bed.read(Iova(0x1000)).is_err());
    assert_eq!(bed.take_fault().0, FaultReason::RootEntryNotPresent);
    bed.domain(Iova(0x1000), PhysAddr(0x30_0000), 0x1000);
    bed.store(0x30_0000, 4);
    assert_eq!(bed.read(Iova(0x1000)), Ok(4));
}
