//! Host memory behind physical addresses.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_iommu_pagetable::{BadAddress, TableMemory};
use vm_iommu_spec::{FaultReason, PhysAddr};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// A run of host memory behind a physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// The first physical address of the run.
    pub start: PhysAddr,
    /// Its length in bytes, not 0.
    pub len: u64,
    /// Where the run begins in this process.
    pub host: NonNull<u8>,
}

// SAFETY: the pointer is a plain number here; what may be done with it is the contract of
// `OutputSpace`, which does not depend on the thread.
unsafe impl Send for HostRange {}
// SAFETY: as above.
unsafe impl Sync for HostRange {}

/// Where a unit's output addresses live: guest RAM, or another unit's domain.
///
/// # Safety
/// A range that [`resolve`](Self::resolve) yields must be `len` bytes of mapped memory, readable
/// and writable and shared with the guest (never referenced as Rust memory), for as long as the
/// implementor lives.
pub unsafe trait OutputSpace: Send + Sync {
    /// The longest run of host memory that contains `address`.
    ///
    /// # Errors
    /// [`FaultReason::NotMemory`] if no memory is there.
    fn resolve(&self, address: PhysAddr) -> Result<HostRange, FaultReason>;
}

/// Guest RAM, flattened: a sorted list of regions with their host addresses.
///
/// Cloning is cheap and shares the memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    regions: Arc<[HostRange]>,
    memory: Arc<GuestMemoryMmap>,
}

impl GuestRam {
    /// Takes over `memory`; it stays mapped while any clone lives.
    pub fn new(memory: impl Into<Arc<GuestMemoryMmap>>) -> Self {
        let memory = memory.into();
        let mut regions: Vec<HostRange> = memory
            .iter()
            .filter_map(|region| {
                Some(HostRange {
                    start: PhysAddr(region.start_addr().0),
                    len: region.len(),
                    host: NonNull::new(memory.get_host_address(region.start_addr()).ok()?)?,
                })
            })
            .collect();
        regions.sort_by_key(|region| region.start);
        Self {
            regions: regions.into(),
            memory,
        }
    }

    /// The memory as the loader and other `vm-memory` users see it.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Whether all `len` bytes from `start` are RAM, in one region.
    pub fn contains(&self, start: PhysAddr, len: u64) -> bool {
        len == 0 || self.pointer(start, len).is_some()
    }

    #[inline]
    fn region(&self, address: PhysAddr) -> Option<&HostRange> {
        self.regions
            .iter()
            .find(|region| address.0.wrapping_sub(region.start.0) < region.len)
    }

    /// The host address of `len` bytes (at least 1) from `address`, if one region holds them.
    #[inline]
    fn pointer(&self, address: PhysAddr, len: u64) -> Option<NonNull<u8>> {
        let region = self.region(address)?;
        let offset = address.0 - region.start.0;
        if region.len - offset < len {
            return None;
        }
        // SAFETY: `offset` is within the mapped region.
        Some(unsafe { region.host.add(offset as usize) })
    }

    /// The 64-bit word at `address`, if it is aligned and in memory.
    #[inline]
    fn word(&self, address: PhysAddr) -> Result<&AtomicU64, BadAddress> {
        match self.pointer(address, 8) {
            Some(host) if address.is_aligned(8) && host.as_ptr().addr().is_multiple_of(8) => {
                // SAFETY: the word is mapped while `self` lives, aligned, and shared with the
                // guest, so that it is only ever accessed atomically or as volatile bytes.
                Ok(unsafe { AtomicU64::from_ptr(host.as_ptr().cast()) })
            }
            _ => Err(BadAddress(address)),
        }
    }
}

// SAFETY: the regions are mapped, shared with the guest, and stay so while `memory` lives.
unsafe impl OutputSpace for GuestRam {
    fn resolve(&self, address: PhysAddr) -> Result<HostRange, FaultReason> {
        self.region(address).copied().ok_or(FaultReason::NotMemory)
    }
}

impl TableMemory for GuestRam {
    #[inline]
    fn load(&self, address: PhysAddr) -> Result<u64, BadAddress> {
        Ok(u64::from_le(self.word(address)?.load(Ordering::Acquire)))
    }

    #[inline]
    fn compare_exchange(
        &self,
        address: PhysAddr,
        old: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, BadAddress> {
        Ok(self
            .word(address)?
            .compare_exchange(
                old.to_le(),
                new.to_le(),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map(u64::from_le)
            .map_err(u64::from_le))
    }

    #[inline]
    fn store(&self, address: PhysAddr, value: u64) -> Result<(), BadAddress> {
        self.word(address)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn store_u32(&self, address: PhysAddr, value: u32) -> Result<(), BadAddress> {
        match self.pointer(address, 4) {
            Some(host) if address.is_aligned(4) && host.as_ptr().addr().is_multiple_of(4) => {
                // SAFETY: as in `word`.
                let word = unsafe { AtomicU32::from_ptr(host.as_ptr().cast()) };
                word.store(value.to_le(), Ordering::Release);
                Ok(())
            }
            _ => Err(BadAddress(address)),
        }
    }
}

impl From<GuestMemoryMmap> for GuestRam {
    fn from(memory: GuestMemoryMmap) -> Self {
        Self::new(memory)
    }
}
