//! Address spaces as objects.

use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_iommu_driver::iommu::Domain;
use vm_iommu_spec::Access;

use super::{Context, Object, State};
use crate::caller::{CallerFile, PAGE_SIZE};
use crate::ioas::{Element, Exported, Ioas, Mapping, Pages, Slice, Source, Unmap};
use crate::memory::FileBacking;
use crate::{Caller, Errno};

/// How often accesses are asked to let go of pages before that is given up.
const TRIES: u32 = 100;

/// An address space and the tables that show it.
#[derive(Debug)]
pub(crate) struct IoasObject {
    pub(crate) ioas: Ioas,
    /// Its tables, in the order in which they were made.
    pub(crate) tables: Vec<u32>,
}

impl IoasObject {
    pub(crate) fn add_table(&mut self, id: u32, domain: &Arc<dyn Domain>) -> Result<(), Errno> {
        self.ioas.add_domain(id, domain)?;
        self.tables.push(id);
        Ok(())
    }

    pub(crate) fn remove_table(&mut self, id: u32) {
        self.ioas.remove_domain(id);
        self.tables.retain(|table| *table != id);
    }
}

/// Where something is to be mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapRequest {
    pub(crate) ioas: u32,
    /// `None` for any place.
    pub(crate) iova: Option<u64>,
    pub(crate) length: u64,
    pub(crate) access: Access,
}

impl Context {
    pub(crate) fn create_ioas(&self) -> Result<u32, Errno> {
        let areas = Arc::clone(&self.shared.areas);
        let ioas = Ioas::new(self.shared.system.new_space(), areas);
        let object = IoasObject {
            ioas,
            tables: Vec::new(),
        };
        self.lock().objects.insert(Object::Ioas(Box::new(object)))
    }

    /// Maps memory of the caller.
    pub(crate) fn map(
        &self,
        caller: &dyn Caller,
        address: u64,
        request: MapRequest,
    ) -> Result<u64, Errno> {
        address
            .checked_add(request.length)
            .ok_or(Errno::EOVERFLOW)?;
        let source = Source::Memory {
            address: address & !(PAGE_SIZE - 1),
        };
        self.map_source(caller, source, address % PAGE_SIZE, request)
    }

    /// Maps a part of a file of the caller.
    pub(crate) fn map_file(
        &self,
        caller: &dyn Caller,
        descriptor: i32,
        start: u64,
        request: MapRequest,
    ) -> Result<u64, Errno> {
        let reach = request.length.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = start.checked_add(reach).ok_or(Errno::EOVERFLOW)?;
        let page = start & !(PAGE_SIZE - 1);
        let source = match caller.file(descriptor)? {
            CallerFile::Os(file) => {
                let backing = FileBacking::new(file)?;
                // As the kernel: what can be mapped without the program's mapping it is memory.
                if !backing.is_memory() {
                    return Err(Errno::EINVAL);
                }
                Source::File {
                    backing: Arc::new(backing),
                    start: page,
                }
            }
            CallerFile::Ours(file) => {
                let memory = exported(&*file).ok_or(Errno::EINVAL)?;
                if last >= memory.length() {
                    return Err(Errno::EINVAL);
                }
                memory.check()?;
                Source::Exported {
                    memory,
                    start: page,
                }
            }
        };
        self.map_source(caller, source, start % PAGE_SIZE, request)
    }

    fn map_source(
        &self,
        caller: &dyn Caller,
        source: Source,
        offset: u64,
        request: MapRequest,
    ) -> Result<u64, Errno> {
        let MapRequest {
            ioas,
            iova,
            length,
            access,
        } = request;
        if length == 0 || length > u64::MAX - PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        let count = (length + offset).div_ceil(PAGE_SIZE);
        let pages = Pages::new(
            Arc::clone(&self.shared.system),
            source,
            count,
            access.contains(Access::WRITE),
            caller.process(),
            self.account(caller),
        );
        let slice = Slice {
            start: offset,
            length,
        };
        let mapping = Mapping {
            elements: vec![Element { pages, slice }],
            iova,
            access,
        };
        self.lock()
            .objects
            .visible_ioas_mut(ioas)?
            .ioas
            .map(mapping)
    }

