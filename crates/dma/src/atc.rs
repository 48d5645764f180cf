//! A device's own translation cache (Address Translation Services, PCI Express 10).
//!
//! A device with an [`Atc`] asks the unit for translations, keeps them, and then accesses memory
//! with addresses that are translated already. The unit trusts it to stop when told: that is what
//! the invalidation and its [`Acknowledgement`] are for.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use vm_iommu_pagetable::{AttributeFlags, Attributes};
use vm_iommu_spec::{
    Access, AddressType, DmaRequest, Fault, FaultReason, Iova, Pasid, PhysAddr, RequesterId,
};
use vm_memory::VolatileSlice;

use crate::handle::{CHUNK, Piece};
use crate::{Acknowledgement, DeviceTlb, DmaHandle, DmaPort, Partial, Translation};

/// How large a device's translation cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtcConfig {
    /// The number of translations kept; 0 turns the cache off, and each access asks.
    pub entries: usize,
}

impl Default for AtcConfig {
    fn default() -> Self {
        Self { entries: 64 }
    }
}

/// What a device's translation cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AtcCounters {
    /// Translations found.
    pub hits: u64,
    /// Translation requests sent to the unit.
    pub requests: u64,
    /// Translations that made room for others.
    pub evictions: u64,
    /// Invalidations received.
    pub invalidations: u64,
}

/// The translation cache of a function, for its requests with one PASID or without. Attach it to
/// the unit as its [`DeviceTlb`].
pub struct Atc {
    port: Arc<DmaPort>,
    pasid: Option<Pasid>,
    config: AtcConfig,
    /// Held for moments, and never while the unit is asked.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pages that do not overlap, by their first address.
    pages: BTreeMap<Iova, Translation>,
    /// The pages in the order of their insertion; the first is evicted next.
    order: VecDeque<Iova>,
    /// Pages in use beyond one access, by the number of their [`AtcPage`].
    held: BTreeMap<u64, Held>,
    next: u64,
    counters: AtcCounters,
}

struct Held {
    range: RangeInclusive<Iova>,
    /// What is owed once it is not held any more.
    owed: Vec<Arc<Acknowledgement>>,
}

impl Atc {
    /// An empty cache for the requests of `port`, those with `pasid` if there is one.
    pub fn new(port: &Arc<DmaPort>, pasid: Option<Pasid>, config: AtcConfig) -> Arc<Self> {
        Arc::new(Self {
            port: Arc::clone(port),
            pasid,
            config,
            state: Mutex::default(),
        })
    }

    /// A handle whose accesses use the cache.
    pub fn handle(self: &Arc<Self>) -> AtcHandle {
        AtcHandle {
            handle: match self.pasid {
                None => self.port.handle(),
                Some(pasid) => self.port.handle_with_pasid(pasid),
            },
            atc: Arc::clone(self),
        }
    }

    /// Forgets everything, as when ATS is disabled or the function is reset.
    pub fn clear(&self) {
        let mut state = self.state();
        state.counters.invalidations += 1;
        state.pages.clear();
        state.order.clear();
    }

    /// What the cache did so far.
    pub fn counters(&self) -> AtcCounters {
        self.state().counters
    }

    /// The translation for `request`, from the cache or the unit; tells `used` of it before any
    /// invalidation can follow. The caller is inside an epoch.
    fn translate<R>(
        &self,
        request: &DmaRequest,
        mut used: impl FnMut(&mut State, Iova, Translation) -> R,
    ) -> Result<R, Fault> {
        if let Some(reason) = self.port.refusal() {
            return Err(request.fault(reason));
        }
        for _ in 0..ATTEMPTS {
            let before = {
                let mut state = self.state();
                if let Some((page, found)) = state.find(request) {
                    state.counters.hits += 1;
                    return Ok(used(&mut state, page, found));
                }
                state.counters.requests += 1;
                state.counters.invalidations
            };
            let asked = DmaRequest {
                address_type: AddressType::TranslationRequest,
                ..*request
            };
            let answer = match &self.port.upstream().remapper {
                None => identity(request.address),
                Some(remapper) => remapper.translate(&*remapper.bind(&asked)?, &asked)?,
            };
            let page = request.address.align_down(1 << answer.page_shift);
            let mut state = self.state();
            // What was invalidated since is not used: the invalidation may be complete.
            if state.counters.invalidations == before {
                state.insert(self.config.entries, page, answer);
                return Ok(used(&mut state, page, answer));
            }
        }
        Err(request.fault(FaultReason::Contended))
    }

