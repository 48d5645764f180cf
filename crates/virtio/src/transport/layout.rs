//! Where the structures lie, and the capabilities that say so (virtio 1.2, section 4.1.4).

use std::sync::Arc;

use vm_iommu_dma::DmaPort;
use vm_iommu_pci::{Bar, BuildError, ConfigBuilder, ConfigSpace, Identity, MsixLayout, PortKind};

use super::{common, window};
use crate::VirtioDevice;

/// The vendor ID of all virtio devices, and of their subsystem.
const VENDOR: u16 = 0x1af4;
/// The device ID of a modern device, less its type.
const DEVICE_BASE: u16 = 0x1040;

/// The BAR of the structures; 64-bit.
pub(super) const STRUCTURES_BAR: u8 = 0;
/// Its size in bytes.
pub(super) const STRUCTURES_SIZE: u64 = 4 * REGION;
/// The BAR of the MSI-X table and pending bits.
const MSIX_BAR: u8 = 2;
const MSIX_SIZE: u32 = 64 * 1024;

/// Each structure has a page to itself, so that an embedder may treat them differently.
const REGION: u64 = 0x1000;
/// The distance of the queues' notification addresses in bytes.
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;

/// Values of cfg_type.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// A structure, by its place in the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Common,
    Isr,
    Device,
    Notify,
}

impl Region {
    /// Which structure an offset in the BAR is in, and where there.
    pub(super) fn at(offset: u64) -> Option<(Self, u64)> {
        let region = match offset / REGION {
            0 => Self::Common,
            1 => Self::Isr,
            2 => Self::Device,
            3 => Self::Notify,
            _ => return None,
        };
        Some((region, offset % REGION))
    }

    pub(super) const fn start(self) -> u64 {
        self as u64 * REGION
    }
}

/// The config space, and the offset of the capability that is a window into the BAR.
pub(super) fn config_space(
    device: &dyn VirtioDevice,
    port: &Arc<DmaPort>,
) -> Result<(ConfigSpace, u16), BuildError> {
    let id = DEVICE_BASE + device.device_type().0;
    let queues = device.queue_sizes().len() as u32;
    let identity = Identity {
        vendor: VENDOR,
        device: id,
        revision: 1,
        class: device.class_code(),
        subsystem_vendor: VENDOR,
        subsystem: id,
    };
    let structures = Bar::Memory64 {
        size: STRUCTURES_SIZE,
        prefetchable: false,
    };
    let msix = Bar::Memory32 {
        size: MSIX_SIZE,
        prefetchable: false,
    };
    let locate = |kind, region: Region, len: u32| capability(kind, region.start() as u32, len);
    let mut notify = locate(NOTIFY_CFG, Region::Notify, queues * NOTIFY_MULTIPLIER);
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    let mut builder = ConfigBuilder::endpoint(identity)
        .bar(STRUCTURES_BAR, structures)
        .bar(MSIX_BAR, msix)
        .interrupt_pin(1)
        .pcie(PortKind::Endpoint)
        // One for each queue, and one for changes of the configuration.
        .msix(MsixLayout::in_bar(MSIX_BAR, queues as u16 + 1))
        .vendor(&locate(COMMON_CFG, Region::Common, common::LEN as u32), &[])
        .vendor(&notify, &[])
        .vendor(&locate(ISR_CFG, Region::Isr, 1), &[]);
    if device.config_len() > 0 {
        let len = device.config_len().into();
        builder = builder.vendor(&locate(DEVICE_CFG, Region::Device, len), &[]);
    }
    let window = builder.next_capability();
    let mut access = capability(PCI_CFG, 0, 0);
    access.extend([0; window::DATA_LEN]);
    let config = builder.vendor(&access, &window::WRITABLE).build(port)?;
    Ok((config, window))
}

/// The body of a struct virtio_pci_cap, after its first two bytes.
fn capability(kind: u8, offset: u32, len: u32) -> Vec<u8> {
    let size = 16
        + match kind {
            NOTIFY_CFG | PCI_CFG => 4,
            _ => 0,
        };
    let mut body = vec![size, kind, STRUCTURES_BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body
}
