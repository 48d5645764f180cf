//! The device table, and what requesters are bound to (sections 2.2.2 and 2.2.6).

use vm_iommu_dma::GuestRam;
use vm_iommu_dma::unit::{EntryCache, SpaceCache};
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::amd::{DeviceTableEntry, FaultReason, GuestTables, HostTables, InterruptSource};
use vm_iommu_spec::{Pasid, PhysAddr};

use crate::AmdViConfig;
use crate::control::Snapshot;

/// Whose space it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Everybody's, while the unit is disabled.
    Bypass,
    /// That of the requests of a device, with a PASID or without.
    Device(u16, Option<Pasid>),
}

/// What makes translations of one domain different: a guest may have given one domain to devices
/// whose entries do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) host: Option<HostTables>,
    pub(crate) guest: Option<(GuestTables, Pasid)>,
    /// What the guest CR3 table says.
    pub(crate) guest_root: Option<PhysAddr>,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) exclusion: bool,
    /// The entry's V is clear, its TV, or its IoCtl and SysMgt.
    pub(crate) rest: u8,
}

impl Kind {
    /// The address space that a guest invalidation names.
    pub(crate) fn pasid(&self) -> Option<Pasid> {
        self.guest.map(|(_, pasid)| pasid)
    }

    /// Guest tables whose addresses the host tables translate.
    pub(crate) fn is_nested(&self) -> bool {
        self.guest.is_some() && self.host.is_some()
    }
}

/// The spaces of requesters.
pub(crate) type DeviceCache = SpaceCache<Owner, Kind>;

/// What entries say about interrupts, by device; `None` if IV is clear.
pub(crate) type SourceCache = EntryCache<u16, Option<InterruptSource>>;

/// What the table says about one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DteLookup {
    /// Where its entry is, if the table is long enough.
    pub(crate) place: Option<PhysAddr>,
    /// The entry, or why there is none.
    pub(crate) entry: Result<DeviceTableEntry, FaultReason>,
}

impl DteLookup {
    /// Looks `device` up (section 2.2.2): the upper bits of its identifier select a segment.
    pub(crate) fn new(
        ram: &GuestRam,
        config: &AmdViConfig,
        snapshot: &Snapshot,
        device: u16,
    ) -> Self {
        let segments = snapshot
            .control
            .device_table_segments()
            .min(config.device_table_segments);
        let below = 16 - u32::from(segments);
        let segment = usize::from(device.checked_shr(below).unwrap_or(0));
        let index = u32::from(device) & ((1 << below) - 1);
        let table = snapshot.device_tables.get(segment).copied();
        let place = table
            .filter(|table| index < table.entries())
            .and_then(|table| {
                let offset = u64::from(index) * DeviceTableEntry::SIZE;
                table.address().checked_add(offset)
            });
        let Some(place) = place else {
            return Self {
                place: None,
                entry: Err(FaultReason::DeviceBeyondTable),
            };
        };
        let words = load_half(ram, place).zip(
            place
                .checked_add(16)
                .and_then(|place| load_half(ram, place)),
        );
        Self {
            place: Some(place),
            entry: match words {
                Some(([a, b], [c, d])) => Ok(DeviceTableEntry::from_words([a, b, c, d])),
                None => Err(FaultReason::DeviceTableAccess),
            },
        }
    }
}

/// Loads 128 bits that software changes as one. They are loaded by halves; the lower is loaded
/// again to see whether they changed in between.
pub(crate) fn load_half(ram: &GuestRam, place: PhysAddr) -> Option<[u64; 2]> {
    const ATTEMPTS: usize = 4;
    let upper = place.checked_add(8)?;
    let mut low = ram.load(place).ok()?;
    let mut high = ram.load(upper).ok()?;
    for _ in 0..ATTEMPTS {
        let again = ram.load(place).ok()?;
        if again == low {
            break;
        }
        low = again;
        high = ram.load(upper).ok()?;
    }
    Some([low, high])
}
