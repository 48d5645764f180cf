//! The structure of the test calls, and what they do.

mod operations;

use std::mem::offset_of;
use std::sync::Arc;

use vm_iommu_spec::Pasid;

use super::{Mock, dirty};
use crate::caller::{PAGE_SIZE, Reply};
use crate::memory::Run;
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
}

/// PASID 0 is how requests without PASID are named.
pub(super) fn pasid(raw: u32) -> Result<Option<Pasid>, Errno> {
    match raw {
        0 => Ok(None),
        raw => Pasid::new(raw).map(Some).ok_or(Errno::EINVAL),
    }
}
