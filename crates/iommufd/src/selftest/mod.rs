//! The calls by which the kernel's own selftest makes devices and looks behind the interface.
//!
//! They act on a mock unit whose pages have 2 KiB, half of a processor's. They give away what a
//! program should not know of others, so a program in use leaves them out.

mod access;
mod command;
mod devices;
mod dirty;
mod domain;
mod exported;
mod nested;
mod program;
mod unit;
mod viommu;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use vm_iommu_driver::iommu::Iommu;
use vm_iommu_spec::RequesterId;

pub(crate) use command::ioctl;
pub use command::{IOMMU_TEST_CMD, Operation, TestCommand};
pub(crate) use devices::TestDevice;
pub(crate) use exported::exported;
pub use program::Program;
pub use unit::MockUnit;

use crate::ownership::{Ownership, OwnershipConfig};
use crate::{Context, Errno};

/// The first address that default mock tables map.
pub const APERTURE_START: u64 = 1 << 24;
/// The last.
pub const APERTURE_LAST: u64 = (1 << 31) - 1;
/// The smallest page of default mock tables.
pub const MOCK_PAGE_SIZE: u64 = 2048;
/// The large page of huge mock tables.
pub const MOCK_HUGE_PAGE_SIZE: u64 = 512 * MOCK_PAGE_SIZE;
/// The width of a mock device's PASIDs, if it has any.
pub const PASID_BITS: u8 = 20;

/// The mock unit of a system and its devices.
#[derive(Debug, Default)]
pub(crate) struct Mock {
    parts: OnceLock<Parts>,
    next: AtomicU32,
    /// Numbers of devices that are gone.
    free: Mutex<Vec<u32>>,
    /// A limit of the kernel's that has nothing to limit here.
    memory_limit: AtomicU32,
}

#[derive(Debug)]
struct Parts {
    unit: Arc<MockUnit>,
    ownership: Ownership,
}

impl Mock {
    fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| Parts {
            unit: Arc::new(MockUnit::default()),
            ownership: Ownership::new(OwnershipConfig::default()),
        })
    }

    fn unit(&self) -> &Arc<MockUnit> {
        &self.parts().unit
    }

    fn iommu(&self) -> Arc<dyn Iommu> {
        Arc::clone(self.unit()) as _
    }

    fn take_number(&self) -> Result<RequesterId, Errno> {
        let freed = self
            .free
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop();
        let number = match freed {
            Some(number) => number,
            None => self.next.fetch_add(1, Ordering::Relaxed),
        };
        Ok(RequesterId::from_raw(number))
    }

    fn give_number(&self, requester: RequesterId) {
        let mut free = self
            .free
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        free.push(requester.raw());
    }
}

/// An address that a fuzzer gives as the number of an area and an offset in it.
pub(crate) fn nth_area(context: &Context, ioas: u32, iova: &mut u64, flags: &mut u32) {
    if *flags & command::SYZKALLER == 0 {
        return;
    }
    *flags &= !command::SYZKALLER;
    let state = context.lock();
    if let Ok(object) = state.objects.ioas(ioas) {
        *iova = nth(&object.ioas, *iova);
    }
}

fn nth(ioas: &crate::ioas::Ioas, packed: u64) -> u64 {
    let (index, offset) = (packed as u32, (packed >> 32) as u32);
    let area = ioas.areas().nth(index as usize);
    area.map_or(0, |area| area.first.wrapping_add(offset.into()))
}
