//! Several accesses in one epoch, as `vm-memory` users make them.

use std::cell::Cell;
use std::io;
use std::iter::FusedIterator;

use vm_iommu_spec::{Access, DmaRequest, Fault, Iova};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, Permissions, VolatileSlice,
    guest_memory::GuestMemorySliceIterator,
};

use crate::DmaHandle;

/// One epoch of a handle. Implements [`GuestMemory`], so that `virtio-queue` works over it; the
/// slices borrow it, and its drop ends the epoch.
///
/// Libraries above may swallow an error; the session keeps the first fault for
/// [`take_fault`](Self::take_fault).
pub struct DmaSession<'a> {
    handle: &'a mut DmaHandle,
    fault: Cell<Option<Fault>>,
}

impl<'a> DmaSession<'a> {
    pub(crate) fn new(handle: &'a mut DmaHandle) -> Self {
        handle.begin_epoch();
        Self {
            handle,
            fault: Cell::new(None),
        }
    }

    /// The first fault since the session began or was last asked; whatever was made of it above.
    pub fn take_fault(&self) -> Option<Fault> {
        self.fault.take()
    }

    fn latch(&self, fault: Fault) -> GuestMemoryError {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
        }
        GuestMemoryError::IOError(io::Error::other(fault))
    }
}

impl Drop for DmaSession<'_> {
    fn drop(&mut self) {
        self.handle.end_epoch();
    }
}

impl GuestMemory for DmaSession<'_> {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        let mut slices = self.slices(address, count, access);
        slices.request.probe = true;
        slices.all(|slice| slice.is_ok())
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, ()>, GuestMemoryError> {
        Ok(self.slices(address, count, access))
    }
}

impl DmaSession<'_> {
    fn slices(&self, address: GuestAddress, count: usize, access: Permissions) -> Slices<'_> {
        let access = match access {
            Permissions::No => Access::empty(),
            Permissions::Read => Access::READ,
            Permissions::Write => Access::WRITE,
            Permissions::ReadWrite => Access::READ | Access::WRITE,
        };
        Slices {
            session: self,
            request: self.handle.request(Iova(address.0), access),
            left: count,
            checked: false,
        }
    }
}

/// The host memory of a range, piece by piece; ends after the first fault.
pub struct Slices<'a> {
    session: &'a DmaSession<'a>,
    request: DmaRequest,
    left: usize,
    checked: bool,
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a>, GuestMemoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let handle = &*self.session.handle;
        let checked = if self.checked {
            Ok(())
        } else {
            handle.check_range(&self.request, self.left)
        };
        self.checked = true;
        match checked.and_then(|()| handle.resolve(&self.request, self.left)) {
            Ok(piece) => {
                self.left -= piece.len;
                // Wraps only after the last byte of the address space, when nothing is left.
                self.request.address.0 = self.request.address.0.wrapping_add(piece.len as u64);
                // SAFETY: the session's epoch keeps the memory reachable while `'a` lasts.
                Some(Ok(unsafe {
                    VolatileSlice::new(piece.host.as_ptr(), piece.len)
                }))
            }
            Err(fault) => {
                self.left = 0;
                Some(Err(if self.request.probe {
                    GuestMemoryError::IOError(io::Error::other(fault))
                } else {
                    self.session.latch(fault)
                }))
            }
        }
    }
}

impl FusedIterator for Slices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {}
