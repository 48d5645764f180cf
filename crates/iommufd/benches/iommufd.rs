//! What iommufd's calls cost on a VT-d unit, beside what they cannot do without, in one run.
//!
//! Prints one line a figure, or with `--json` one object.

use std::hint::black_box;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use iommufd_bindings as uapi;
use vm_iommu_dma::{Epochs, GuestRam};
use vm_iommu_driver::iommu::{DeviceInfo, Iommu};
use vm_iommu_driver::vtd::{Setup, Unit, VtdIommu};
use vm_iommu_driver::{PagePool, RegisterBus, SpinBudget};
use vm_iommu_spec::{Access, Iova, PhysAddr, RequesterId};
use vm_iommu_vtd::{Vtd, VtdConfig};
use vm_iommufd::memory::{Backing, BackingId, HostProcess, Run};
use vm_iommufd::ownership::{GroupKey, Ownership, OwnershipConfig};
use vm_iommufd::uapi as calls;
use vm_iommufd::uapi::Plain;
use vm_iommufd::{
    BoundDevice, Caller, CallerFile, Capability, Context, Errno, Process, ProcessId, System,
    SystemConfig,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
/// The tables of a gibibyte: 512 of leaves.
const LEAF_TABLES: usize = 512;
const ENTRIES: usize = 512;

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

/// A program whose memory is never touched.
struct Program {
    structure: std::cell::RefCell<Vec<u8>>,
    memory: Arc<Memory>,
}

struct Memory {
    this: Weak<Self>,
}

impl Caller for Program {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let structure = self.structure.borrow();
        let bytes = structure.get(address as usize..).ok_or(Errno::EFAULT)?;
        buffer.copy_from_slice(bytes.get(..buffer.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn write(&self, address: u64, buffer: &[u8]) -> Result<(), Errno> {
        let mut structure = self.structure.borrow_mut();
        let bytes = structure.get_mut(address as usize..).ok_or(Errno::EFAULT)?;
        bytes
            .get_mut(..buffer.len())
            .ok_or(Errno::EFAULT)?
            .copy_from_slice(buffer);
        Ok(())
    }

    fn process(&self) -> Arc<dyn Process> {
        Arc::clone(&self.memory) as _
    }

    fn file(&self, _: i32) -> Result<CallerFile, Errno> {
        Err(Errno::EBADF)
    }

    fn capable(&self, _: Capability) -> bool {
        true
    }
}

impl Process for Memory {
    fn id(&self) -> ProcessId {
        ProcessId(1)
    }

    fn user(&self) -> u32 {
        0
    }

    fn memlock_limit(&self) -> u64 {
        u64::MAX
    }

    fn resolve(&self, address: u64, length: u64, _: bool) -> Result<Vec<Run>, Errno> {
        let backing = self.this.upgrade().ok_or(Errno::EFAULT)?;
        Ok(vec![Run {
            length,
            backing,
            offset: address,
        }])
    }
}

impl Backing for Memory {
    fn id(&self) -> BackingId {
        BackingId::Process(ProcessId(1))
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
}

struct Bench {
    context: Arc<Context>,
    program: Program,
    devices: Vec<BoundDevice>,
    _ownership: Ownership,
}

impl Bench {
    /// A unit without large pages, and two devices that are bound.
    fn new() -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]);
        let ram = GuestRam::new(ram.expect("there is memory"));
        let config = VtdConfig {
            two_mib_pages: false,
            one_gib_pages: false,
            ..VtdConfig::default()
        };
        let epochs = Arc::new(Epochs::default());
        let vtd = Vtd::new(config, ram.clone(), epochs, Arc::new(())).expect("the unit is right");
        let pages = PagePool::new(ram.clone(), PhysAddr(8 << 20)..PhysAddr(64 << 20));
        let setup = Setup::new(SpinBudget(1_000_000));
        let mut unit = Unit::start(Registers(vtd), ram, pages, &setup).expect("it starts");
        unit.enable_translation().expect("it translates");
        let unit: Arc<dyn Iommu> = Arc::new(VtdIommu::new(unit));
        let ownership = Ownership::new(OwnershipConfig {
            allow_unsafe_interrupts: true,
            ..OwnershipConfig::default()
        });
        let context = System::new(SystemConfig {
            frames: PhysAddr(1 << 32)..PhysAddr(1 << 38),
            ..SystemConfig::default()
        })
        .open();
        let devices = (0..2).map(|number| {
            let info = DeviceInfo::new(RequesterId::from_raw(8 * number));
            let device = ownership
                .add(&unit, info, GroupKey(number.into()))
                .expect("it is added");
            context.bind(&device).expect("it is bound")
        });
        let program = Program {
            structure: std::cell::RefCell::new(vec![0; 64]),
            memory: Arc::new_cyclic(|this| Memory {
                this: Weak::clone(this),
            }),
        };
        Self {
            devices: devices.collect(),
            context,
            program,
            _ownership: ownership,
        }
    }

    fn call<T: Plain>(&self, request: u32, structure: T) -> T {
        let bytes = structure.to_bytes();
        let length = bytes.len();
        self.program.structure.borrow_mut()[..length].copy_from_slice(&bytes);
        self.context
            .ioctl(&self.program, request, 0)
            .map(drop)
            .expect("the call is right");
        T::from_bytes(&self.program.structure.borrow()[..length])
    }

    fn ioas(&self) -> u32 {
        let command = uapi::iommu_ioas_alloc {
            size: 12,
            ..Default::default()
        };
        self.call(calls::IOMMU_IOAS_ALLOC, command).out_ioas_id
    }

    fn map(&self, ioas: u32, address: u64, length: u64, iova: Option<u64>) -> u64 {
        let command = uapi::iommu_ioas_map {
            size: 40,
            flags: 6 | u32::from(iova.is_some()),
            ioas_id: ioas,
            user_va: address,
            length,
            iova: iova.unwrap_or(0),
            ..Default::default()
        };
        self.call(calls::IOMMU_IOAS_MAP, command).iova
    }

    fn unmap(&self, ioas: u32, iova: u64, length: u64) {
        let command = uapi::iommu_ioas_unmap {
            size: 24,
            ioas_id: ioas,
            iova,
            length,
        };
        self.call(calls::IOMMU_IOAS_UNMAP, command);
    }
}

impl Bench {
    /// Whether an address space uses pages larger than 4 KiB.
    fn set_large_pages(&self, ioas: u32, on: bool) {
        let command = uapi::iommu_option {
            size: 24,
            option_id: uapi::iommufd_option_IOMMU_OPTION_HUGE_PAGES,
            op: uapi::iommufd_option_ops_IOMMU_OPTION_OP_SET as u16,
            object_id: ioas,
            val64: on.into(),
            ..Default::default()
        };
        self.call(calls::IOMMU_OPTION, command);
    }
}

/// The shortest of some runs, which the machine's other work disturbed least.
fn shortest(runs: usize, mut run: impl FnMut() -> Duration) -> Duration {
    (0..runs).map(|_| run()).min().unwrap_or_default()
}

fn timed<T>(event: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let _ = black_box(event());
    start.elapsed()
}

/// Allocates the leaf tables of a gibibyte, zeroes them and stores each entry.
fn leaf_tables() -> Duration {
    timed(|| {
        let mut tables = Vec::with_capacity(LEAF_TABLES);
        for table in 0..LEAF_TABLES {
            let mut entries = vec![0_u64; ENTRIES].into_boxed_slice();
            for (index, entry) in entries.iter_mut().enumerate() {
                *entry = ((table * ENTRIES + index) as u64) << 12 | 3;
            }
            tables.push(black_box(entries));
        }
        drop(black_box(tables));
    })
}

/// Maps and unmaps a gibibyte of this process's memory that is there, for a device.
fn map_and_unmap_memory(bench: &Bench, device: &BoundDevice) -> (Duration, Duration) {
    // Written, so that all of it is there.
    let memory = vec![1_u8; (GIB + PAGE) as usize];
    let start = memory.as_ptr().align_offset(PAGE as usize);
    let address = memory[start..].as_ptr().addr() as u64;
    // SAFETY: no device is there to write what is mapped.
    let process = unsafe { HostProcess::this() };
    let space = bench.context.ioas().expect("it is made");
    device.detach(None).expect("it is attached");
    device.attach(None, &space).expect("it is attached");
    let place = Iova(GIB)..=Iova(2 * GIB - 1);
    let mut map = Duration::MAX;
    let unmap = shortest(5, || {
        map = map.min(timed(|| {
            let access = Access::READ | Access::WRITE;
            space
                .map(&*process, address, GIB, Some(*place.start()), access)
                .expect("it is mapped")
        }));
        timed(|| space.unmap(place.clone()).expect("it is unmapped"))
    });
    device.detach(None).expect("it is attached");
    space.destroy().expect("nobody uses it");
    (map, unmap)
}

fn main() {
    let base = shortest(20, leaf_tables);
    let bench = Bench::new();
    let [first, second] = &bench.devices[..] else {
        panic!("two devices are bound")
    };
    let (ioas, empty) = (bench.ioas(), bench.ioas());
    first.attach(None, &ioas).expect("it is attached");
    second.attach(None, &empty).expect("it is attached");
    let map_and_unmap = || {
        let mut map = Duration::MAX;
        let unmap = shortest(5, || {
            map = map.min(timed(|| bench.map(ioas, GIB, GIB, Some(GIB))));
            timed(|| bench.unmap(ioas, GIB, GIB))
        });
        (map, unmap)
    };
    let (large_map, large_unmap) = map_and_unmap();
    bench.set_large_pages(ioas, false);
    let (map, unmap) = map_and_unmap();
    bench.set_large_pages(ioas, true);
    let (real_map, real_unmap) = map_and_unmap_memory(&bench, second);
    second.attach(None, &empty).expect("it is attached");
    // An area more and one less, among few and among many.
    let areas = |count: u64| {
        for area in 0..count {
            bench.map(empty, area * 2 * PAGE, PAGE, Some((area + 1) * 2 * PAGE));
        }
        let each = shortest(20, || {
            timed(|| {
                for _ in 0..200 {
                    let iova = bench.map(empty, 4 * GIB, PAGE, None);
                    bench.unmap(empty, iova, PAGE);
                }
            })
        });
        bench.unmap(empty, 0, u64::MAX);
        each
    };
    let (few, many) = (areas(100), areas(10_000));
    // Attach to a table that is there, of an address space with nothing and with a gibibyte.
    second.detach(None).expect("it is attached");
    let attach = |on| {
        shortest(200, || {
            let time = timed(|| second.attach(None, &on).expect("it is attached"));
            second.detach(None).expect("it is attached");
            time
        })
    };
    let attach_empty = attach(ioas);
    bench.map(ioas, GIB, GIB, Some(GIB));
    let attach_full = attach(ioas);
    let other = bench.ioas();
    let table = |on| {
        let command = uapi::iommu_hwpt_alloc {
            size: 48,
            dev_id: second.id(),
            pt_id: on,
            ..Default::default()
        };
        bench.call(calls::IOMMU_HWPT_ALLOC, command).out_hwpt_id
    };
    let (one, two) = (table(other), table(other));
    second.attach(None, &one).expect("it is attached");
    let replace = shortest(200, || {
        let time = timed(|| second.attach(None, &two).expect("it is replaced"));
        second.attach(None, &one).expect("it is replaced");
        time
    });
    report(&[
        (
            "map of 1 GiB of memory that is there / leaf tables alone",
            real_map,
            base,
            3.0,
        ),
        ("unmap of it / map", real_unmap, real_map, 1.0),
        (
            "map of 1 GiB in pages of 4 KiB / its leaf tables alone",
            map,
            base,
            3.0,
        ),
        ("unmap of 1 GiB in pages of 4 KiB / map", unmap, map, 1.0),
        (
            "map of 1 GiB in the largest pages / leaf tables of 4 KiB",
            large_map,
            base,
            3.0,
        ),
        (
            "unmap of 1 GiB in the largest pages / map",
            large_unmap,
            large_map,
            1.0,
        ),
        (
            "map and unmap among 10,000 areas / among 100",
            many,
            few,
            2.0,
        ),
        (
            "attach with 1 GiB mapped / with nothing",
            attach_full,
            attach_empty,
            1.2,
        ),
        ("replace / attach", replace, attach_full, 2.0),
    ]);
}

fn report(figures: &[(&str, Duration, Duration, f64)]) {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut lines = Vec::new();
    for (what, ours, base, limit) in figures {
        let (ours, base) = (ours.as_nanos(), base.as_nanos().max(1));
        let ratio = ours as f64 / base as f64;
        lines.push(if json {
            format!(
                "{{\"work\":\"{what}\",\"ours_ns\":{ours},\"base_ns\":{base},\"ratio\":{ratio:.2},\
                 \"limit\":{limit}}}"
            )
        } else {
            format!("{what}: {ours} ns / {base} ns = {ratio:.2} (at most {limit})")
        });
    }
    if json {
        println!("[{}]", lines.join(","));
    } else {
        println!("{}", lines.join("\n"));
    }
}
