//! The calls of `/dev/iommu`, one rule after the other.

mod api;
mod devices;
mod machines;
mod mappings;
mod queues;
mod structures;
mod sweep;
mod vfio;

use std::sync::Arc;

use iommufd_bindings as uapi;
use vm_iommufd::selftest::{IOMMU_TEST_CMD, Operation, Program, TestCommand};
use vm_iommufd::uapi as calls;
use vm_iommufd::uapi::Plain;
use vm_iommufd::{Context, Errno, System, SystemConfig};

const PAGE: u64 = 4096;
/// Sixteen pages of memory of each program.
const MEMORY: u64 = 0x20_0000;
const MEMORY_PAGES: u64 = 16;

/// A context and a program that uses it.
struct Bench {
    system: Arc<System>,
    context: Arc<Context>,
    program: Program,
}

impl Bench {
    fn new() -> Self {
        Self::with(SystemConfig::default())
    }

    fn with(config: SystemConfig) -> Self {
        let system = System::new(config);
        let program = program(1);
        Self {
            context: system.open(),
            system,
            program,
        }
    }

    fn call<T: Plain>(&self, request: u32, structure: &mut T) -> Result<i32, Errno> {
        self.program.call(&self.context, request, structure)
    }

    fn ioas(&self) -> u32 {
        let mut command = uapi::iommu_ioas_alloc {
            size: 12,
            ..Default::default()
        };
        assert_eq!(self.call(calls::IOMMU_IOAS_ALLOC, &mut command), Ok(0));
        command.out_ioas_id
    }

    fn destroy(&self, id: u32) -> Result<i32, Errno> {
        self.call(
            calls::IOMMU_DESTROY,
            &mut uapi::iommu_destroy { size: 8, id },
        )
    }

    /// Maps memory of the program for reading and writing, at an address or anywhere.
    fn map(&self, ioas: u32, address: u64, length: u64, iova: Option<u64>) -> Result<u64, Errno> {
        let mut command = map(ioas, address, length, iova);
        self.call(calls::IOMMU_IOAS_MAP, &mut command)?;
        Ok(command.iova)
    }

    fn unmap(&self, ioas: u32, iova: u64, length: u64) -> Result<u64, Errno> {
        let mut command = uapi::iommu_ioas_unmap {
            size: 24,
            ioas_id: ioas,
            iova,
            length,
        };
        self.call(calls::IOMMU_IOAS_UNMAP, &mut command)?;
        Ok(command.length)
    }

    fn test(&self, command: &mut TestCommand) -> Result<i32, Errno> {
        self.call(IOMMU_TEST_CMD, command)
    }

    /// A mock device with flags on something: its numbers, of the test's device, its table and the
    /// bound device.
    fn device(&self, on: u32, flags: u32) -> Result<(u32, u32, u32), Errno> {
        let mut command = test(Operation::MockDomainFlags, on);
        command.set_word(12, flags);
        self.test(&mut command)?;
        Ok((command.word(0), command.word(4), command.word(8)))
    }

    /// A table of a kind.
    fn hwpt(&self, device: u32, on: u32, flags: u32) -> Result<u32, Errno> {
        let mut command = uapi::iommu_hwpt_alloc {
            size: 48,
            flags,
            dev_id: device,
            pt_id: on,
            ..Default::default()
        };
        self.call(calls::IOMMU_HWPT_ALLOC, &mut command)?;
        Ok(command.out_hwpt_id)
    }

    /// An access to an address space; `pins` says whether it pins pages.
    fn access(&self, ioas: u32, pins: bool) -> Result<u32, Errno> {
        let mut command = test(Operation::CreateAccess, ioas);
        command.set_word(4, pins.into());
        self.test(&mut command)?;
        Ok(command.word(0))
    }

    /// Pins by an access; yields the number of the pages.
    fn pin(&self, access: u32, iova: u64, length: u64) -> Result<u32, Errno> {
        let mut command = test(Operation::AccessPages, access);
        command.set_long(8, iova);
        command.set_long(16, length);
        self.test(&mut command)?;
        Ok(command.word(4))
    }

    fn pinned(&self) -> u64 {
        self.system.pins(self.program.id()).pinned_pages
    }
}

fn program(id: u64) -> Program {
    let program = Program::new(id);
    program.add_memory(MEMORY, MEMORY_PAGES * PAGE, true);
    program
}

fn map(ioas: u32, address: u64, length: u64, iova: Option<u64>) -> uapi::iommu_ioas_map {
    uapi::iommu_ioas_map {
        size: 40,
        flags: 6 | u32::from(iova.is_some()),
        ioas_id: ioas,
        user_va: address,
        length,
        iova: iova.unwrap_or(0),
        ..Default::default()
    }
}

fn test(operation: Operation, id: u32) -> TestCommand {
    TestCommand::new(operation, id)
}
