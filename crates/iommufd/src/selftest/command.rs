//! The structure of the test calls, and what they do.

use std::any::Any;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_iommu_spec::Pasid;

use super::access::TestAccess;
use super::exported::TestMemory;
use super::nested::NestedDomain;
use super::{Mock, dirty};
use crate::caller::{CallerFile, NewFile, PAGE_SIZE, Place, Reply};
use crate::ioas::Owner;
use crate::memory::Run;
use crate::object::{Object, PageRequest};
use crate::ownership::Table;
use crate::uapi::{Call, Plain, request};
use crate::{Context, Errno};

/// The request number of the test calls.
pub const IOMMU_TEST_CMD: u32 = request(0xa0);

/// Linux `MOCK_FLAGS_ACCESS_SYZ`: addresses are given as the number of an area and an offset.
pub(super) const SYZKALLER: u32 = 1 << 16;

/// What a structure must have at least: all but the padding.
const LEAST: usize = offset_of!(TestCommand, padding);

/// Linux `struct iommu_test_cmd`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TestCommand {
    /// Its size in bytes.
    pub size: u32,
    /// An [`Operation`].
    pub operation: u32,
    /// The object that it is about.
    pub id: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Arguments and results, by the operation.
    pub arguments: [u8; 48],
    /// Ends what must be there.
    pub last: u32,
    /// Makes the size a multiple of 8.
    pub padding: u32,
}

// SAFETY: integers without gaps.
unsafe impl Plain for TestCommand {}

