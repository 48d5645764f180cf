//! A device's hand on memory.

mod piece;
mod recent;
mod resolve;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Iova, MSI_WINDOW, MsiMessage, Pasid,
};
use vm_memory::{AtomicAccess, Bytes, VolatileSlice};

pub(crate) use self::piece::Piece;
use self::piece::{copy_in, copy_out};
use self::recent::Recent;
pub(crate) use self::resolve::Missed;
use self::resolve::{Behind, Bound, Looked};
use crate::{DmaPort, DmaSession, EpochSlot, Epochs, IotlbConfig};

/// The most bytes copied within one epoch, so that a drain ends soon.
pub(crate) const CHUNK: usize = 16 * 1024;

/// The pages that a handle remembers: as many as the IOTLB has sets, within these bounds.
const LEAST_PAGES: usize = 64;
const MOST_PAGES: usize = 1 << 16;

/// An access that stopped: how far it came, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("DMA stopped after {done} bytes: {fault}")]
pub struct Partial {
    /// Bytes moved before the fault, from the start of the range.
    pub done: usize,
    /// Why it stopped.
    #[source]
    pub fault: Fault,
}

/// A device's, or one queue's, hand on memory.
///
/// A handle belongs to one thread at a time: it is `Send`, not `Sync`. Every access passes the
/// function's Bus Master Enable, the unit if there is one, and ends in memory or in a fault.
pub struct DmaHandle {
    port: Arc<DmaPort>,
    epochs: Arc<Epochs>,
    pasid: Option<Pasid>,
    slot: Arc<EpochSlot>,
    /// The era in which the last access was in flight; 0 after [`park`](Self::park).
    era: Cell<u64>,
    recent: Recent,
    bound: RefCell<Option<Bound>>,
    /// Where the handle is behind a unit.
    behind: Option<Behind>,
}

impl DmaHandle {
    pub(crate) fn new(port: Arc<DmaPort>, pasid: Option<Pasid>) -> Self {
        let epochs = Arc::clone(&port.upstream().epochs);
        let remapper = port.upstream().remapper.as_deref();
        let pages = match remapper {
            Some(remapper) => remapper.iotlb().sets(),
            None => IotlbConfig::default().sets,
        };
        let pages = pages.clamp(LEAST_PAGES, MOST_PAGES);
        Self {
            slot: epochs.register(),
            behind: remapper.map(|remapper| Behind::new(remapper, &port)),
            port,
            epochs,
            pasid,
            era: Cell::default(),
            recent: Recent::new(pages),
            bound: RefCell::default(),
        }
    }

