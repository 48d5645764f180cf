//! Laying out a function's config space.

use std::sync::Arc;

use thiserror::Error;
use vm_iommu_dma::DmaPort;

use crate::layout::{Image, Layout};
use crate::registers::*;
use crate::{AcsFlags, Bar, ConfigSpace, Interrupts, MsixLayout, PortKind};

/// The registers that say what a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code, 24 bits: base class, subclass, programming interface.
    pub class: u32,
    /// Subsystem vendor ID; type 0 only.
    pub subsystem_vendor: u16,
    /// Subsystem ID; type 0 only.
    pub subsystem: u16,
}

/// A layout that no config space can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A BAR's size is not a power of two in its range, or its register does not exist or is
    /// taken.
    #[error("BAR {index} cannot be {bar:?}")]
    Bar {
        /// The register's index.
        index: u8,
        /// What it was to be.
        bar: Bar,
    },
    /// No room is left for a capability.
    #[error("no room for capability {id:#x} of {len} bytes")]
    Capability {
        /// The capability's ID.
        id: u16,
        /// Its length in bytes, header included.
        len: usize,
    },
    /// MSI has 1, 2, 4, 8, 16 or 32 vectors.
    #[error("MSI cannot have {vectors} vectors")]
    Msi {
        /// The number asked for.
        vectors: u8,
    },
    /// The MSI-X structures are misaligned, overlap, or lie outside their memory BAR.
    #[error("MSI-X cannot be laid out as {layout:?}")]
    Msix {
        /// The layout asked for.
        layout: MsixLayout,
    },
    /// The port kind does not fit the header type.
    #[error("a function with this header type cannot be {kind:?}")]
    Port {
        /// The kind asked for.
        kind: PortKind,
    },
}

/// Builds a [`ConfigSpace`]. Capabilities are laid out in the order of the calls.
///
/// ```
/// use vm_iommu_dma::{DmaPort, GuestRam, Upstream};
/// use vm_iommu_pci::{Bar, ConfigBuilder, Identity, PortKind};
/// # use vm_memory::{GuestAddress, GuestMemoryMmap};
/// # let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
/// # let port = DmaPort::new(Upstream::direct(GuestRam::new(memory)));
/// let identity = Identity { vendor: 0x1234, device: 0x11e8, class: 0x00ff00, ..Identity::default() };
/// let config = ConfigBuilder::endpoint(identity)
///     .bar(0, Bar::Memory32 { size: 1 << 20, prefetchable: false })
///     .pcie(PortKind::Endpoint)
///     .msi(1)
///     .build(&port)
///     .unwrap();
/// assert_eq!(config.read_u32(0), 0x11e8_1234);
/// ```
#[derive(Debug)]
pub struct ConfigBuilder {
    image: Image,
    layout: Layout,
    msi_vectors: u8,
    /// Where the next capability goes, and the byte that is to point to it.
    next: u16,
    link: u16,
    next_extended: u16,
    extended_link: Option<u16>,
    error: Option<BuildError>,
}