macro_rules! operations {
    ($($number:literal $name:ident $text:literal)*) => {
        /// What a test call does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Operation {
            $(#[doc = $text] $name = $number,)*
        }

        impl Operation {
            fn new(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    1 AddReserved "Reserves addresses of an address space."
    2 MockDomain "Makes a device and attaches it."
    3 CheckMap "Whether addresses lead to the caller's memory."
    4 CheckRefs "Whether pages of the caller are pinned so often."
    5 CreateAccess "Makes an access."
    6 DestroyAccessPages "Unpins pages of an access."
    7 AccessPages "Pins pages by an access."
    8 AccessRw "Reads or writes by an access."
    9 SetTempMemoryLimit "Limits the memory of a call."
    10 MockDomainReplace "Puts a device on another table."
    11 AccessReplaceIoas "Puts an access on another address space."
    12 MockDomainFlags "Makes a device with flags, and attaches it."
    13 Dirty "Marks pages as written."
    14 CheckIotlb "Whether the cache of a nested table has a value."
    15 TriggerIopf "A device asks for a page."
    16 CheckDeviceCache "Whether the cache of a device has a value."
    17 TriggerVevent "A device has an event for its vIOMMU."
    18 PasidAttach "Attaches a PASID."
    19 PasidReplace "Puts a PASID on another table."
    20 PasidDetach "Detaches a PASID."
    21 PasidCheckHwpt "Whether a PASID is on a table."
    22 DmabufGet "Exports memory."
    23 DmabufRevoke "Revokes exported memory, or restores it."
}

impl TestCommand {
    /// A command about an object, without arguments.
    pub fn new(operation: Operation, id: u32) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            operation: operation as u32,
            id,
            reserved: 0,
            arguments: [0; 48],
            last: 0,
            padding: 0,
        }
    }

    /// The 32 bits at an offset of the arguments.
    pub fn word(&self, offset: usize) -> u32 {
        let bytes = self
            .arguments
            .get(offset..)
            .and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// The 64 bits at an offset of the arguments.
    pub fn long(&self, offset: usize) -> u64 {
        let bytes = self
            .arguments
            .get(offset..)
            .and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Sets the 32 bits at an offset of the arguments.
    pub fn set_word(&mut self, offset: usize, value: u32) {
        let bytes = self
            .arguments
            .get_mut(offset..)
            .and_then(|bytes| bytes.first_chunk_mut());
        bytes
            .into_iter()
            .for_each(|bytes| *bytes = value.to_le_bytes());
    }

    /// Sets the 64 bits at an offset of the arguments.
    pub fn set_long(&mut self, offset: usize, value: u64) {
        let bytes = self
            .arguments
            .get_mut(offset..)
            .and_then(|bytes| bytes.first_chunk_mut());
        bytes
            .into_iter()
            .for_each(|bytes| *bytes = value.to_le_bytes());
    }
}

/// Carries out a test call.
pub(crate) fn ioctl(call: &Call<'_>) -> Result<Reply, Errno> {
    let command: TestCommand = call.read(LEAST)?;
    let operation = Operation::new(command.operation).ok_or(Errno::EOPNOTSUPP)?;
    let test = Test {
        call,
        context: call.context,
        command,
    };
    match operation {
        Operation::AddReserved => test.add_reserved(),
        Operation::MockDomain => test.make_device(0),
        Operation::MockDomainFlags => test.make_device(command.word(12)),
        Operation::MockDomainReplace => test.replace(),
        Operation::CheckMap => test.check_map(),
        Operation::CheckRefs => test.check_refs(),
        Operation::CheckIotlb => test.check_iotlb(),
        Operation::CheckDeviceCache => test.check_device_cache(),
        Operation::CreateAccess => test.create_access(),
        Operation::AccessReplaceIoas => {
            test.access(|access| access.replace(command.word(0)))?;
            Ok(Reply::default())
        }
        Operation::AccessPages => test.access_pages(),
        Operation::AccessRw => test.access_rw(),
        Operation::DestroyAccessPages => {
            test.access(|access| access.unpin(command.word(0)))?;
            Ok(Reply::default())
        }
        Operation::SetTempMemoryLimit => test.set_memory_limit(),
        Operation::Dirty => dirty::mark(&test),
        Operation::TriggerIopf => test.trigger_page_request(),
        Operation::TriggerVevent => test.trigger_event(),
        Operation::PasidAttach => test.pasid_attach(),
        Operation::PasidReplace => test.pasid_replace(),
        Operation::PasidDetach => test.pasid_detach(),
        Operation::PasidCheckHwpt => test.pasid_check_hwpt(),
        Operation::DmabufGet => test.export_memory(),
        Operation::DmabufRevoke => test.revoke_memory(),
    }
}

/// A test call.
pub(super) struct Test<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) context: &'a Arc<Context>,
    pub(super) command: TestCommand,
}

impl Test<'_> {
    pub(super) fn mock(&self) -> &Mock {
        self.context.shared.system.mock()
    }

    /// Where the caller's pages are that some bytes of it are on.
    pub(super) fn resolve(&self, address: u64, length: u64) -> Result<Vec<Run>, Errno> {
        let first = address & !(PAGE_SIZE - 1);
        let end = address.checked_add(length).ok_or(Errno::EINVAL)?;
        let end = end
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(Errno::EFAULT)?;
        match end - first {
            0 => Ok(Vec::new()),
            length => self.call.caller.process().resolve(first, length, false),
        }
    }

    fn add_reserved(&self) -> Result<Reply, Errno> {
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

    fn check_map(&self) -> Result<Reply, Errno> {
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

    fn check_refs(&self) -> Result<Reply, Errno> {
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

    fn check_iotlb(&self) -> Result<Reply, Errno> {
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

    fn check_device_cache(&self) -> Result<Reply, Errno> {
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

    fn create_access(&self) -> Result<Reply, Errno> {
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
    fn access<T>(&self, event: impl FnOnce(&TestAccess) -> Result<T, Errno>) -> Result<T, Errno> {
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

    fn access_pages(&self) -> Result<Reply, Errno> {
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
    fn same_pages(
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

    fn access_rw(&self) -> Result<Reply, Errno> {
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
    fn set_memory_limit(&self) -> Result<Reply, Errno> {
        let limit = self.command.word(0);
        if limit < 12 {
            return Err(Errno::EINVAL);
        }
        self.mock().memory_limit.store(limit, Ordering::Relaxed);
        Ok(Reply::default())
    }

    fn trigger_page_request(&self) -> Result<Reply, Errno> {
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

    fn trigger_event(&self) -> Result<Reply, Errno> {
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

    fn export_memory(&self) -> Result<Reply, Errno> {
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

    fn revoke_memory(&self) -> Result<Reply, Errno> {
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

/// PASID 0 is how requests without PASID are named.
pub(super) fn pasid(raw: u32) -> Result<Option<Pasid>, Errno> {
    match raw {
        0 => Ok(None),
        raw => Pasid::new(raw).map(Some).ok_or(Errno::EINVAL),
    }
}