    /// The port that the handle belongs to.
    pub fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    /// Reads `buffer.len()` bytes from `address`.
    ///
    /// # Errors
    /// The fault that stopped it and the bytes read before.
    #[inline]
    pub fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), Partial> {
        let epoch = self.enter();
        if let Some(host) = self.remembered(address, buffer.len(), Access::READ) {
            // SAFETY: the page holds as many bytes, and is memory while the epoch lasts.
            unsafe { copy_out(host, buffer) };
            return Ok(());
        }
        self.read_cached(epoch, address, buffer)
    }

    // Apart from `read`, which is then short enough to need hardly any registers.
    #[inline(never)]
    fn read_cached(
        &self,
        epoch: EpochGuard<'_>,
        address: Iova,
        buffer: &mut [u8],
    ) -> Result<(), Partial> {
        match self.whole_hit(address, buffer.len(), Access::READ) {
            Ok(host) => {
                // SAFETY: as in `read`.
                unsafe { copy_out(host, buffer) };
                Ok(())
            }
            Err(looked) => self.read_pieces(epoch, looked, address, buffer),
        }
    }

    #[cold]
    fn read_pieces(
        &self,
        epoch: EpochGuard<'_>,
        looked: Looked,
        address: Iova,
        buffer: &mut [u8],
    ) -> Result<(), Partial> {
        self.transfer(
            epoch,
            looked,
            address,
            buffer.len(),
            Access::READ,
            |done, piece| {
                // SAFETY: the epoch keeps the piece's memory reachable to the end of the copy.
                unsafe { copy_out(piece.host, &mut buffer[done..done + piece.len]) };
            },
        )
    }

    /// Writes `data` to `address`. An aligned doubleword without PASID to the interrupt address
    /// range is an interrupt.
    ///
    /// # Errors
    /// The fault that stopped it and the bytes written before.
    #[inline]
    pub fn write(&self, address: Iova, data: &[u8]) -> Result<(), Partial> {
        let epoch = self.enter();
        if let Some(host) = self.remembered(address, data.len(), Access::WRITE) {
            // SAFETY: as in `read`.
            unsafe { copy_in(host, data) };
            return Ok(());
        }
        self.write_cached(epoch, address, data)
    }

    #[inline(never)]
    fn write_cached(
        &self,
        epoch: EpochGuard<'_>,
        address: Iova,
        data: &[u8],
    ) -> Result<(), Partial> {
        match self.whole_hit(address, data.len(), Access::WRITE) {
            Ok(host) => {
                // SAFETY: as in `read`.
                unsafe { copy_in(host, data) };
                Ok(())
            }
            Err(looked) => self.write_pieces(epoch, looked, address, data),
        }
    }

    #[cold]
    fn write_pieces(
        &self,
        epoch: EpochGuard<'_>,
        looked: Looked,
        address: Iova,
        data: &[u8],
    ) -> Result<(), Partial> {
        if self.pasid.is_none()
            && MSI_WINDOW.contains(&address)
            && address.is_aligned(4)
            && let Ok(data) = <[u8; 4]>::try_from(data)
        {
            let message = MsiMessage {
                address: address.0,
                data: u32::from_le_bytes(data),
            };
            // Still in the epoch, so that whoever stops the function or invalidates the
            // interrupt's entry waits for it.
            return self.port.signal_msi(message).map_err(|reason| Partial {
                done: 0,
                fault: self.request(address, Access::WRITE).fault(reason),
            });
        }
        self.transfer(
            epoch,
            looked,
            address,
            data.len(),
            Access::WRITE,
            |done, piece| {
                // SAFETY: as in `read_pieces`.
                unsafe { copy_in(piece.host, &data[done..done + piece.len]) };
            },
        )
    }

    /// Loads one naturally aligned value in a single access.
    ///
    /// # Errors
    /// The fault; [`FaultReason::Misaligned`] if `address` is not a multiple of the size.
    pub fn load<T: AtomicAccess>(&self, address: Iova, order: Ordering) -> Result<T, Fault> {
        self.atomically::<T, _>(address, Access::READ, |memory| memory.load(0, order))
    }

    /// Stores one naturally aligned value in a single access.
    ///
    /// # Errors
    /// The fault; [`FaultReason::Misaligned`] if `address` is not a multiple of the size.
    pub fn store<T: AtomicAccess>(
        &self,
        address: Iova,
        value: T,
        order: Ordering,
    ) -> Result<(), Fault> {
        self.atomically::<T, _>(address, Access::WRITE, |memory| {
            memory.store(value, 0, order)
        })
    }

    /// Whether an access to `len` bytes from `address` would succeed now. Nothing is recorded.
    ///
    /// # Errors
    /// The fault that it would meet.
    pub fn check(&self, address: Iova, len: usize, access: Access) -> Result<(), Fault> {
        let mut request = self.request(address, access);
        request.probe = true;
        self.check_range(&request, len)?;
        let mut done = 0;
        while done < len {
            request.address = Iova(address.0 + done as u64);
            let _epoch = self.enter();
            done += self.resolve(&request, len - done, None)?.len;
        }
        Ok(())
    }

    /// Says that no access follows soon, as before waiting for work: while all handles say so, an
    /// invalidation costs the guest no system call. The next access costs a full fence.
    pub fn park(&self) {
        self.era.set(0);
        self.slot.park();
    }

    /// Begins a session: one epoch in which several accesses are made, through
    /// [`vm_memory::GuestMemory`]. Keep it short and free of blocking work: an invalidation waits
    /// for it.
    #[inline]
    pub fn session(&mut self) -> DmaSession<'_> {
        DmaSession::new(self)
    }

    #[inline]
    pub(crate) fn request(&self, address: Iova, access: Access) -> DmaRequest {
        DmaRequest {
            requester: self.port.requester(),
            pasid: self.pasid,
            address,
            access,
            address_type: AddressType::Untranslated,
            probe: false,
        }
    }

    /// The checks that precede any lookup: the end of the address space, and the interrupt range.
    pub(crate) fn check_range(&self, request: &DmaRequest, len: usize) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        let Some(last) = request.address.last_byte(len as u64) else {
            return Err(request.fault(FaultReason::AddressWrap));
        };
        if self.pasid.is_none()
            && request.address <= *MSI_WINDOW.end()
            && last >= *MSI_WINDOW.start()
        {
            let mut request = *request;
            request.address = request.address.max(*MSI_WINDOW.start());
            return Err(match &self.port.upstream().remapper {
                Some(remapper) => remapper.refuse_in_interrupt_range(&request),
                None => request.fault(FaultReason::InterruptRange),
            });
        }
        Ok(())
    }

    /// Copies piece by piece, each in an epoch of its own: the first in `epoch`, in which `looked`
    /// was found for it.
    fn transfer<'a>(
        &'a self,
        epoch: EpochGuard<'a>,
        looked: Looked,
        address: Iova,
        len: usize,
        access: Access,
        mut copy: impl FnMut(usize, Piece),
    ) -> Result<(), Partial> {
        let mut request = self.request(address, access);
        let mut done = 0;
        self.check_range(&request, len)
            .map_err(|fault| Partial { done, fault })?;
        let mut first = Some((epoch, looked));
        while done < len {
            request.address = Iova(address.0 + done as u64);
            let (_epoch, looked) = first.take().unwrap_or_else(|| {
                let epoch = self.enter();
                (epoch, self.hit(request.address, access))
            });
            let left = CHUNK.min(len - done);
            let piece = match looked {
                Ok(piece) => piece.at_most(left),
                Err(missed) => self
                    .resolve(&request, left, missed)
                    .map_err(|fault| Partial { done, fault })?,
            };
            copy(done, piece);
            done += piece.len;
        }
        Ok(())
    }

    fn atomically<T, R>(
        &self,
        address: Iova,
        access: Access,
        operate: impl FnOnce(VolatileSlice<'_>) -> Result<R, vm_memory::VolatileMemoryError>,
    ) -> Result<R, Fault> {
        let request = self.request(address, access);
        let size = size_of::<T>();
        self.check_range(&request, size)?;
        if !address.is_aligned(size as u64) {
            return Err(request.fault(FaultReason::Misaligned));
        }
        let _epoch = self.enter();
        let piece = self.resolve(&request, size, None)?;
        // SAFETY: the epoch keeps the piece's memory reachable to the end of the access.
        let memory = unsafe { VolatileSlice::new(piece.host.as_ptr(), piece.len) };
        operate(memory).map_err(|_| request.fault(FaultReason::Misaligned))
    }

    /// Begins an epoch that ends with the guard.
    #[inline]
    pub(crate) fn enter(&self) -> EpochGuard<'_> {
        self.begin_epoch();
        EpochGuard(&self.slot)
    }

    /// Enters an epoch; [`end_epoch`](Self::end_epoch) must follow.
    #[inline]
    pub(crate) fn begin_epoch(&self) {
        if !self.slot.reenter(&self.epochs, self.era.get()) {
            self.begin_era();
        }
    }

    #[cold]
    fn begin_era(&self) {
        loop {
            let era = self.slot.enter(&self.epochs);
            if self.recent.begin(era) {
                return self.era.set(era);
            }
            // Not while a drain may wait: there may be many pages to forget.
            self.slot.leave();
            self.recent.empty(era);
        }
    }

    /// Ends the epoch.
    #[inline]
    pub(crate) fn end_epoch(&self) {
        self.slot.leave();
    }
}

impl Drop for DmaHandle {
    fn drop(&mut self) {
        self.slot.park();
        if let Some(behind) = self.behind.take() {
            behind.iotlb.part(behind.lookups);
        }
    }
}

/// Ends the epoch when dropped.
pub(crate) struct EpochGuard<'a>(&'a EpochSlot);

impl Drop for EpochGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}
