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
    /// The first fault that nobody took.
    fault: Cell<Option<Fault>>,
    /// The fault of the last access.
    last: Cell<Option<Fault>>,
}

impl<'a> DmaSession<'a> {
    #[inline]
    pub(crate) fn new(handle: &'a mut DmaHandle) -> Self {
        handle.begin_epoch();
        Self {
            handle,
            fault: Cell::new(None),
            last: Cell::new(None),
        }
    }

    /// The first fault since the session began or was last asked; whatever was made of it above.
    pub fn take_fault(&self) -> Option<Fault> {
        self.fault.take()
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
        let mut slices = self.slices(address, count, access);
        slices.range.probe = true;
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
        let range = Range {
            address: Iova(address.0),
            left: count,
            access,
            probe: false,
            checked: false,
        };
        Slices {
            session: self,
            range,
        }
    }

    /// The piece at the start of what is left of `range`; none if there is a fault, which
    /// [`error`](Self::error) then yields.
    #[inline(never)]
    fn cached(&self, range: Range) -> Option<Piece> {
        // A page holds what is left, or its end begins the next: only a range that leaves its
        // first page can wrap.
        match self.handle.hit(range.address, range.access) {
            Ok(piece) if range.checked || piece.len >= range.left => Some(piece),
            Ok(_) => self.resolved(range, None),
            Err(missed) => self.resolved(range, missed),
        }
    }

    #[cold]
    fn resolved(&self, range: Range, missed: Missed) -> Option<Piece> {
        let request = DmaRequest {
            probe: range.probe,
            ..self.handle.request(range.address, range.access)
        };
        let checked = if range.checked {
            Ok(())
        } else {
            self.handle.check_range(&request, range.left)
        };
        let resolved = checked.and_then(|()| self.handle.resolve(&request, range.left, missed));
        let fault = match resolved {
            Ok(piece) => return Some(piece),
            Err(fault) => fault,
        };
        self.last.set(Some(fault));
        if !range.probe && self.fault.get().is_none() {
            self.fault.set(Some(fault));
        }
        None
    }

    /// What stopped the last access.
    #[cold]
    fn error(&self) -> GuestMemoryError {
        GuestMemoryError::IOError(match self.last.take() {
            Some(fault) => io::Error::other(fault),
            None => io::ErrorKind::Other.into(),
        })
    }
}

/// The host memory of a range, piece by piece; ends after the first fault.
///
/// Its address is given to nobody, so that it is in registers while a range lies in one page.
pub struct Slices<'a> {
    session: &'a DmaSession<'a>,
    range: Range,
}

/// What is left of a range.
#[derive(Clone, Copy)]
struct Range {
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
        let Range {
            address,
            left,
            access,
            ..
        } = self.range;
        if left == 0 {
            return None;
        }
        match self.session.handle.remembered(address, left, access) {
            Some(host) => Some(Ok(self.take(Piece { host, len: left }))),
            None => Some(self.next_cached()),
        }
    }
}

impl<'a> Slices<'a> {
    #[inline]
    fn next_cached(&mut self) -> Result<VolatileSlice<'a>, GuestMemoryError> {
        if let Some(piece) = self.session.cached(self.range) {
            return Ok(self.take(piece));
        }
        self.range.left = 0;
        Err(self.session.error())
    }

    /// The start of what is left, which `piece` holds.
    #[inline]
    fn take(&mut self, piece: Piece) -> VolatileSlice<'a> {
        let range = &mut self.range;
        let len = piece.len.min(range.left);
        range.left -= len;
        // Wraps only after the last byte of the address space, when nothing may be left.
        range.address.0 = range.address.0.wrapping_add(len as u64);
        range.checked = true;
        // SAFETY: the session's epoch keeps the memory reachable while `'a` lasts.
        unsafe { VolatileSlice::new(piece.host.as_ptr(), len) }
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
            None if self.rest.range.left == 0 => None,
            None => self.rest.next_cached().ok(),
        }
    }
}
