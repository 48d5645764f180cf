//! The map of physical memory that a kernel is given.

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{CONVENTIONAL_END, EXTENDED_START};
use crate::layout;

/// What a range of addresses is for, with the type numbers of ACPI's address map (ACPI 6.5,
/// 15.1), which the E820 map, PVH and multiboot share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be used: firmware data, tables, ECAM.
    Reserved = 2,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: GuestAddress,
    /// Length in bytes, never 0.
    pub size: u64,
    /// What it is for.
    pub kind: MapKind,
}

impl MapEntry {
    fn new(start: u64, end: u64, kind: MapKind) -> Self {
        Self {
            start: GuestAddress(start),
            size: end - start,
            kind,
        }
    }
}

/// First address past the RAM that begins at 0.
pub fn low_ram_end(memory: &GuestMemoryMmap) -> GuestAddress {
    memory
        .find_region(GuestAddress(0))
        .map_or(GuestAddress(0), |region| {
            region.last_addr().unchecked_add(1)
        })
}

/// The memory map of a machine with this RAM, in ascending order.
///
/// The legacy hole below 1 MiB holds firmware data and the ACPI tables and is reserved, as is the
/// ECAM window, which Linux uses only if the firmware's map leaves no doubt. Device registers,
/// the remapping unit's above all, are absent: Linux must find them free to claim.
pub fn memory_map(memory: &GuestMemoryMmap) -> Vec<MapEntry> {
    let mut map = Vec::new();
    for region in memory.iter() {
        let start = region.start_addr().0;
        let end = region.last_addr().0.saturating_add(1);
        if start < EXTENDED_START.0 {
            if start < CONVENTIONAL_END.0 {
                let end = end.min(CONVENTIONAL_END.0);
                map.push(MapEntry::new(start, end, MapKind::Ram));
            }
            map.push(MapEntry::new(
                CONVENTIONAL_END.0,
                EXTENDED_START.0,
                MapKind::Reserved,
            ));
            if end > EXTENDED_START.0 {
                map.push(MapEntry::new(EXTENDED_START.0, end, MapKind::Ram));
            }
        } else {
            map.push(MapEntry::new(start, end, MapKind::Ram));
        }
    }
    map.push(MapEntry::new(
        *layout::ECAM.start(),
        *layout::ECAM.end() + 1,
        MapKind::Reserved,
    ));
    map.push(MapEntry::new(
        layout::KVM_IDENTITY_MAP,
        layout::KVM_TSS + 3 * 0x1000,
        MapKind::Reserved,
    ));
    map.sort_by_key(|entry| entry.start);
    map
}