    /// Memory behind a translated address, with the checks of the unit. The caller is inside an
    /// epoch.
    fn translated(
        &self,
        request: &DmaRequest,
        output: PhysAddr,
        len: usize,
    ) -> Result<Piece, Fault> {
        let upstream = self.port.upstream();
        if let Some(reason) = self.port.refusal() {
            return Err(request.fault(reason));
        }
        if let Some(remapper) = &upstream.remapper {
            let translated = DmaRequest {
                address: Iova(output.0),
                address_type: AddressType::Translated,
                ..*request
            };
            let space = remapper.bind(&translated)?;
            remapper.translate(&space, &translated)?;
        }
        let run = upstream
            .output
            .resolve(output)
            .map_err(|reason| request.fault(reason))?;
        let offset = output.0 - run.start.0;
        let len = len.min((run.len - offset) as usize).min(CHUNK);
        if request.access.writes() && upstream.output.logs_writes() {
            upstream.output.mark_written(output, len as u64);
        }
        // SAFETY: `offset` is within the run.
        let host = unsafe { run.host.add(offset as usize) };
        Ok(Piece { host, len })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a translation is asked for again because it was invalidated meanwhile.
const ATTEMPTS: usize = 8;

/// Without a unit, addresses are physical.
fn identity(address: Iova) -> Translation {
    Translation {
        output: PhysAddr(address.align_down(0x1000).0),
        page_shift: 12,
        permissions: Access::READ | Access::WRITE,
        attributes: Attributes::default(),
    }
}

impl State {
    /// The page that holds the address of `request` and allows its access.
    fn find(&self, request: &DmaRequest) -> Option<(Iova, Translation)> {
        let (page, found) = self.pages.range(..=request.address).next_back()?;
        let within = last_of(*page, found) >= request.address;
        (within && found.permissions.contains(request.access)).then_some((*page, *found))
    }

    fn insert(&mut self, capacity: usize, page: Iova, translation: Translation) {
        if capacity == 0 {
            return;
        }
        self.remove(&(page..=last_of(page, &translation)));
        while self.pages.len() >= capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.pages.remove(&oldest);
            self.counters.evictions += 1;
        }
        self.pages.insert(page, translation);
        self.order.push_back(page);
    }

    /// Removes whatever overlaps `range`.
    fn remove(&mut self, range: &RangeInclusive<Iova>) {
        let before = self.pages.len();
        self.pages
            .retain(|page, kept| page > range.end() || last_of(*page, kept) < *range.start());
        if self.pages.len() != before {
            let pages = &self.pages;
            self.order.retain(|page| pages.contains_key(page));
        }
    }
}

/// Whether the page is reached by untranslated requests alone, as the answer to the translation
/// request says (U, PCI Express 10.2.3): the device asks for it, and sends them then.
fn is_untranslated_only(translation: &Translation) -> bool {
    let flags = translation.attributes.flags;
    flags.contains(AttributeFlags::UNTRANSLATED_ONLY)
}

fn last_of(page: Iova, translation: &Translation) -> Iova {
    Iova(page.0 | ((1 << translation.page_shift) - 1))
}

impl DeviceTlb for Atc {
    fn invalidate(
        &self,
        _requester: RequesterId,
        pasid: Option<Pasid>,
        range: RangeInclusive<Iova>,
        done: Acknowledgement,
    ) {
        if pasid != self.pasid {
            return;
        }
        let done = Arc::new(done);
        let mut state = self.state();
        state.counters.invalidations += 1;
        state.remove(&range);
        // Accesses in flight are inside epochs, which the unit drains. Pages that are held are not.
        for held in state.held.values_mut() {
            if held.range.start() <= range.end() && held.range.end() >= range.start() {
                held.owed.push(Arc::clone(&done));
            }
        }
    }
}

/// A device's, or one queue's, hand on memory through an [`Atc`]. Each access is in flight from
/// its look into the cache to the end of its copy, and drained as any other.
pub struct AtcHandle {
    handle: DmaHandle,
    atc: Arc<Atc>,
}

impl AtcHandle {
    /// Reads `buffer.len()` bytes from `address`.
    ///
    /// # Errors
    /// The fault that stopped it and the bytes read before.
    pub fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), Partial> {
        self.transfer(address, buffer.len(), Access::READ, |done, memory| {
            memory.copy_to(&mut buffer[done..done + memory.len()]);
        })
    }

    /// Writes `data` to `address`.
    ///
    /// # Errors
    /// The fault that stopped it and the bytes written before.
    pub fn write(&self, address: Iova, data: &[u8]) -> Result<(), Partial> {
        self.transfer(address, data.len(), Access::WRITE, |done, memory| {
            memory.copy_from(&data[done..done + memory.len()]);
        })
    }