    /// Maps what is mapped elsewhere.
    pub(crate) fn copy(
        &self,
        source: u32,
        source_iova: u64,
        request: MapRequest,
    ) -> Result<u64, Errno> {
        let mut state = self.lock();
        let elements = state
            .objects
            .ioas(source)?
            .ioas
            .pages(source_iova, request.length)?;
        let MapRequest {
            ioas, iova, access, ..
        } = request;
        state.objects.visible_ioas_mut(ioas)?.ioas.map(Mapping {
            elements,
            iova,
            access,
        })
    }

    /// Unmaps whole areas; yields how many bytes that were.
    pub(crate) fn unmap(&self, ioas: u32, range: RangeInclusive<u64>) -> Result<u64, Errno> {
        let (mut start, last) = range.into_inner();
        let (mut unmapped, mut tries, mut asked) = (0, 0, None);
        loop {
            let users = {
                let mut state = self.lock();
                let object = state.objects.visible_ioas_mut(ioas)?;
                match object.ioas.unmap(&mut start, last, &mut unmapped)? {
                    Unmap::Done => return Ok(unmapped),
                    Unmap::Notify(range) => {
                        let first = *range.start();
                        tries = if asked == Some(first) { tries + 1 } else { 0 };
                        asked = Some(first);
                        (range, state.access_users(ioas))
                    }
                }
            };
            if tries > TRIES {
                return Err(Errno::EDEADLK);
            }
            let (range, users) = users;
            for user in users {
                user.unmap(*range.start(), range.end() - range.start() + 1);
            }
        }
    }

    /// Cuts areas at the ends of a range and unmaps it, as VFIO type 1 does.
    pub(crate) fn unmap_cut(&self, ioas: u32, range: RangeInclusive<u64>) -> Result<u64, Errno> {
        {
            let mut state = self.lock();
            let object = state.objects.visible_ioas_mut(ioas)?;
            if !object.ioas.large_pages() {
                object.ioas.split(*range.end())?;
                if let Some(before) = range.start().checked_sub(1) {
                    object.ioas.split(before)?;
                }
            }
        }
        self.unmap(ioas, range)
    }

    /// Has the caller's process own all that is mapped from files.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if anything else is mapped; [`ENOMEM`](Errno::ENOMEM) beyond its limit.
    pub(crate) fn change_process(&self, caller: &dyn Caller) -> Result<(), Errno> {
        let process = caller.process();
        let state = self.lock();
        let mut all: Vec<Arc<Pages>> = Vec::new();
        for area in state
            .objects
            .all_ioas()
            .flat_map(|object| object.ioas.areas())
        {
            if !area.pages.is_file() {
                return Err(Errno::EINVAL);
            }
            all.push(Arc::clone(&area.pages));
        }
        all.sort_unstable_by_key(|pages| Arc::as_ptr(pages).addr());
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let ledger = self.shared.system.ledger();
        for (index, pages) in all.iter().enumerate() {
            let (owner, account, pinned) = pages.charged_to();
            if pinned > 0
                && owner != process.id()
                && let Err(error) = ledger.charge(account, &process, pinned)
            {
                for pages in &all[..index] {
                    let (owner, account, pinned) = pages.charged_to();
                    if owner != process.id() {
                        ledger.credit(account, &process, pinned);
                    }
                }
                return Err(error);
            }
        }
        all.iter().for_each(|pages| pages.move_to(&process));
        Ok(())
    }
}

impl State {
    /// Those who have pages of an address space and are to be told when they go.
    fn access_users(&self, ioas: u32) -> Vec<Arc<dyn super::AccessUser>> {
        let Ok(object) = self.objects.ioas(ioas) else {
            return Vec::new();
        };
        let accesses = object.ioas.accesses().into_iter();
        accesses
            .filter_map(|id| self.objects.access(id).ok()?.user.as_ref()?.upgrade())
            .collect()
    }
}

impl super::Objects {
    /// The address space that a caller names.
    pub(crate) fn visible_ioas_mut(&mut self, id: u32) -> Result<&mut IoasObject, Errno> {
        self.ioas(id)?;
        self.ioas_mut(id)
    }
}

#[cfg(feature = "selftest")]
fn exported(file: &dyn crate::ContextFile) -> Option<Arc<Exported>> {
    crate::selftest::exported(file)
}

/// Nothing but the mock exports memory yet.
#[cfg(not(feature = "selftest"))]
fn exported(_: &dyn crate::ContextFile) -> Option<Arc<Exported>> {
    None
}
