//! From a request to host memory: what is remembered, what is cached, and what the unit says.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

use vm_iommu_pagetable::Attributes;
use vm_iommu_spec::{Access, DmaRequest, Fault, Iova, PhysAddr};

use super::piece::{Output, Piece, piece_of, piece_of_page};
use super::{CHUNK, DmaHandle};
use crate::iotlb::{Lookups, View};
use crate::{DmaPort, DmaRemapper, FillToken, Iotlb, IotlbConfig, Space, Translation};

/// The pages that are cached for writing while writes are logged, a power of two in bytes.
const LOGGED_SHIFT: u8 = 12;

/// What a handle behind a unit knows of it.
pub(super) struct Behind {
    pub(super) iotlb: Arc<Iotlb>,
    /// Where the handle counts its lookups.
    pub(super) lookups: Arc<Lookups>,
    /// The part of the cache that the requester's space has, and the era in which that was found.
    view: Cell<(u64, View)>,
}

impl Behind {
    pub(super) fn new(remapper: &dyn DmaRemapper, port: &DmaPort) -> Self {
        let iotlb = match port.caches() {
            true => Arc::clone(remapper.iotlb()),
            false => Iotlb::new(IotlbConfig { sets: 0 }),
        };
        Self {
            lookups: iotlb.join(),
            iotlb,
            view: Cell::default(),
        }
    }
}

/// The outcome of the last binding: good as long as the port's word stays and the space is fresh.
pub(super) struct Bound {
    word: u64,
    space: Arc<Space>,
}

/// Leave to cache what is found after a lookup that missed; none where nothing was looked up.
pub(crate) type Missed = Option<FillToken>;
/// The outcome of [`DmaHandle::hit`].
pub(super) type Looked = Result<Piece, Missed>;

impl DmaHandle {
    /// Host memory for the `len` bytes from `address`, if a page that this handle used in this
    /// era holds them all and allows `access`. The caller is inside an epoch.
    ///
    /// What the slow path checks besides, a remembered page answers by being there: it holds no
    /// interrupt address, and a range within it cannot wrap.
    #[inline]
    pub(crate) fn remembered(
        &self,
        address: Iova,
        len: usize,
        access: Access,
    ) -> Option<NonNull<u8>> {
        let host = self.recent.find(address, len, access)?;
        if let Some(behind) = &self.behind {
            behind.lookups.count(true);
        }
        Some(host)
    }

    /// The cached page that holds `address` and allows `access`: host memory from there to the
    /// end of the page. The caller is inside an epoch. As [`remembered`](Self::remembered), it
    /// answers all checks.
    ///
    /// # Errors
    /// What [`resolve`](Self::resolve) needs to go on.
    #[inline]
    pub(crate) fn hit(&self, address: Iova, access: Access) -> Looked {
        let Some(behind) = &self.behind else {
            return Err(None);
        };
        let (era, view) = behind.view.get();
        if era != self.era.get() {
            return Err(None);
        }
        let Some(entry) = behind.iotlb.find_in(view, address, access) else {
            return Err(Some(behind.iotlb.token(view)));
        };
        behind.lookups.count(true);
        self.recent.remember(address, &entry);
        Ok(piece_of_page(&entry, address))
    }

    /// Host memory for the `len` bytes from `address`, if one cached page holds them all
    /// and they may be copied in one epoch.
    ///
    /// # Errors
    /// What was found for their start.
    #[inline]
    pub(super) fn whole_hit(
        &self,
        address: Iova,
        len: usize,
        access: Access,
    ) -> Result<NonNull<u8>, Looked> {
        match self.hit(address, access) {
            Ok(piece) if len <= piece.len.min(CHUNK) => Ok(piece.host),
            looked => Err(looked),
        }
    }

    /// Host memory for the start of `request`, at most `len` bytes; `missed` is what looking it up
    /// in this epoch yielded, if that was done. The caller is inside an epoch and did
    /// [`check_range`](Self::check_range).
    pub(crate) fn resolve(
        &self,
        request: &DmaRequest,
        len: usize,
        missed: Missed,
    ) -> Result<Piece, Fault> {
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
        let piece = match (&self.port.upstream().remapper, &self.behind) {
            (Some(remapper), Some(behind)) => {
                self.remap(remapper.as_ref(), behind, word, request, len, missed)?
            }
            _ => self.direct(request, len)?,
        };
        Ok(piece.at_most(len))
    }

    /// Memory where addresses are physical already.
    fn direct(&self, request: &DmaRequest, len: usize) -> Result<Piece, Fault> {
        let address = PhysAddr(request.address.0);
        let output = self.output(request, address)?;
        let piece = piece_of(&output);
        let mut page = Translation {
            output: address.align_down(1 << LOGGED_SHIFT),
            page_shift: LOGGED_SHIFT,
            permissions: Access::READ | Access::WRITE,
            attributes: Attributes::default(),
        };
        self.log_write(request, address, piece.len.min(len), &mut page);
        if !request.probe
            && let Some(entry) = output.cacheable(request.address, &page)
        {
            self.recent.remember(request.address, &entry);
        }
        Ok(piece)
    }

    /// Logs that `len` bytes from `output` are about to be written, if `request` writes them and
    /// writes are logged; `page` is then what may be kept of the translation.
    fn log_write(
        &self,
        request: &DmaRequest,
        output: PhysAddr,
        len: usize,
        page: &mut Translation,
    ) {
        let space = &self.port.upstream().output;
        if !space.logs_writes() {
            return;
        }
        if !request.access.writes() {
            page.permissions.remove(Access::WRITE);
            return;
        }
        page.output = output.align_down(1 << LOGGED_SHIFT);
        page.page_shift = page.page_shift.min(LOGGED_SHIFT);
        if !request.probe {
            space.mark_written(output, len as u64);
        }
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
        behind: &Behind,
        word: u64,
        request: &DmaRequest,
        len: usize,
        mut missed: Missed,
    ) -> Result<Piece, Fault> {
        let mut bound = self.bound.borrow_mut();
        let bound = match &mut *bound {
            Some(bound) if bound.word == word && !bound.space.is_stale() => &*bound,
            other => {
                *other = None;
                missed = None;
                &*other.insert(Bound {
                    word,
                    space: remapper.bind(request)?,
                })
            }
        };
        let era = self.era.get();
        let token = match missed {
            Some(token) => token,
            None => {
                let view = behind.iotlb.view(bound.space.tag());
                behind.view.set((era, view));
                if let Some(entry) = behind.iotlb.find_in(view, request.address, request.access) {
                    behind.lookups.count(true);
                    self.recent.remember(request.address, &entry);
                    return Ok(piece_of_page(&entry, request.address));
                }
                behind.iotlb.token(view)
            }
        };
        behind.lookups.count(false);
        let mut translation = remapper.translate(&bound.space, request)?;
        let offset = request.address.offset_in(1 << translation.page_shift);
        let address = PhysAddr(translation.output.0 + offset);
        let output = self.output(request, address)?;
        let piece = piece_of(&output);
        let page_rest = (1_u64 << translation.page_shift) - offset;
        let piece = piece.at_most(page_rest as usize);
        self.log_write(request, address, piece.len.min(len), &mut translation);
        if !request.probe
            && behind.iotlb.is_enabled()
            && let Some(entry) = output.cacheable(request.address, &translation)
        {
            // What a space says that became stale since it was looked at is not cached: the
            // invalidation of its translations may have been before the leave to insert.
            if !bound.space.is_stale() {
                behind.iotlb.insert(token, entry);
            }
            self.recent.remember(request.address, &entry);
        }
        Ok(piece)
    }
}
