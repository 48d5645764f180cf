//! The PCI function that a unit shows the guest (section 3.2): a capability block that says where
//! its registers are, and MSI.

use std::sync::Arc;

use vm_iommu_dma::{DmaPort, Upstream};
use vm_iommu_pci::registers::CAP_MSI;
use vm_iommu_pci::{BuildError, ConfigBuilder, ConfigSpace, Identity, PciFunction};
use vm_iommu_spec::PhysAddr;
use vm_iommu_spec::amd::registers::{BaseAddressLow, CapabilityHeader};

use crate::registers::MSI_HEADER;
use crate::unit::AmdVi;

/// Base class 08h, subclass 06h: an IOMMU.
const CLASS: u32 = 0x08_06_00;
/// Bytes of the MSI capability.
const MSI_LENGTH: u16 = 16;

/// The PCI function of a unit. Its interrupts are the unit's own: they go where the unit's do, and
/// neither depend on Bus Master Enable nor are remapped.
pub struct AmdViFunction {
    unit: Arc<AmdVi>,
    config: ConfigSpace,
    port: Arc<DmaPort>,
    capability: u16,
    msi: u16,
}

impl AmdViFunction {
    /// The function of `unit`, whose register window is at `registers`; Enable of the base
    /// address is set and thus the address fixed, as firmware leaves it. The port on `upstream`
    /// issues no requests.
    ///
    /// # Errors
    /// [`BuildError`] if the capabilities do not fit, which they do.
    pub fn new(
        unit: &Arc<AmdVi>,
        registers: PhysAddr,
        upstream: Upstream,
    ) -> Result<Arc<Self>, BuildError> {
        let port = DmaPort::new(upstream);
        let identity = Identity {
            vendor: 0x1022,
            device: 0x1419,
            class: CLASS,
            ..Identity::default()
        };
        let header = unit.config().capability_header().into_bits();
        let low = BaseAddressLow::new()
            .with_enable(true)
            .with_frame((registers.0 as u32) >> 14);
        let mut body = ((header >> 16) as u16).to_le_bytes().to_vec();
        body.extend(low.into_bits().to_le_bytes());
        body.extend(((registers.0 >> 32) as u32).to_le_bytes());
        // The Range Register, whose RngValid is clear: the IVRS table says who is served.
        body.extend([0; 4]);
        body.extend(unit.config().miscellaneous().into_bits().to_le_bytes());
        let builder = ConfigBuilder::endpoint(identity);
        let capability = builder.next_capability();
        let builder = builder.capability(CapabilityHeader::ID, &body, &[]);
        let msi = builder.next_capability();
        // Its registers are the unit's; this takes the room.
        let header = ((MSI_HEADER >> 16) as u16).to_le_bytes();
        let mut body = [0; MSI_LENGTH as usize - 2];
        body[..2].copy_from_slice(&header);
        let config = builder.capability(CAP_MSI, &body, &[]).build(&port)?;
        Ok(Arc::new(Self {
            unit: Arc::clone(unit),
            config,
            port,
            capability,
            msi,
        }))
    }

    /// Where the capability block is in config space, in bytes: what the IVRS table names.
    pub fn capability_offset(&self) -> u16 {
        self.capability
    }

    /// The doubleword of the MSI capability that `offset` lies in, and the byte therein.
    fn msi_register(&self, offset: u16) -> Option<(u16, usize)> {
        let inside = offset.checked_sub(self.msi)?;
        (inside < MSI_LENGTH).then_some((inside / 4, usize::from(inside % 4)))
    }
}

impl PciFunction for AmdViFunction {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    /// Leaves the unit alone, as a function-level reset must: it is not one of its function's
    /// registers. [`AmdVi::reset`] is the machine's.
    fn reset(&self) {}

    fn read_config(&self, offset: u16, data: &mut [u8]) {
        match self.msi_register(offset) {
            None => self.config.read(offset, data),
            Some((index, byte)) => {
                let value = self.unit.msi_register(index).to_le_bytes();
                for (place, value) in data.iter_mut().zip(value.iter().skip(byte)) {
                    *place = *value;
                }
            }
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        match self.msi_register(offset) {
            None => self.config.write(offset, data),
            Some((index, byte)) => {
                let mut value = self.unit.msi_register(index).to_le_bytes();
                for (place, data) in value.iter_mut().skip(byte).zip(data) {
                    *place = *data;
                }
                self.unit.set_msi_register(index, u32::from_le_bytes(value));
            }
        }
    }

    fn name(&self) -> &str {
        "amdvi"
    }
}