impl ConfigBuilder {
    /// A function with a type 0 header.
    pub fn endpoint(identity: Identity) -> Self {
        let mut builder = Self::new(identity, false);
        builder.image.put(
            SUBSYSTEM_VENDOR_ID,
            &identity.subsystem_vendor.to_le_bytes(),
        );
        builder
            .image
            .put(SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        builder
    }

    /// A bridge, with a type 1 header: 64-bit prefetchable window, 16-bit I/O window.
    pub fn bridge(identity: Identity) -> Self {
        let mut builder = Self::new(identity, true);
        let image = &mut builder.image;
        image.put(HEADER_TYPE, &[1]);
        image.put(PREFETCHABLE_BASE, &[1]);
        image.put(PREFETCHABLE_LIMIT, &[1]);
        image.allow(PRIMARY_BUS, &[0xff; 3]);
        image.allow(IO_BASE, &[0xf0; 2]);
        for register in [
            MEMORY_BASE,
            MEMORY_LIMIT,
            PREFETCHABLE_BASE,
            PREFETCHABLE_LIMIT,
        ] {
            image.allow(register, &[0xf0, 0xff]);
        }
        image.allow(PREFETCHABLE_BASE_UPPER, &[0xff; 8]);
        // Parity error response, SERR# enable, secondary bus reset.
        image.allow(BRIDGE_CONTROL, &0x0043_u16.to_le_bytes());
        image.allow(
            COMMAND,
            &(Command::IO | Command::MEMORY).bits().to_le_bytes(),
        );
        builder
    }

    fn new(identity: Identity, bridge: bool) -> Self {
        let mut image = Image::default();
        image.put(VENDOR_ID, &identity.vendor.to_le_bytes());
        image.put(DEVICE_ID, &identity.device.to_le_bytes());
        image.put(REVISION_ID, &[identity.revision]);
        image.put(CLASS_CODE, &identity.class.to_le_bytes()[..3]);
        image.allow(CACHE_LINE_SIZE, &[0xff]);
        image.allow(INTERRUPT_LINE, &[0xff]);
        let command = Command::BUS_MASTER | Command::PARITY_RESPONSE | Command::SERR;
        image.allow(
            COMMAND,
            &(command | Command::INTX_DISABLE).bits().to_le_bytes(),
        );
        Self {
            image,
            layout: Layout {
                bridge,
                ..Layout::default()
            },
            msi_vectors: 0,
            next: FIRST_CAPABILITY,
            link: CAPABILITIES,
            next_extended: FIRST_EXTENDED_CAPABILITY,
            extended_link: None,
            error: None,
        }
    }

    /// Declares base address register `index`: 0 to 5, or 0 to 1 in a bridge.
    #[must_use]
    pub fn bar(mut self, index: u8, bar: Bar) -> Self {
        let count = if self.layout.bridge { 2 } else { 6 };
        let registers = if bar.is_64_bit() { 2 } else { 1 };
        let place = usize::from(index);
        let taken = self.layout.bars.iter().enumerate().any(|(other, entry)| {
            entry.is_some_and(|entry| {
                let end = other + if entry.is_64_bit() { 2 } else { 1 };
                other < place + registers && place < end
            })
        });
        if !bar.is_valid() || place + registers > count || taken {
            return self.fail(BuildError::Bar { index, bar });
        }
        self.layout.bars[place] = Some(bar);
        let register = BAR0 + u16::from(index) * 4;
        let writable = !(bar.size() - 1);
        self.image.put(register, &[bar.type_bits()]);
        self.image
            .allow(register, &writable.to_le_bytes()[..registers * 4]);
        let decode = match bar {
            Bar::Io { .. } => Command::IO,
            _ => Command::MEMORY,
        };
        self.image.allow(COMMAND, &decode.bits().to_le_bytes());
        self
    }

    /// Gives the function a wired interrupt pin, 1 for INTA to 4 for INTD.
    #[must_use]
    pub fn interrupt_pin(mut self, pin: u8) -> Self {
        self.image.put(INTERRUPT_PIN, &[pin]);
        self
    }

    /// Adds a PCI Express capability. Endpoints can be reset by function.
    #[must_use]
    pub fn pcie(mut self, kind: PortKind) -> Self {
        if kind.is_bridge() != self.layout.bridge {
            return self.fail(BuildError::Port { kind });
        }
        let mut body = [0; 0x3c - 2];
        let mut writable = [0; 0x3c - 2];
        let mut put = |register: usize, value: u32, mask: u32| {
            body[register - 2..register + 2].copy_from_slice(&value.to_le_bytes());
            writable[register - 2..register + 2].copy_from_slice(&mask.to_le_bytes());
        };
        let can_reset = u32::from(!kind.is_bridge());
        // Device capabilities: role-based error reporting, function-level reset.
        put(0x04, 1 << 15 | can_reset << 28, 0);
        // Device control: relaxed ordering and no snoop on, 512-byte reads.
        put(0x08, 0x2810, 0x78ff);
        // Link: 2.5 GT/s, one lane.
        put(0x0c, 0x11, 0);
        put(0x10, 0x11 << 16, 0x00d8);
        body[0] = 2 | (kind as u8) << 4;
        self.layout.pcie = Some(self.next);
        self.layout.kind = Some(kind);
        self.layout.function_reset = !kind.is_bridge();
        self.capability(CAP_PCIE, &body, &writable)
    }

    /// Adds MSI with 64-bit addresses and per-vector masking: 1 to 32 vectors, a power of two.
    #[must_use]
    pub fn msi(mut self, vectors: u8) -> Self {
        if !vectors.is_power_of_two() || vectors > 32 {
            return self.fail(BuildError::Msi { vectors });
        }
        self.msi_vectors = vectors;
        self.layout.msi = Some(self.next);
        let mut body = [0; 0x18 - 2];
        let mut writable = [0; 0x18 - 2];
        body[0] = 1 << 7 | (vectors.trailing_zeros() as u8) << 1;
        body[1] = 1;
        writable[0] = 0x71;
        writable[2..10].copy_from_slice(&(!3_u64).to_le_bytes());
        writable[10..12].copy_from_slice(&[0xff; 2]);
        let mask = (1_u64 << vectors) - 1;
        writable[14..18].copy_from_slice(&(mask as u32).to_le_bytes());
        self.capability(CAP_MSI, &body, &writable)
    }

    /// Adds MSI-X. The BARs that hold its structures must be declared before.
    #[must_use]
    pub fn msix(mut self, layout: MsixLayout) -> Self {
        let fits = |bar: u8, offset: u32, len: u64| {
            let Some(Some(bar)) = self.layout.bars.get(usize::from(bar)) else {
                return false;
            };
            !matches!(bar, Bar::Io { .. })
                && offset.is_multiple_of(8)
                && u64::from(offset) + len <= bar.size()
        };
        let overlap = layout.table_bar == layout.pba_bar
            && u64::from(layout.table_offset) < u64::from(layout.pba_offset) + layout.pba_len()
            && u64::from(layout.pba_offset) < u64::from(layout.table_offset) + layout.table_len();
        if !(1..=2048).contains(&layout.vectors)
            || !fits(layout.table_bar, layout.table_offset, layout.table_len())
            || !fits(layout.pba_bar, layout.pba_offset, layout.pba_len())
            || overlap
        {
            return self.fail(BuildError::Msix { layout });
        }
        self.layout.msix = Some(self.next);
        self.layout.msix_layout = Some(layout);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(layout.vectors - 1).to_le_bytes());
        body[2..6]
            .copy_from_slice(&(layout.table_offset | u32::from(layout.table_bar)).to_le_bytes());
        body[6..].copy_from_slice(&(layout.pba_offset | u32::from(layout.pba_bar)).to_le_bytes());
        self.capability(CAP_MSIX, &body, &[0, 0xc0])
    }

