//! Devices of this process reach what programs mapped through iommufd: the whole way from a call
//! to a device's byte.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_iommu_dma::{DiscardMsi, DmaHandle, DmaPort, Epochs, GuestRam, Upstream};
use vm_iommu_driver::iommu::{DeviceInfo, Iommu};
use vm_iommu_driver::vtd::{InterruptSetup, Setup, Unit, VtdIommu};
use vm_iommu_driver::{PagePool, RegisterBus, SpinBudget};
use vm_iommu_spec::{Access, FaultReason, Iova, PhysAddr, RequesterId};
use vm_iommu_vtd::{Vtd, VtdConfig};
use vm_iommufd::memory::{FrameSpace, HostProcess, guard_truncation};
use vm_iommufd::ownership::{GroupKey, Ownership, OwnershipConfig};
use vm_iommufd::selftest::Program;
use vm_iommufd::{AccessUser, BoundDevice, Caller, Context, PAGE_SIZE, System, SystemConfig};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const RW: Access = Access::READ.union(Access::WRITE);

#[derive(Debug)]
struct Registers(Arc<Vtd>);

impl RegisterBus for Registers {
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

/// A device that a context owns, with its DMA.
struct Bed {
    context: Arc<Context>,
    device: BoundDevice,
    handle: DmaHandle,
    _ownership: Ownership,
}

impl Bed {
    /// The unit's tables are in memory of their own; what it puts out is what programs mapped.
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let ram = GuestRam::new(memory);
        let epochs = Arc::new(Epochs::default());
        let config = VtdConfig::default();
        let unit = Vtd::new(config, ram.clone(), Arc::clone(&epochs), Arc::new(())).unwrap();
        let system = System::new(SystemConfig {
            frames: PhysAddr(1 << 32)..PhysAddr(1 << 38),
            ..SystemConfig::default()
        });
        let port = DmaPort::new(Upstream {
            output: Arc::new(FrameSpace::new(Arc::clone(&system))),
            remapper: Some(Arc::clone(&unit) as _),
            epochs,
            msi: Arc::new(DiscardMsi),
        });
        port.set_bus_master(true);
        let pages = PagePool::new(ram.clone(), PhysAddr(1 << 20)..PhysAddr(8 << 20));
        let setup = Setup {
            interrupts: Some(InterruptSetup {
                size: 7,
                extended: true,
            }),
            ..Setup::new(SpinBudget(1_000_000))
        };
        let mut driver = Unit::start(Registers(unit), ram, pages, &setup).unwrap();
        driver.enable_translation().unwrap();
        let iommu: Arc<dyn Iommu> = Arc::new(VtdIommu::new(driver));
        let ownership = Ownership::new(OwnershipConfig::default());
        let info = DeviceInfo::new(RequesterId::from_raw(0));
        let device = ownership.add(&iommu, info, GroupKey(0)).unwrap();
        let context = system.open();
        Self {
            device: context.bind(&device).unwrap(),
            context,
            handle: port.handle(),
            _ownership: ownership,
        }
    }
}

/// Whole pages of this process's own memory.
struct Memory(Vec<u8>);

impl Memory {
    fn new(pages: u64) -> Self {
        Self(vec![0; ((pages + 1) * PAGE_SIZE) as usize])
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(PAGE_SIZE as usize)
    }

    fn address(&self) -> u64 {
        self.0[self.start()..].as_ptr().addr() as u64
    }

    fn load(&self, offset: usize) -> u8 {
        let place = &raw const self.0[self.start() + offset];
        // SAFETY: it is a byte of this buffer, which a device may have written.
        unsafe { place.read_volatile() }
    }
}

fn this_process() -> Arc<HostProcess> {
    // SAFETY: the tests map buffers that they made for it, and outlive the mapping.
    unsafe { HostProcess::this() }
}

fn read(bed: &Bed, address: u64) -> Result<u8, FaultReason> {
    let mut byte = [0];
    match bed.handle.read(Iova(address), &mut byte) {
        Ok(()) => Ok(byte[0]),
        Err(partial) => Err(partial.fault.reason),
    }
}

#[test]
fn memory_of_this_process_is_used_in_place_and_only_while_it_is_mapped() {
    let bed = Bed::new();
    let caller = this_process();
    let memory = Memory::new(4);
    let ioas = bed.context.ioas().unwrap();
    let at = |iova| Some(Iova(iova));
    ioas.map(&*caller, memory.address(), 4 * PAGE_SIZE, at(0x10_0000), RW)
        .unwrap();
    assert!(read(&bed, 0x10_0000).is_err(), "owned and not attached");
    bed.device.attach(None, &ioas).unwrap();
    bed.handle.write(Iova(0x10_1ffe), b"over").unwrap();
    assert_eq!(
        [0x1ffe, 0x1fff, 0x2000, 0x2001].map(|offset| memory.load(offset)),
        *b"over"
    );
    assert_eq!(read(&bed, 0x10_2001), Ok(b'r'));
    // Rings work there: an atomic access.
    bed.handle
        .store(Iova(0x10_3000), 7_u16, Ordering::Release)
        .unwrap();
    assert_eq!(memory.load(0x3000), 7);

    ioas.unmap(Iova(0x10_0000)..=Iova(0x10_3fff)).unwrap();
    assert!(read(&bed, 0x10_2001).is_err());
    bed.device.detach(None).unwrap();
}

