//! The driver on an emulated unit, with a device behind it: the whole way from a driver's call to
//! a device's byte.

mod common;

use std::sync::Arc;

use common::{DEVICE, RW, Registers, TABLES, UnitBus};

use vm_iommu_amdvi::{AmdVi, AmdViConfig};
use vm_iommu_dma::{GuestRam, InterruptRemapper};
use vm_iommu_driver::amdvi::{InterruptSetup, Setup, Unit};
use vm_iommu_driver::{PagePool, SpinBudget};
use vm_iommu_pagetable::Levels;
use vm_iommu_spec::amd::EventCode;
use vm_iommu_spec::{Access, DeliveryMode, DomainId, Interrupt, Iova, PhysAddr, RequesterId};

impl Registers for AmdVi {
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

type Driver = Unit<UnitBus<AmdVi>, GuestRam, PagePool<GuestRam>>;
type Bed = common::Bed<AmdVi, Driver>;

/// What a domain's tables are.
#[derive(Clone, Copy, Debug)]
enum Tables {
    Host(u8),
    Guest(Levels),
}

impl Bed {
    fn new(config: AmdViConfig) -> Self {
        Self::with(
            |ram, epochs| AmdVi::new(config, ram, epochs, Arc::new(())).unwrap(),
            start,
        )
    }

    /// A domain in which `iova` is `memory`, given to the device.
    fn domain(&mut self, tables: Tables, iova: Iova, memory: PhysAddr, length: u64) -> DomainId {
        let domain = match tables {
            Tables::Host(levels) => self.driver.create_domain(levels),
            Tables::Guest(levels) => self.driver.create_guest_domain(levels),
        }
        .unwrap();
        self.driver.map(domain, iova, memory, length, RW).unwrap();
        self.driver.attach(DEVICE, domain).unwrap();
        domain
    }

    /// The one event that was logged since the last look, a page fault: the requester, the
    /// address, and PR.
    fn take_fault(&mut self) -> (u16, u64, bool) {
        let events = self.driver.take_events().unwrap();
        assert!(!events.overflow);
        let [entry] = events.entries[..] else {
            panic!("not one event: {:x?}", events.entries);
        };
        assert_eq!(entry.event_code(), Some(EventCode::IoPageFault));
        (entry.device(), entry.address(), entry.present())
    }