    /// Adds an ACS extended capability with these controls.
    #[must_use]
    pub fn acs(mut self, flags: AcsFlags) -> Self {
        self.layout.acs = Some(self.next_extended);
        let bits = flags.bits().to_le_bytes();
        self.extended_capability(
            EXT_CAP_ACS,
            1,
            &[bits[0], bits[1], 0, 0],
            &[0, 0, bits[0], bits[1]],
        )
    }

    /// Adds a vendor-specific capability: `body` follows the ID and the next pointer and so
    /// begins with the length byte; `writable` (missing bytes are read-only) is its write mask.
    #[must_use]
    pub fn vendor(self, body: &[u8], writable: &[u8]) -> Self {
        self.capability(CAP_VENDOR, body, writable)
    }

    /// The offset at which the next capability will lie.
    pub fn next_capability(&self) -> u16 {
        self.next
    }

    /// Adds a capability: `body` follows the ID and the next pointer.
    #[must_use]
    pub fn capability(mut self, id: u8, body: &[u8], writable: &[u8]) -> Self {
        let len = body.len() + 2;
        let at = self.next;
        if usize::from(at) + len > usize::from(FIRST_EXTENDED_CAPABILITY) {
            return self.fail(BuildError::Capability { id: id.into(), len });
        }
        self.image.put(self.link, &[at as u8]);
        self.image.put(STATUS, &[1 << 4]);
        self.image.put(at, &[id]);
        self.image.put(at + 2, body);
        self.image
            .allow(at + 2, &writable[..writable.len().min(body.len())]);
        self.link = at + 1;
        self.next = (at + len as u16).next_multiple_of(4);
        self
    }

    /// Adds an extended capability: `body` follows the 4-byte header.
    #[must_use]
    pub fn extended_capability(
        mut self,
        id: u16,
        version: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Self {
        let len = body.len() + 4;
        let at = self.next_extended;
        if usize::from(at) + len > usize::from(CONFIG_SPACE_SIZE) {
            return self.fail(BuildError::Capability { id, len });
        }
        let header = u32::from(version & 0xf) << 16 | u32::from(id);
        self.image.put(at, &header.to_le_bytes());
        if let Some(link) = self.extended_link {
            let next = (at << 4 | u16::from(version & 0xf)).to_le_bytes();
            self.image.put(link + 2, &next);
        }
        self.image.put(at + 4, body);
        self.image
            .allow(at + 4, &writable[..writable.len().min(body.len())]);
        self.extended_link = Some(at);
        self.next_extended = (at + len as u16).next_multiple_of(4);
        self
    }

    /// The config space of the function behind `port`, with interrupt vectors from there.
    ///
    /// # Errors
    /// The first declaration that could not be laid out.
    pub fn build(self, port: &Arc<DmaPort>) -> Result<ConfigSpace, BuildError> {
        match self.error {
            Some(error) => Err(error),
            None => {
                let interrupts = Interrupts::new(port, self.msi_vectors, self.layout.msix_layout);
                Ok(ConfigSpace::new(self.image, self.layout, interrupts))
            }
        }
    }

    fn fail(mut self, error: BuildError) -> Self {
        self.error.get_or_insert(error);
        self
    }
}