#[test]
fn a_memory_file_outlives_its_descriptor_and_a_truncation() {
    guard_truncation().unwrap();
    let bed = Bed::new();
    let caller = this_process();
    let file = File::from(memfd_create("shared", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(2 * PAGE_SIZE).unwrap();
    file.write_all_at(b"f", PAGE_SIZE).unwrap();
    let ioas = bed.context.ioas().unwrap();
    let other = file.try_clone().unwrap();
    ioas.map_file(
        &*caller,
        file.as_raw_fd(),
        0,
        2 * PAGE_SIZE,
        Some(Iova(0)),
        RW,
    )
    .unwrap();
    drop(file);
    bed.device.attach(None, &ioas).unwrap();
    assert_eq!(read(&bed, PAGE_SIZE), Ok(b'f'));
    bed.handle.write(Iova(1), b"x").unwrap();
    let mut byte = [0];
    other.read_exact_at(&mut byte, 1).unwrap();
    assert_eq!(byte, *b"x");
    // Neither a signal nor another file's bytes.
    other.set_len(0).unwrap();
    let _ = read(&bed, PAGE_SIZE);
    bed.device.detach(None).unwrap();
}

#[test]
fn a_programs_private_memory_is_refused_with_the_advice_to_share_it() {
    const MEMORY: u64 = 0x20_0000;
    let bed = Bed::new();
    let program = Program::new(7);
    program.add_memory(MEMORY, PAGE_SIZE, true);
    let ioas = bed.context.ioas().unwrap();
    ioas.map(&program, MEMORY, PAGE_SIZE, Some(Iova(0)), RW)
        .unwrap();
    bed.device.attach(None, &ioas).unwrap();
    assert_eq!(read(&bed, 0), Err(FaultReason::CopyOnly));
    let atomic = bed.handle.load::<u16>(Iova(0), Ordering::Acquire);
    assert_eq!(atomic.unwrap_err().reason, FaultReason::CopyOnly);
    assert!(FaultReason::CopyOnly.to_string().contains("share it"));
    assert!(program.process().id() != this_process().process().id());
    bed.device.detach(None).unwrap();
}

/// Who is told of no unmapping.
struct Silent;

impl AccessUser for Silent {
    fn unmap(&self, _: u64, _: u64) {}
}

/// A device that passes through, whatever is cached for it, loses what nobody pins any more.
#[test]
fn what_nobody_pins_any_more_is_not_reached_even_where_nothing_translates() {
    let system = System::new(SystemConfig {
        frames: PhysAddr(1 << 32)..PhysAddr(1 << 38),
        ..SystemConfig::default()
    });
    let port = DmaPort::new(Upstream::direct(FrameSpace::new(Arc::clone(&system))));
    port.set_bus_master(true);
    let handle = port.handle();
    let context = system.open();
    let caller = this_process();
    let memory = Memory::new(1);
    let ioas = context.ioas().unwrap();
    ioas.map(&*caller, memory.address(), PAGE_SIZE, Some(Iova(0)), RW)
        .unwrap();
    let user: Weak<Silent> = Weak::new();
    let access = context.access(ioas.id(), true, user).unwrap();
    let pinned = access.pin(0, PAGE_SIZE, true).unwrap();
    let place = Iova(pinned[0].address.0);
    handle.write(place, b"p").unwrap();
    assert_eq!(memory.load(0), b'p');
    access.unpin(0, PAGE_SIZE);
    let refused = handle.write(place, b"q").unwrap_err();
    assert_eq!(refused.fault.reason, FaultReason::NotMemory);
    assert_eq!(memory.load(0), b'p');
}

#[test]
fn a_file_that_is_no_memory_is_not_mapped() {
    let bed = Bed::new();
    let caller = this_process();
    let ioas = bed.context.ioas().unwrap();
    // A regular file to stat(2), as those of a disk are.
    let file = File::open("/proc/self/status").unwrap();
    let number = file.as_raw_fd();
    let mapped = ioas.map_file(&*caller, number, 0, PAGE_SIZE, None, Access::READ);
    assert_eq!(mapped, Err(vm_iommufd::Errno::EINVAL));
}
