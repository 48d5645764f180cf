//! A device's hand on memory.

mod piece;

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Iova, MSI_WINDOW, MsiMessage, Pasid,
    PhysAddr,
};
use vm_memory::{AtomicAccess, Bytes, VolatileSlice};

pub(crate) use self::piece::Piece;
use self::piece::{Output, copy_in, copy_out, piece_of, piece_of_page};
use crate::iotlb::Lookups;
use crate::{DmaPort, DmaRemapper, DmaSession, EpochSlot, Epochs, Iotlb, Space};

/// The most bytes copied within one epoch, so that a drain ends soon.
pub(crate) const CHUNK: usize = 16 * 1024;

/// The pages that are cached for writing while writes are logged, a power of two in bytes.
const LOGGED_SHIFT: u8 = 12;

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
    bound: RefCell<Option<Bound>>,
    /// Where this handle counts its lookups, behind a unit.
    lookups: Option<Arc<Lookups>>,
}

/// The outcome of the last binding: good as long as the port's word stays and the space is fresh.
struct Bound {
    word: u64,
    space: Arc<Space>,
    iotlb: Arc<Iotlb>,
}

impl DmaHandle {
    pub(crate) fn new(port: Arc<DmaPort>, pasid: Option<Pasid>) -> Self {
        let epochs = Arc::clone(&port.upstream().epochs);
        let remapper = port.upstream().remapper.as_ref();
        let lookups = remapper.map(|remapper| remapper.iotlb().join());
        Self {
            slot: epochs.register(),
            port,
            epochs,
            pasid,
            bound: RefCell::default(),
            lookups,
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
        if let Some(host) = self.whole_hit(address, buffer.len(), Access::READ) {
            // SAFETY: the page holds as many bytes, and is memory while the epoch lasts.
            unsafe { copy_out(host, buffer) };
            return Ok(());
        }
        drop(epoch);
        self.read_pieces(address, buffer)
    }

    #[cold]
    fn read_pieces(&self, address: Iova, buffer: &mut [u8]) -> Result<(), Partial> {
        self.transfer(address, buffer.len(), Access::READ, |done, piece| {
            // SAFETY: the epoch keeps the piece's memory reachable to the end of the copy.
            unsafe { copy_out(piece.host, &mut buffer[done..done + piece.len]) };
        })
    }

    /// Writes `data` to `address`. An aligned doubleword without PASID to the interrupt address
    /// range is an interrupt.
    ///
    /// # Errors
    /// The fault that stopped it and the bytes written before.
    #[inline]
    pub fn write(&self, address: Iova, data: &[u8]) -> Result<(), Partial> {
        let epoch = self.enter();
        if let Some(host) = self.whole_hit(address, data.len(), Access::WRITE) {
            // SAFETY: as in `read`.
            unsafe { copy_in(host, data) };
            return Ok(());
        }
        drop(epoch);
        self.write_pieces(address, data)
    }

    #[cold]
    fn write_pieces(&self, address: Iova, data: &[u8]) -> Result<(), Partial> {
        if self.pasid.is_none()
            && MSI_WINDOW.contains(&address)
            && address.is_aligned(4)
            && let Ok(data) = <[u8; 4]>::try_from(data)
        {
            let message = MsiMessage {
                address: address.0,
                data: u32::from_le_bytes(data),
            };
            // In an epoch, so that whoever stops the function or invalidates the interrupt's
            // entry waits for it.
            let _epoch = self.enter();
            return self.port.signal_msi(message).map_err(|reason| Partial {
                done: 0,
                fault: self.request(address, Access::WRITE).fault(reason),
            });
        }
        self.transfer(address, data.len(), Access::WRITE, |done, piece| {
            // SAFETY: as in `read_pieces`.
            unsafe { copy_in(piece.host, &data[done..done + piece.len]) };
        })
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
            done += self.resolve(&request, len - done)?.len;
        }
        Ok(())
    }