    fn is_quiet(&mut self) -> bool {
        self.driver.take_events() == Ok(Default::default())
    }
}

fn start(unit: &Arc<AmdVi>, ram: &GuestRam) -> Driver {
    let config = unit.config();
    let setup = Setup {
        last_device: 0x1ff,
        np_cache: config.np_cache,
        physical_address_width: config.physical_address_width,
        interrupts: Some(InterruptSetup {
            length: if config.interrupt_table_2048 { 11 } else { 9 },
            x2apic: config.x2apic,
        }),
        ..Setup::new(SpinBudget(1_000_000))
    };
    let pages = PagePool::new(ram.clone(), TABLES);
    Unit::start(UnitBus(Arc::clone(unit)), ram.clone(), pages, &setup).unwrap()
}

/// Units that a driver has to treat differently.
fn configurations() -> [AmdViConfig; 4] {
    let base = AmdViConfig::default();
    [
        base,
        AmdViConfig {
            np_cache: true,
            ..base
        },
        AmdViConfig {
            invalidate_all: false,
            interrupt_table_2048: false,
            device_table_segments: 0,
            ..base
        },
        AmdViConfig {
            guest_apic: false,
            x2apic: false,
            interrupt_table_2048: false,
            host_levels: Some(4),
            guest_levels: 4,
            ..base
        },
    ]
}

/// The tables that all of these units have.
const TABLES_OF_ALL: [Tables; 3] = [
    Tables::Host(3),
    Tables::Host(4),
    Tables::Guest(Levels::Four),
];

#[test]
fn a_device_reaches_what_is_mapped_and_only_while_it_is() {
    for config in configurations() {
        for tables in TABLES_OF_ALL {
            let mut bed = Bed::new(config);
            // Beyond three levels, so that host tables of three grow.
            let iova = Iova(0x1234_5678_9000);
            let domain = bed.domain(tables, iova, PhysAddr(0x20_0000), 0x3000);
            bed.store(0x20_1010, 0xfeed);
            assert_eq!(bed.read(Iova(iova.0 + 0x1010)), Ok(0xfeed), "{tables:?}");
            bed.write(Iova(iova.0 + 0x2000), 0xbeef).unwrap();
            assert_eq!(bed.load(0x20_2000), 0xbeef);

            let unmapped = bed.driver.unmap(domain, Iova(iova.0 + 0x1000), 0x1000);
            assert_eq!(unmapped, Ok(0x1000));
            assert!(bed.read(Iova(iova.0 + 0x1010)).is_err());
            assert_eq!(bed.take_fault(), (0x118, iova.0 + 0x1010, false));
            assert_eq!(bed.read(Iova(iova.0 + 0x2000)), Ok(0xbeef));
            assert!(bed.is_quiet());

            // What is mapped anew is seen at once, although its absence was just looked at.
            let again = (Iova(iova.0 + 0x1000), PhysAddr(0x30_0000));
            bed.driver
                .map(domain, again.0, again.1, 0x1000, RW)
                .unwrap();
            bed.store(0x30_0000, 7);
            assert_eq!(bed.read(again.0), Ok(7));
        }
    }
}

#[test]
fn tables_that_grow_are_seen_by_their_device() {
    for config in configurations() {
        let mut bed = Bed::new(config);
        let domain = bed.domain(Tables::Host(1), Iova(0x5000), PhysAddr(0x20_0000), 0x1000);
        bed.store(0x20_0000, 5);
        bed.store(0x30_0000, 6);
        assert_eq!(bed.read(Iova(0x5000)), Ok(5));
        for bits in [25, 33, 42] {
            let iova = Iova(1 << bits);
            bed.driver
                .map(domain, iova, PhysAddr(0x30_0000), 0x1000, RW)
                .unwrap();
            assert_eq!(bed.read(iova), Ok(6), "{bits}");
            assert_eq!(bed.read(Iova(0x5000)), Ok(5), "{bits}");
        }
        assert!(bed.is_quiet());
    }
}

#[test]
fn large_pages_are_split_by_unmapping_a_part() {
    for tables in TABLES_OF_ALL {
        let mut bed = Bed::new(AmdViConfig::default());
        let domain = bed.domain(tables, Iova(0x4000_0000), PhysAddr(0x20_0000), 0x20_0000);
        bed.store(0x20_5000, 5);
        assert_eq!(bed.read(Iova(0x4000_5000)), Ok(5));
        bed.driver.unmap(domain, Iova(0x4000_4000), 0x1000).unwrap();
        assert!(bed.read(Iova(0x4000_4000)).is_err());
        assert_eq!(bed.read(Iova(0x4000_5000)), Ok(5));
    }
}

#[test]
fn permissions_hold_as_soon_as_they_are_changed() {
    for config in configurations() {
        for tables in TABLES_OF_ALL {
            let mut bed = Bed::new(config);
            let domain = bed.domain(tables, Iova(0x5000), PhysAddr(0x20_0000), 0x1000);
            bed.write(Iova(0x5000), 1).unwrap();
            bed.driver
                .protect(domain, Iova(0x5000), 0x1000, Access::READ)
                .unwrap();
            assert_eq!(bed.read(Iova(0x5000)), Ok(1));
            assert!(bed.write(Iova(0x5000), 2).is_err());
            assert_eq!(bed.take_fault(), (0x118, 0x5000, true), "{tables:?}");
        }
    }
}

#[test]
fn a_device_without_a_domain_is_blocked() {
    for config in configurations() {
        let mut bed = Bed::new(config);
        assert!(bed.read(Iova(0x1000)).is_err());
        assert_eq!(bed.take_fault().0, 0x118);
        bed.domain(Tables::Host(4), Iova(0x1000), PhysAddr(0x20_0000), 0x1000);
        bed.store(0x20_0000, 3);
        assert_eq!(bed.read(Iova(0x1000)), Ok(3));
        bed.driver.detach(DEVICE).unwrap();
        assert!(bed.read(Iova(0x1000)).is_err());
        assert_eq!(bed.take_fault().0, 0x118);
    }
}

#[test]
fn a_device_that_changes_domains_sees_nothing_of_the_earlier_one() {
    for config in configurations() {
        let mut bed = Bed::new(config);
        let iova = Iova(0x1000);
        let first = bed.domain(Tables::Host(4), iova, PhysAddr(0x20_0000), 0x1000);
        bed.store(0x20_0000, 1);
        bed.store(0x30_0000, 2);
        assert_eq!(bed.read(iova), Ok(1));
        let guest = Tables::Guest(Levels::Four);
        bed.domain(guest, iova, PhysAddr(0x30_0000), 0x1000);
        assert_eq!(bed.read(iova), Ok(2));
        bed.driver.destroy_domain(first).unwrap();
        // Its tables are used again for the next.
        let reused = bed.domain(Tables::Host(3), iova, PhysAddr(0x20_0000), 0x1000);
        assert_eq!(reused, first);
        assert_eq!(bed.read(iova), Ok(1));
        assert!(bed.is_quiet());
    }
}

#[test]
fn a_device_that_passes_through_uses_physical_addresses() {
    let mut bed = Bed::new(AmdViConfig::default());
    let domain = bed.driver.create_pass_through_domain().unwrap();
    bed.driver.attach(DEVICE, domain).unwrap();
    bed.store(0x20_0000, 9);
    assert_eq!(bed.read(Iova(0x20_0000)), Ok(9));
}

#[test]
fn an_interrupt_is_remapped_while_its_entry_is_there() {
    for config in configurations() {
        let mut bed = Bed::new(config);
        let target = |vector| Interrupt {
            destination: if config.x2apic { 0x1_0003 } else { 3 },
            delivery_mode: DeliveryMode::Fixed,
            vector,
            ..Interrupt::default()
        };
        // The last of a table that is filled.
        let entries = if config.interrupt_table_2048 {
            2048
        } else {
            512
        };
        let all: Vec<_> = (0..entries)
            .map(|_| bed.driver.allocate_interrupt(DEVICE).unwrap())
            .collect();
        for index in [all[0], all[1], *all.last().unwrap()] {
            let message = index.message();
            assert!(bed.unit.remap(DEVICE, message).is_err());
            assert_eq!(bed.take_fault().0, 0x118);
            for vector in [0x41, 0x42] {
                bed.driver.set_interrupt(index, target(vector)).unwrap();
                let remapped = bed.unit.remap(DEVICE, message);
                assert_eq!(remapped, Ok(target(vector)), "{index}");
            }
            // Every requester has a table of its own, if any.
            let stranger = RequesterId::from_source_id(0, 0x0119);
            assert!(bed.unit.remap(stranger, message).is_err());
            assert_eq!(bed.take_fault().0, 0x119);
            bed.driver.free_interrupt(index).unwrap();
            assert!(bed.unit.remap(DEVICE, message).is_err());
            assert_eq!(bed.take_fault().0, 0x118);
        }
    }
}

#[test]
fn more_events_than_the_log_holds_are_an_overflow() {
    let mut bed = Bed::new(AmdViConfig::default());
    for page in 0..600 {
        assert!(bed.read(Iova(page << 12)).is_err());
    }
    let events = bed.driver.take_events().unwrap();
    assert!(events.overflow);
    // One entry stays free, or a full log would be an empty one.
    assert_eq!(events.entries.len(), 511);
    let pages = events.entries.iter().map(|entry| entry.address() >> 12);
    assert!(pages.eq(0..511));
    assert!(bed.is_quiet());
    assert!(bed.read(Iova(0x9000)).is_err());
    assert_eq!(bed.take_fault().1, 0x9000);
}

#[test]
fn a_second_driver_takes_over_a_running_unit() {
    let mut bed = Bed::new(AmdViConfig::default());
    let iova = Iova(0x1000);
    bed.domain(Tables::Host(4), iova, PhysAddr(0x20_0000), 0x1000);
    assert!(bed.read(iova).is_ok());
    bed.lose_tables();
    bed.driver = start(&bed.unit, &bed.ram);
    assert!(bed.read(iova).is_err());
    assert_eq!(bed.take_fault().0, 0x118);
    bed.domain(Tables::Host(4), iova, PhysAddr(0x30_0000), 0x1000);
    bed.store(0x30_0000, 4);
    assert_eq!(bed.read(iova), Ok(4));
}
