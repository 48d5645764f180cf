//! The operations that are no more than a few lines each.

use std::any::Any;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{SYZKALLER, Test, TestCommand, pasid};
use crate::Errno;
use crate::caller::{CallerFile, NewFile, PAGE_SIZE, Place, Reply};
use crate::ioas::Owner;
use crate::object::{Object, PageRequest};
use crate::ownership::Table;
use crate::selftest::access::TestAccess;
use crate::selftest::dirty;
use crate::selftest::exported::TestMemory;
use crate::selftest::nested::NestedDomain;

impl Test<'_> {
    pub(super) fn add_reserved(&self) -> Result<Reply, Errno> {
        let (start, length) = (self.command.long(0), self.command.long(8));
        let reach = length.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = start.checked_add(reach).ok_or(Errno::EOVERFLOW)?;
        let mut state = self.context.lock();
        state
            .objects
            .visible_ioas_mut(self.command.id)?
            .ioas
            .reserve(start..=last, Owner::Test)?;
        Ok(Reply::default())
    }

    pub(super) fn check_map(&self) -> Result<Reply, Errno> {
        let (iova, length, address) = (
            self.command.long(0),
            self.command.long(8),
            self.command.long(16),
        );
        let hwpt = Arc::clone(self.context.lock().objects.paging(self.command.id)?);
        let domain = hwpt.domain();
        let page_size = dirty::mock(&*domain).ok_or(Errno::EINVAL)?.page_size();
        if (iova | length | address) & (page_size - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let frames = self.context.shared.system.frames();
        let first = address & !(PAGE_SIZE - 1);
        let mut at = first;
        for run in self.resolve(address, length)? {
            let mut offset = 0;
            while offset < run.length {
                let place = at + offset;
                if place >= address && place < address + length {
                    let within = (run.offset + offset) & (PAGE_SIZE - 1);
                    let page = run.offset + offset - within;
                    let expected = frames.address(run.backing.id(), page);
                    let expected = expected.map(|page| page.0 + within);
                    let found = domain.iova_to_phys((iova + (place - address)).into());
                    if expected.is_none() || found.map(|found| found.0) != expected {
                        return Err(Errno::EINVAL);
                    }
                }
                offset += page_size;
            }
            at += run.length;
        }
        Ok(Reply::default())
    }

    pub(super) fn check_refs(&self) -> Result<Reply, Errno> {
        let (length, address, refs) = (
            self.command.long(0),
            self.command.long(8),
            self.command.word(16),
        );
        if (length | address) & (PAGE_SIZE - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let frames = self.context.shared.system.frames();
        for run in self.resolve(address, length)? {
            for page in (run.offset..run.offset + run.length).step_by(PAGE_SIZE as usize) {
                if frames.pins(run.backing.id(), page) != u64::from(refs) {
                    return Err(Errno::EIO);
                }
            }
        }
        Ok(Reply::default())
    }

    pub(super) fn check_iotlb(&self) -> Result<Reply, Errno> {
        let hwpt = match self.context.lock().objects.get(self.command.id)? {
            Object::Nested(hwpt) => Arc::clone(hwpt),
            _ => return Err(Errno::ENOENT),
        };
        let domain = hwpt.domain();
        let domain = (domain.as_ref() as &dyn Any).downcast_ref::<NestedDomain>();
        let cached = domain.and_then(|domain| domain.cached(self.command.word(0) as usize));
        if cached == Some(self.command.word(4)) {
            Ok(Reply::default())
        } else {
            Err(Errno::EINVAL)
        }
    }

    pub(super) fn check_device_cache(&self) -> Result<Reply, Errno> {
        let state = self.context.lock();
        let requester = state.objects.device(self.command.id)?.device().requester();
        let cached = self
            .mock()
            .unit()
            .cache(requester, self.command.word(0) as usize);
        if cached == Some(self.command.word(4)) {
            Ok(Reply::default())
        } else {
            Err(Errno::EINVAL)
        }
    }

    pub(super) fn create_access(&self) -> Result<Reply, Errno> {
        let flags = self.command.word(4);
        if flags & !1 != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let access = TestAccess::new(self.context, self.command.id, flags & 1 != 0)?;
        let place = offset_of!(TestCommand, arguments) as u64;
        let place = self.call.argument.checked_add(place).ok_or(Errno::EFAULT)?;
        self.call.respond(&self.command)?;
        let file = NewFile {
            file: access,
            place: Place::At(place),
            close_on_exec: true,
        };
        Ok(Reply {
            value: 0,
            files: vec![file],
        })
    }

    /// Does something with the access whose descriptor the caller names.
    pub(super) fn access<T>(
        &self,
        event: impl FnOnce(&TestAccess) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let file = self
            .call
            .caller
            .file(self.command.id as i32)
            .map_err(|_| Errno::EBADFD)?;
        let CallerFile::Ours(file) = file else {
            return Err(Errno::EBADFD);
        };
        let access = (file.as_ref() as &dyn Any).downcast_ref::<TestAccess>();
        event(access.ok_or(Errno::EBADFD)?)
    }

    pub(super) fn access_pages(&self) -> Result<Reply, Errno> {
        let mut command = self.command;
        let (flags, length, address) = (command.word(0), command.long(16), command.long(24));
        if length > 16 << 20 {
            return Err(Errno::ENOMEM);
        }
        if flags & !(1 | SYZKALLER) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.access(|access| {
            let iova = access.address(command.long(8), flags);
            let check = |pages: &[crate::PinnedPage]| self.same_pages(pages, iova, address);
            access.pin(iova, length, flags & 1 != 0, &check, &mut |item| {
                command.set_word(4, item);
                self.call.respond(&command)
            })
        })?;
        Ok(Reply::default())
    }

    /// Whether pinned pages are those that the caller has at an address, unless that is 0.
    pub(super) fn same_pages(
        &self,
        pages: &[crate::PinnedPage],
        iova: u64,
        address: u64,
    ) -> Result<(), Errno> {
        if address == 0 {
            return Ok(());
        }
        let first = address.wrapping_sub(iova & (PAGE_SIZE - 1));
        let runs = self.resolve(first, pages.len() as u64 * PAGE_SIZE)?;
        let own = runs.iter().flat_map(|run| {
            let id = run.backing.id();
            (0..run.length / PAGE_SIZE).map(move |page| (id, run.offset + page * PAGE_SIZE))
        });
        let same = own
            .zip(pages)
            .all(|(own, page)| own == (page.backing, page.offset));
        if same { Ok(()) } else { Err(Errno::EBADE) }
    }

    pub(super) fn access_rw(&self) -> Result<Reply, Errno> {
        let command = &self.command;
        let (length, address, flags) = (command.long(8), command.long(16), command.word(24));
        if length > 16 << 20 {
            return Err(Errno::ENOMEM);
        }
        if flags & !(1 | 4 | SYZKALLER) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.access(|access| {
            let mut bytes = vec![0; length as usize];
            if flags & 1 != 0 {
                self.call.caller.read(address, &mut bytes)?;
                return access.write(access.address(command.long(0), flags), &bytes);
            }
            access.read(access.address(command.long(0), flags), &mut bytes)?;
            self.call.caller.write(address, &bytes)
        })?;
        Ok(Reply::default())
    }

    /// There is nothing to limit: pages are kept as runs.
    pub(super) fn set_memory_limit(&self) -> Result<Reply, Errno> {
        let limit = self.command.word(0);
        if limit < 12 {
            return Err(Errno::EINVAL);
        }
        self.mock().memory_limit.store(limit, Ordering::Relaxed);
        Ok(Reply::default())
    }

    pub(super) fn trigger_page_request(&self) -> Result<Reply, Errno> {
        let command = &self.command;
        let requester = {
            let state = self.context.lock();
            state.objects.device(command.word(0))?.device().requester()
        };
        let request = PageRequest {
            address: command.long(16),
            permissions: command.word(12),
            group: command.word(8),
            pasid: pasid(command.word(4))?,
            last: true,
        };
        self.context
            .report_page_requests(requester, vec![request], Box::new(|_| {}));
        Ok(Reply::default())
    }

    pub(super) fn trigger_event(&self) -> Result<Reply, Errno> {
        /// Linux `IOMMU_VEVENTQ_TYPE_SELFTEST`.
        const EVENTS: u32 = 0xbeef_beef;
        let requester = {
            let state = self.context.lock();
            state
                .objects
                .device(self.command.word(0))?
                .device()
                .requester()
        };
        let (viommu, virtual_id) = self.context.event_target(requester).ok_or(Errno::ENOENT)?;
        self.context
            .report_event(viommu, EVENTS, &(virtual_id as u32).to_le_bytes())?;
        Ok(Reply::default())
    }

    pub(super) fn export_memory(&self) -> Result<Reply, Errno> {
        let (length, flags) = (self.command.word(0), self.command.word(4));
        let memory = TestMemory::new(&self.context.shared.system, length.into())?;
        let close_on_exec = flags & libc::O_CLOEXEC as u32 != 0;
        let file = NewFile {
            file: memory,
            place: Place::Value,
            close_on_exec,
        };
        Ok(Reply {
            value: 0,
            files: vec![file],
        })
    }

    pub(super) fn revoke_memory(&self) -> Result<Reply, Errno> {
        let CallerFile::Ours(file) = self.call.caller.file(self.command.word(0) as i32)? else {
            return Err(Errno::EINVAL);
        };
        let memory = (file.as_ref() as &dyn Any).downcast_ref::<TestMemory>();
        memory
            .ok_or(Errno::EINVAL)?
            .set_revoked(self.command.word(4) != 0);
        Ok(Reply::default())
    }
}