    /// Says that no access follows soon, as before waiting for work: while all handles say so, an
    /// invalidation costs the guest no system call. The next access costs a full fence.
    pub fn park(&self) {
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
            return Err(request.fault(FaultReason::InterruptRange));
        }
        Ok(())
    }

    fn transfer(
        &self,
        address: Iova,
        len: usize,
        access: Access,
        mut copy: impl FnMut(usize, Piece),
    ) -> Result<(), Partial> {
        let mut request = self.request(address, access);
        let mut done = 0;
        self.check_range(&request, len)
            .map_err(|fault| Partial { done, fault })?;
        while done < len {
            request.address = Iova(address.0 + done as u64);
            let _epoch = self.enter();
            let piece = self
                .resolve(&request, CHUNK.min(len - done))
                .map_err(|fault| Partial { done, fault })?;
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
        let piece = self.resolve(&request, size)?;
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
        self.slot.enter(&self.epochs);
    }

    /// Ends the epoch.
    #[inline]
    pub(crate) fn end_epoch(&self) {
        self.slot.leave();
    }

    /// The cached page that holds `address` and allows `access`: host memory from there to the
    /// end of the page. The caller is inside an epoch.
    ///
    /// This is all that a hit costs. What the slow path checks besides, a cached page answers by
    /// being there: it holds no interrupt address, and a range within it cannot wrap.
    #[inline]
    pub(crate) fn hit(&self, address: Iova, access: Access) -> Option<Piece> {
        let bound = self.bound.borrow();
        let bound = bound.as_ref()?;
        if self.port.word() != bound.word || bound.space.is_stale() {
            return None;
        }
        let entry = bound.iotlb.find(bound.space.tag(), address, access)?;
        if let Some(lookups) = &self.lookups {
            lookups.count(true);
        }
        Some(piece_of_page(&entry, address))
    }

    /// Host memory for the `len` bytes from `address`, if one cached page holds them all and they
    /// may be copied in one epoch.
    #[inline]
    fn whole_hit(&self, address: Iova, len: usize, access: Access) -> Option<NonNull<u8>> {
        let piece = self.hit(address, access)?;
        (len <= piece.len.min(CHUNK)).then_some(piece.host)
    }

    /// Host memory for the start of `request`, at most `len` bytes. The caller is inside an
    /// epoch and did [`check_range`](Self::check_range).
    pub(crate) fn resolve(&self, request: &DmaRequest, len: usize) -> Result<Piece, Fault> {
        let word = self.port.word();
        // Who asks is decided here, together with what is remembered under the word: the
        // function may have been renumbered since the request was made up.
        let request = &DmaRequest {
            requester: DmaPort::requester_of(word),
            ..*request
        };
        if let Some(reason) = DmaPort::refusal_of(word) {
            return Err(request.fault(reason));
        }
        let piece = match &self.port.upstream().remapper {
            None => {
                let address = PhysAddr(request.address.0);
                let piece = piece_of(&self.output(request, address)?);
                self.log_write(request, address, piece.len.min(len));
                piece
            }
            Some(remapper) => self.remap(remapper.as_ref(), word, request, len)?,
        };
        Ok(Piece {
            len: piece.len.min(len),
            ..piece
        })
    }

    /// Logs that `len` bytes from `output` are about to be written, if `request` writes them and
    /// writes are logged. Whether they are.
    fn log_write(&self, request: &DmaRequest, output: PhysAddr, len: usize) -> bool {
        let space = &self.port.upstream().output;
        let logs = space.logs_writes();
        if logs && request.access.writes() && !request.probe {
            space.mark_written(output, len as u64);
        }
        logs
    }

    /// Host memory from `output` on.
    fn output(&self, request: &DmaRequest, output: PhysAddr) -> Result<Output, Fault> {
        match self.port.upstream().output.resolve(output) {
            Ok(run) => Ok(Output {
                run,
                offset: output.0 - run.start.0,
            }),
            Err(reason) => Err(request.fault(reason)),
        }
    }

    fn remap(
        &self,
        remapper: &dyn DmaRemapper,
        word: u64,
        request: &DmaRequest,
        len: usize,
    ) -> Result<Piece, Fault> {
        let mut bound = self.bound.borrow_mut();
        let bound = match &mut *bound {
            Some(bound) if bound.word == word && !bound.space.is_stale() => &*bound,
            other => {
                *other = None;
                &*other.insert(Bound {
                    word,
                    space: remapper.bind(request)?,
                    iotlb: Arc::clone(remapper.iotlb()),
                })
            }
        };
        let tag = bound.space.tag();
        let found = bound.iotlb.lookup(tag, request.address, request.access);
        if let Some(lookups) = &self.lookups {
            lookups.count(found.is_ok());
        }
        let token = match found {
            Ok(entry) => return Ok(piece_of_page(&entry, request.address)),
            Err(token) => token,
        };
        let mut translation = remapper.translate(&bound.space, request)?;
        let offset = request.address.offset_in(1 << translation.page_shift);
        let address = PhysAddr(translation.output.0 + offset);
        let output = self.output(request, address)?;
        let piece = piece_of(&output);
        let page_rest = (1_u64 << translation.page_shift) - offset;
        let piece = Piece {
            len: piece.len.min(page_rest as usize),
            ..piece
        };
        if self.log_write(request, address, piece.len.min(len)) {
            if request.access.writes() {
                translation.output = address.align_down(1 << LOGGED_SHIFT);
                translation.page_shift = translation.page_shift.min(LOGGED_SHIFT);
            } else {
                translation.permissions.remove(Access::WRITE);
            }
        }
        if !request.probe
            && let Some(entry) = output.cacheable(request.address, &translation)
        {
            bound.iotlb.insert(token, entry);
        }
        Ok(piece)
    }
}

impl Drop for DmaHandle {
    fn drop(&mut self) {
        self.slot.park();
        if let (Some(remapper), Some(lookups)) =
            (&self.port.upstream().remapper, self.lookups.take())
        {
            remapper.iotlb().part(lookups);
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
