//! What capabilities a function can declare.

use bitflags::bitflags;
use serde::Serialize;

/// Device/Port Type of the PCI Express capability (PCIe Base 5.0, section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[repr(u8)]
pub enum PortKind {
    /// An endpoint; the fabric makes it a root complex integrated endpoint on the root bus.
    Endpoint = 0,
    /// A root port, on the root bus.
    RootPort = 4,
    /// A switch's upstream port.
    UpstreamPort = 5,
    /// A switch's downstream port.
    DownstreamPort = 6,
    /// A bridge to conventional PCI: what lies behind issues requests as `secondary:00.0`.
    PcieToPciBridge = 7,
    /// An endpoint on the root bus.
    IntegratedEndpoint = 9,
}

impl PortKind {
    /// Whether the header is of type 1.
    pub const fn is_bridge(self) -> bool {
        matches!(
            self,
            Self::RootPort | Self::UpstreamPort | Self::DownstreamPort | Self::PcieToPciBridge
        )
    }
}

bitflags! {
    /// The bits of the ACS capability and control registers (PCIe Base 5.0, section 7.7.8).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AcsFlags: u16 {
        /// Requests must come from a bus behind the port.
        const SOURCE_VALIDATION = 1;
        /// Requests with a translated address are blocked.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Peer-to-peer requests go upstream.
        const REQUEST_REDIRECT = 1 << 2;
        /// Peer-to-peer completions go upstream.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Requests that came from downstream and were redirected go upstream.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Requests with a translated address may go directly to a peer.
        const DIRECT_TRANSLATED = 1 << 6;
    }
}

impl AcsFlags {
    /// What isolation takes: without any of these a peer can be reached around the unit.
    pub const ISOLATION: Self = Self::SOURCE_VALIDATION
        .union(Self::REQUEST_REDIRECT)
        .union(Self::COMPLETION_REDIRECT)
        .union(Self::UPSTREAM_FORWARDING);
}

/// Where a function's MSI-X structures lie (PCIe Base 5.0, section 7.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Table entries, 1 to 2048.
    pub vectors: u16,
    /// The BAR that holds the table, 16 bytes an entry.
    pub table_bar: u8,
    /// The table's offset there, a multiple of 8.
    pub table_offset: u32,
    /// The BAR that holds the pending bits, 8 bytes for each 64 vectors.
    pub pba_bar: u8,
    /// The pending bits' offset there, a multiple of 8.
    pub pba_offset: u32,
}

impl MsixLayout {
    /// Table at the start of `bar`, pending bits at offset 0x8000 (64 KiB hold both).
    pub const fn in_bar(bar: u8, vectors: u16) -> Self {
        Self {
            vectors,
            table_bar: bar,
            table_offset: 0,
            pba_bar: bar,
            pba_offset: 0x8000,
        }
    }

    pub(crate) const fn table_len(&self) -> u64 {
        self.vectors as u64 * 16
    }

    pub(crate) const fn pba_len(&self) -> u64 {
        self.vectors.div_ceil(64) as u64 * 8
    }
}
