//! The driver on an emulated unit, with a device behind it: the whole way from a driver's call to
//! a device's byte.

use std::sync::Arc;

use vm_iommu_amdvi::{AmdVi, AmdViConfig};
use vm_iommu_dma::{
    DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, InterruptRemapper, Upstream,
};
use vm_iommu_driver::amdvi::{InterruptSetup, Setup, Unit};
use vm_iommu_driver::{PagePool, RegisterBus, SpinBudget};
use vm_iommu_pagetable::{Levels, TableMemory};
use vm_iommu_spec::amd::EventCode;
use vm_iommu_spec::{
    Access, DeliveryMode, DomainId, Fault, Interrupt, Iova, PhysAddr, RequesterId,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const RW: Access = Access::READ.union(Access::WRITE);
const DEVICE: RequesterId = RequesterId::from_source_id(0, 0x0118);
const MEMORY: usize = 16 << 20;
const TABLES: std::ops::Range<PhysAddr> = PhysAddr(8 << 20)..PhysAddr(16 << 20);

/// The registers of a unit in this process, which gets its turns while the driver waits.
#[derive(Debug)]
struct UnitBus(Arc<AmdVi>);

impl RegisterBus for UnitBus {
    fn read32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.0.mmio_read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn read64(&self, offset: u16) -> u64 {
        let mut data = [0; 8];
        self.0.mmio_read(offset.into(), &mut data);
        u64::from_le_bytes(data)
    }

    fn write32(&self, offset: u16, value: u32) {
        self.0.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn write64(&self, offset: u16, value: u64) {
        self.0.mmio_write(offset.into(), &value.to_le_bytes());
    }

    fn relax(&self) {
        let _ = self.0.step();
    }
}

type Driver = Unit<UnitBus, GuestRam, PagePool<GuestRam>>;

struct Bed {
    ram: GuestRam,
    unit: Arc<AmdVi>,
    driver: Driver,
    device: DmaHandle,
}

/// What a domain's tables are.
#[derive(Clone, Copy, Debug)]
enum Tables {
    Host(u8),
    Guest(Levels),
}

impl Bed {
    fn new(config: AmdViConfig) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let unit = AmdVi::new(config, ram.clone(), Arc::clone(&epochs), Arc::new(())).unwrap();
        let port = DmaPort::new(Upstream {
            output: Arc::new(ram.clone()),
            remapper: Some(Arc::clone(&unit) as Arc<dyn DmaRemapper>),
            epochs,
            msi: Arc::new(DiscardMsi),
        });
        port.set_requester(DEVICE);
        port.set_bus_master(true);
        Self {
            driver: start(&unit, &ram),
            device: port.handle(),
            ram,
            unit,
        }
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

    fn store(&self, at: u64, value: u64) {
        self.ram.store(PhysAddr(at), value).unwrap();
    }

    fn load(&self, at: u64) -> u64 {
        self.ram.load(PhysAddr(at)).unwrap()
    }

    fn read(&self, at: Iova) -> Result<u64, Fault> {
        let mut data = [0; 8];
        match self.device.read(at, &mut data) {
            Ok(()) => Ok(u64::from_le_bytes(data)),
            Err(partial) => Err(partial.fault),
        }
    }

    fn write(&self, at: Iova, value: u64) -> Result<(), Fault> {
        self.device
            .write(at, &value.to_le_bytes())
            .map_err(|partial| partial.fault)
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
    // As after a crash: the tables are gone, the unit still uses them.
    for address in (TABLES.start.0..TABLES.end.0).step_by(8) {
        bed.store(address, 0);
    }
    bed.driver = start(&bed.unit, &bed.ram);
    assert!(bed.read(iova).is_err());
    assert_eq!(bed.take_fault().0, 0x118);
    bed.domain(Tables::Host(4), iova, PhysAddr(0x30_0000), 0x1000);
    bed.store(0x30_0000, 4);
    assert_eq!(bed.read(iova), Ok(4));
}