    /// Holds the page of `address` for `access`, as a device does that programs a copy with
    /// translated addresses and looks away. An invalidation of the page is complete only after it
    /// was dropped, or after the embedder let the unit give up waiting.
    ///
    /// # Errors
    /// The fault; [`FaultReason::UntranslatedOnly`] if translated requests may not reach the page.
    pub fn hold(&self, address: Iova, access: Access) -> Result<AtcPage, Fault> {
        let request = self.handle.request(address, access);
        self.handle.check_range(&request, 1)?;
        let _epoch = self.handle.enter();
        let held = self.atc.translate(&request, |state, page, translation| {
            if is_untranslated_only(&translation) {
                return Err(request.fault(FaultReason::UntranslatedOnly));
            }
            let number = state.next;
            state.next += 1;
            let range = page..=last_of(page, &translation);
            let held = Held {
                range: range.clone(),
                owed: Vec::new(),
            };
            state.held.insert(number, held);
            Ok(AtcPage {
                atc: Arc::clone(&self.atc),
                number,
                range,
                translation,
            })
        });
        held?
    }

    /// Reads from a held page, `offset` bytes from its start.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`FaultReason::AddressWrap`] beyond the end of the page.
    pub fn read_held(&self, page: &AtcPage, offset: u64, buffer: &mut [u8]) -> Result<(), Partial> {
        self.transfer_held(page, offset, buffer.len(), Access::READ, |done, memory| {
            memory.copy_to(&mut buffer[done..done + memory.len()]);
        })
    }

    /// Writes to a held page, `offset` bytes from its start.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`FaultReason::AddressWrap`] beyond the end of the page.
    pub fn write_held(&self, page: &AtcPage, offset: u64, data: &[u8]) -> Result<(), Partial> {
        self.transfer_held(page, offset, data.len(), Access::WRITE, |done, memory| {
            memory.copy_from(&data[done..done + memory.len()]);
        })
    }

    fn transfer(
        &self,
        address: Iova,
        len: usize,
        access: Access,
        mut copy: impl FnMut(usize, VolatileSlice<'_>),
    ) -> Result<(), Partial> {
        let mut request = self.handle.request(address, access);
        let mut done = 0;
        self.handle
            .check_range(&request, len)
            .map_err(|fault| Partial { done, fault })?;
        while done < len {
            request.address = Iova(address.0 + done as u64);
            let _epoch = self.handle.enter();
            let stopped = |fault| Partial { done, fault };
            let found = |_: &mut State, page: Iova, found: Translation| (page, found);
            let (page, found) = self.atc.translate(&request, found).map_err(stopped)?;
            let offset = request.address.0 - page.0;
            let rest = (1_u64 << found.page_shift) - offset;
            let len = (len - done).min(rest as usize);
            let piece = if is_untranslated_only(&found) {
                self.handle.resolve(&request, len.min(CHUNK), None)
            } else {
                let output = PhysAddr(found.output.0 + offset);
                self.atc.translated(&request, output, len)
            };
            let piece = piece.map_err(stopped)?;
            // SAFETY: the epoch keeps the piece's memory reachable to the end of the copy.
            copy(done, unsafe {
                VolatileSlice::new(piece.host.as_ptr(), piece.len)
            });
            done += piece.len;
        }
        Ok(())
    }

    fn transfer_held(
        &self,
        page: &AtcPage,
        offset: u64,
        len: usize,
        access: Access,
        mut copy: impl FnMut(usize, VolatileSlice<'_>),
    ) -> Result<(), Partial> {
        let mut request = self.handle.request(*page.range.start(), access);
        let mut done = 0;
        let size = 1_u64 << page.translation.page_shift;
        let end = offset.checked_add(len as u64);
        let refusal = match end {
            Some(end) if end <= size => {
                (!page.translation.permissions.contains(access)).then_some(FaultReason::NotMemory)
            }
            _ => Some(FaultReason::AddressWrap),
        };
        if let Some(reason) = refusal {
            let fault = request.fault(reason);
            return Err(Partial { done, fault });
        }
        while done < len {
            let at = offset + done as u64;
            request.address = Iova(page.range.start().0 + at);
            let _epoch = self.handle.enter();
            let output = PhysAddr(page.translation.output.0 + at);
            let piece = self
                .atc
                .translated(&request, output, len - done)
                .map_err(|fault| Partial { done, fault })?;
            // SAFETY: as in `transfer`.
            copy(done, unsafe {
                VolatileSlice::new(piece.host.as_ptr(), piece.len)
            });
            done += piece.len;
        }
        Ok(())
    }
}

/// A page that a device holds beyond one access; see [`AtcHandle::hold`].
pub struct AtcPage {
    atc: Arc<Atc>,
    number: u64,
    range: RangeInclusive<Iova>,
    translation: Translation,
}

impl AtcPage {
    /// The input addresses of the page.
    pub fn range(&self) -> RangeInclusive<Iova> {
        self.range.clone()
    }

    /// Where it leads, and what may be done there.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }
}

impl Drop for AtcPage {
    fn drop(&mut self) {
        let held = self.atc.state().held.remove(&self.number);
        // Acknowledged outside of the lock.
        drop(held);
    }
}
