//! The ACPI table that tells a guest about its units: DMAR (chapter 8).

use vm_iommu_spec::{PhysAddr, RequesterId};

/// The DMAR table of a machine (section 8.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// Width of guest physical addresses in bits.
    pub host_address_width: u8,
    /// INTR_REMAP: the platform supports interrupt remapping; all units must.
    pub interrupt_remapping: bool,
    /// X2APIC_OPT_OUT: asks the guest not to use x2APIC mode.
    pub x2apic_opt_out: bool,
    /// DMA_CTRL_PLATFORM_OPT_IN_FLAG: asks the guest to protect itself from external devices.
    pub dma_control_opt_in: bool,
    /// The units. One that [includes all functions](Drhd::include_all) must be the last of its
    /// segment.
    pub units: Vec<Drhd>,
    /// Memory that functions use before the guest's driver takes over.
    pub reserved_memory: Vec<Rmrr>,
    /// The root ports whose functions may use Address Translation Services.
    pub root_port_ats: Vec<Atsr>,
    /// Who made the table: OEMID (6 bytes), OEM table ID (8 bytes).
    pub oem: Oem,
}

/// The identification that every ACPI table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oem {
    /// OEMID.
    pub id: [u8; 6],
    /// OEM table ID.
    pub table_id: [u8; 8],
}

impl Default for Oem {
    fn default() -> Self {
        Self {
            id: *b"VMIOMM",
            table_id: *b"VMIOMMU ",
        }
    }
}

/// A remapping unit (DRHD, section 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Where its registers are.
    pub registers: PhysAddr,
    /// The size of the register window in bytes, a power of two of 4-KiB pages.
    pub register_window: u64,
    /// The PCI segment that it serves.
    pub segment: u16,
    /// INCLUDE_PCI_ALL: it serves all functions of the segment that no other unit names; its
    /// scopes then name I/O APICs and HPETs only.
    pub include_all: bool,
    /// Who is behind it.
    pub scopes: Vec<Scope>,
}

/// Reserved memory (RMRR, section 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
    /// The PCI segment of the functions.
    pub segment: u16,
    /// The first byte, 4-KiB aligned.
    pub base: PhysAddr,
    /// The last byte.
    pub limit: PhysAddr,
    /// Who uses it.
    pub scopes: Vec<Scope>,
}

/// Root ports with Address Translation Services (ATSR, section 8.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atsr {
    /// The PCI segment.
    pub segment: u16,
    /// ALL_PORTS: all root ports of the segment; the scopes are then empty.
    pub all_ports: bool,
    /// The root ports.
    pub scopes: Vec<Scope>,
}

/// Who or what is meant (section 8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A PCI endpoint on bus 0 or on another start bus.
    Endpoint(RequesterId),
    /// A PCI bridge, with everything below it.
    Bridge(RequesterId),
    /// An I/O APIC.
    IoApic {
        /// Its identifier in the MADT.
        id: u8,
        /// The requester of its interrupts.
        requester: RequesterId,
    },
    /// An HPET that raises its interrupts as messages.
    Hpet {
        /// Its number.
        id: u8,
        /// The requester of its interrupts.
        requester: RequesterId,
    },
}

const HEADER: usize = 36;
const CHECKSUM: usize = 9;

impl Dmar {
    /// The table as it lies in memory, its checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut table = Vec::new();
        table.extend(*b"DMAR");
        table.extend([0; 4]);
        table.push(1); // Revision.
        table.push(0); // The checksum.
        table.extend(self.oem.id);
        table.extend(self.oem.table_id);
        table.extend(1_u32.to_le_bytes());
        table.extend(*b"VMIO");
        table.extend(1_u32.to_le_bytes());
        debug_assert_eq!(table.len(), HEADER);
        table.push(self.host_address_width.saturating_sub(1));
        table.push(
            u8::from(self.interrupt_remapping)
                | u8::from(self.x2apic_opt_out) << 1
                | u8::from(self.dma_control_opt_in) << 2,
        );
        table.extend([0; 10]);
        for unit in &self.units {
            let pages = (unit.register_window / 4096).max(1).next_power_of_two();
            let mut body = vec![
                u8::from(unit.include_all),
                pages.trailing_zeros() as u8 & 0xf,
            ];
            body.extend(unit.segment.to_le_bytes());
            body.extend(unit.registers.0.to_le_bytes());
            structure(&mut table, 0, &body, &unit.scopes);
        }
        for memory in &self.reserved_memory {
            let mut body = vec![0, 0];
            body.extend(memory.segment.to_le_bytes());
            body.extend(memory.base.0.to_le_bytes());
            body.extend(memory.limit.0.to_le_bytes());
            structure(&mut table, 1, &body, &memory.scopes);
        }
        for ports in &self.root_port_ats {
            let mut body = vec![u8::from(ports.all_ports), 0];
            body.extend(ports.segment.to_le_bytes());
            structure(&mut table, 2, &body, &ports.scopes);
        }
        let length = (table.len() as u32).to_le_bytes();
        table[4..8].copy_from_slice(&length);
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[CHECKSUM] = 0_u8.wrapping_sub(sum);
        table
    }
}

/// Appends a remapping structure: type, length, body, scopes.
fn structure(table: &mut Vec<u8>, kind: u16, body: &[u8], scopes: &[Scope]) {
    let start = table.len();
    table.extend(kind.to_le_bytes());
    table.extend([0; 2]);
    table.extend(body);
    for scope in scopes {
        let (kind, id, requester) = match *scope {
            Scope::Endpoint(requester) => (1, 0, requester),
            Scope::Bridge(requester) => (2, 0, requester),
            Scope::IoApic { id, requester } => (3, id, requester),
            Scope::Hpet { id, requester } => (4, id, requester),
        };
        table.extend([
            kind,
            8, // Length: one step of path.
            0,
            0,
            id,
            requester.bus(),
            requester.device(),
            requester.function(),
        ]);
    }
    let length = ((table.len() - start) as u16).to_le_bytes();
    table[start + 2..start + 4].copy_from_slice(&length);
}
