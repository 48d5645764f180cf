//! Offsets in bytes from the unit's register base (section 11.4.1, "Register Location").
//!
//! The registers for IOTLB invalidation and for fault recording are where the capability
//! registers say: [`ExtendedCapability::iotlb_offset`](super::ExtendedCapability::iotlb_offset)
//! and [`Capability::fault_recording_offset`](super::Capability::fault_recording_offset).

/// VER_REG, 32 bits: version.
pub const VER: u16 = 0x00;
/// CAP_REG, 64 bits: capabilities.
pub const CAP: u16 = 0x08;
/// ECAP_REG, 64 bits: extended capabilities.
pub const ECAP: u16 = 0x10;
/// GCMD_REG, 32 bits: global command.
pub const GCMD: u16 = 0x18;
/// GSTS_REG, 32 bits: global status.
pub const GSTS: u16 = 0x1c;
/// RTADDR_REG, 64 bits: root table address.
pub const RTADDR: u16 = 0x20;
/// CCMD_REG, 64 bits: context-cache invalidation.
pub const CCMD: u16 = 0x28;
/// FSTS_REG, 32 bits: fault status.
pub const FSTS: u16 = 0x34;
/// FECTL_REG, 32 bits: fault event control.
pub const FECTL: u16 = 0x38;
/// FEDATA_REG, 32 bits: fault event data.
pub const FEDATA: u16 = 0x3c;
/// FEADDR_REG, 32 bits: fault event address.
pub const FEADDR: u16 = 0x40;
/// FEUADDR_REG, 32 bits: fault event upper address.
pub const FEUADDR: u16 = 0x44;
/// PMEN_REG, 32 bits: protected memory enable.
pub const PMEN: u16 = 0x64;
/// IQH_REG, 64 bits: invalidation queue head.
pub const IQH: u16 = 0x80;
/// IQT_REG, 64 bits: invalidation queue tail.
pub const IQT: u16 = 0x88;
/// IQA_REG, 64 bits: invalidation queue address.
pub const IQA: u16 = 0x90;
/// ICS_REG, 32 bits: invalidation completion status.
pub const ICS: u16 = 0x9c;
/// IECTL_REG, 32 bits: invalidation event control.
pub const IECTL: u16 = 0xa0;
/// IEDATA_REG, 32 bits: invalidation event data.
pub const IEDATA: u16 = 0xa4;
/// IEADDR_REG, 32 bits: invalidation event address.
pub const IEADDR: u16 = 0xa8;
/// IEUADDR_REG, 32 bits: invalidation event upper address.
pub const IEUADDR: u16 = 0xac;
/// IQERCD_REG, 64 bits: invalidation queue error record.
pub const IQERCD: u16 = 0xb0;
/// IRTA_REG, 64 bits: interrupt remapping table address.
pub const IRTA: u16 = 0xb8;
/// PQH_REG, 64 bits: page request queue head.
pub const PQH: u16 = 0xc0;
/// PQT_REG, 64 bits: page request queue tail.
pub const PQT: u16 = 0xc8;
/// PQA_REG, 64 bits: page request queue address.
pub const PQA: u16 = 0xd0;
/// PRS_REG, 32 bits: page request status.
pub const PRS: u16 = 0xdc;
/// PECTL_REG, 32 bits: page request event control.
pub const PECTL: u16 = 0xe0;
/// PEDATA_REG, 32 bits: page request event data.
pub const PEDATA: u16 = 0xe4;
/// PEADDR_REG, 32 bits: page request event address.
pub const PEADDR: u16 = 0xe8;
/// PEUADDR_REG, 32 bits: page request event upper address.
pub const PEUADDR: u16 = 0xec;
