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
use crate::handle::{Missed, Piece};

/// One epoch of a handle. Implements [`GuestMemory`], so that `virtio-queue` works over it; the
/// slices borrow it, and its drop ends the epoch.
///
/// A slice does not outlive its session, since no invalidation would wait for it then:
///
/// ```compile_fail,E0505
/// use vm_iommu_dma::DmaHandle;
/// use vm_memory::{GuestAddress, GuestMemory, Permissions};
///
/// fn late(handle: &mut DmaHandle) {
///     let session = handle.session();
///     let mut slices = session.get_slices(GuestAddress(0), 8, Permissions::Read).unwrap();
///     drop(session);
///     slices.next();
/// }
/// ```
///
/// Libraries above may swallow an error; the session keeps the first fault for
/// [`take_fault`](Self::take_fault).
pub struct DmaSession<'a> {
    handle: &'a mut DmaHandle,
    fault: Cell<Option<Fault>>,
}

impl<'a> DmaSession<'a> {
    #[inline]
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

    fn latch(&self, fault: Fault) {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
        }
    }
}

impl Drop for DmaSession<'_> {
    #[inline]
    fn drop(&mut self) {
        self.handle.end_epoch();
    }
}

impl GuestMemory for DmaSession<'_> {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        let mut slices = Slices {
            probe: true,
            ..self.slices(address, count, access)
        };
        slices.all(|slice| slice.is_ok())
    }

    #[inline]
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
    #[inline]
    fn slices(&self, address: GuestAddress, count: usize, access: Permissions) -> Slices<'_> {
        let access = match access {
            Permissions::No => Access::empty(),
            Permissions::Read => Access::READ,
            Permissions::Write => Access::WRITE,
            Permissions::ReadWrite => Access::READ | Access::WRITE,
        };
        Slices {
            session: self,
            address: Iova(address.0),
            left: count,
            access,
            probe: false,
            checked: false,
        }
    }
}

/// The host memory of a range, piece by piece; ends after the first fault.
pub struct Slices<'a> {
    session: &'a DmaSession<'a>,
    address: Iova,
    left: usize,
    access: Access,
    probe: bool,
    /// Whether the range as a whole was found possible.
    checked: bool,
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a>, GuestMemoryError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (address, len) = (self.address, self.left);
        match self.session.handle.remembered(address, len, self.access) {
            Some(host) => {
                self.left = 0;
                // SAFETY: as in `take`.
                Some(Ok(unsafe { VolatileSlice::new(host.as_ptr(), len) }))
            }
            None => self.next_cached(),
        }
    }
}

impl<'a> Slices<'a> {
    #[inline(never)]
    fn next_cached(&mut self) -> Option<Result<VolatileSlice<'a>, GuestMemoryError>> {
        // A page holds what is left, or its end begins the next: only a range that leaves its
        // first page can wrap.
        match self.session.handle.hit(self.address, self.access) {
            Ok(piece) if self.checked || piece.len >= self.left => Some(Ok(self.take(piece))),
            Ok(_) => self.next_resolved(None),
            Err(missed) => self.next_resolved(missed),
        }
    }

    /// The start of what is left, which `piece` holds.
    #[inline]
    fn take(&mut self, piece: Piece) -> VolatileSlice<'a> {
        let len = piece.len.min(self.left);
        self.left -= len;
        // Wraps only after the last byte of the address space, when nothing may be left.
        self.address.0 = self.address.0.wrapping_add(len as u64);
        // SAFETY: the session's epoch keeps the memory reachable while `'a` lasts.
        unsafe { VolatileSlice::new(piece.host.as_ptr(), len) }
    }

    #[cold]
    fn next_resolved(
        &mut self,
        missed: Missed,
    ) -> Option<Result<VolatileSlice<'a>, GuestMemoryError>> {
        let handle = &*self.session.handle;
        let request = DmaRequest {
            probe: self.probe,
            ..handle.request(self.address, self.access)
        };
        let checked = if self.checked {
            Ok(())
        } else {
            handle.check_range(&request, self.left)
        };
        self.checked = true;
        match checked.and_then(|()| handle.resolve(&request, self.left, missed)) {
            Ok(piece) => Some(Ok(self.take(piece))),
            Err(fault) => {
                self.left = 0;
                if !self.probe {
                    self.session.latch(fault);
                }
                Some(Err(GuestMemoryError::IOError(io::Error::other(fault))))
            }
        }
    }
}

impl FusedIterator for Slices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {
    /// What the provided method does, without its detour over a peeked item: most ranges lie in
    /// one page, and their one slice is known here.
    #[inline]
    #[allow(refining_impl_trait)]
    fn stop_on_error(mut self) -> Result<UntilError<'a>, GuestMemoryError> {
        let first = self.next().transpose()?;
        Ok(UntilError { first, rest: self })
    }
}

/// The slices before the first fault.
pub struct UntilError<'a> {
    first: Option<VolatileSlice<'a>>,
    rest: Slices<'a>,
}

impl<'a> Iterator for UntilError<'a> {
    type Item = VolatileSlice<'a>;

    // Users are generic loops, in which only the whole of it is cheap.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self.first.take() {
            Some(first) => Some(first),
            None if self.rest.left == 0 => None,
            None => self.another(),
        }
    }
}

impl<'a> UntilError<'a> {
    #[inline(never)]
    fn another(&mut self) -> Option<VolatileSlice<'a>> {
        self.rest.next()?.ok()
    }
}
