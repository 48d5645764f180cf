//! The PPR log (section 2.6) and the guest virtual APIC log (section 2.7).

use bitfield_struct::bitfield;

use crate::{Access, Iova, Pasid, RequesterId};

/// A page request of a device, as the Page Request Interface carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Who asks.
    pub requester: RequesterId,
    /// For which address space.
    pub pasid: Option<Pasid>,
    /// The page.
    pub address: Iova,
    /// What for: read, write, execute, privileged.
    pub access: Access,
    /// Page Request Group Index, 9 bits.
    pub group: u16,
    /// The last of its group.
    pub last: bool,
}

/// An entry of the PPR log, PAGE_SERVICE_REQUEST, 128 bits; the upper half is the address.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PprEntry {
    /// DeviceID, 16 bits.
    pub device: u16,
    /// Bits 15:0 of the PASID.
    #[bits(16)]
    pasid_low: u32,
    /// PPRTag, 10 bits: the group's index in bits 8:0, and in bit 9 whether it is the last of
    /// its group.
    #[bits(10)]
    pub tag: u16,
    /// Bits 19:16 of the PASID.
    #[bits(4)]
    pasid_high: u32,
    #[bits(3)]
    __: u8,
    /// NX: execute permission is asked for.
    pub execute: bool,
    /// R: read permission is asked for.
    pub read: bool,
    #[bits(2)]
    __: u8,
    /// W: write permission is asked for.
    pub write: bool,
    /// US: for user privilege.
    pub user: bool,
    /// RZ: reserved bits of the request were set.
    pub reserved_not_zero: bool,
    /// GN: the address is a guest virtual address, and the PASID valid.
    pub guest: bool,
    #[bits(3)]
    __: u8,
    /// PPRCode, 4 bits: 1.
    #[bits(4, default = PprEntry::PAGE_SERVICE_REQUEST)]
    pub code: u8,
}

impl PprEntry {
    /// The code of the only kind of entries.
    pub const PAGE_SERVICE_REQUEST: u8 = 1;
    /// The bit of a tag that marks the last request of a group.
    pub const LAST: u16 = 1 << 9;

    /// The entry, and its upper half, for `request`.
    pub const fn of_request(request: &PageRequest) -> (Self, u64) {
        let last = if request.last { Self::LAST } else { 0 };
        let entry = Self::new()
            .with_device(request.requester.source_id())
            .with_tag(request.group & 0x1ff | last)
            .with_read(request.access.reads())
            .with_write(request.access.writes());
        let entry = match request.pasid {
            None => entry,
            Some(pasid) => entry
                .with_pasid_low(pasid.raw() & 0xffff)
                .with_pasid_high(pasid.raw() >> 16)
                .with_guest(true)
                .with_execute(request.access.contains(Access::EXECUTE))
                .with_user(!request.access.contains(Access::PRIVILEGED)),
        };
        (entry, request.address.0 & !0xfff)
    }

    /// The PASID, 20 bits.
    pub const fn pasid(self) -> u32 {
        self.pasid_high() << 16 | self.pasid_low()
    }
}

/// The answer to a group of page requests, as the Page Request Interface carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PprResponse {
    /// Who asked.
    pub requester: RequesterId,
    /// The PASID, if the answer carries one.
    pub pasid: Option<Pasid>,
    /// Page Request Group Index, 9 bits.
    pub group: u16,
    /// The response code, 4 bits: 0 success, 1 invalid request, 15 failure.
    pub code: u8,
}

/// An entry of the guest virtual APIC log, GUEST_NR, 64 bits.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct GaEntry {
    /// GATag, 32 bits: that of the interrupt remapping table entry.
    pub tag: u32,
    /// DeviceID, 16 bits.
    pub device: u16,
    #[bits(12)]
    __: u16,
    /// GACode, 4 bits: 1.
    #[bits(4, default = GaEntry::GUEST_NR)]
    pub code: u8,
}

impl GaEntry {
    /// The code of the only kind of entries.
    pub const GUEST_NR: u8 = 1;
}
