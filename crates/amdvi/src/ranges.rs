//! Addresses that are not translated as others: the exclusion range, the interrupt range, and the
//! ranges that HyperTransport reserves (section 2.1.2).

use std::ops::RangeInclusive;

use vm_iommu_spec::amd::{Device, FaultReason as Reason, IoControl, SystemManagement};
use vm_iommu_spec::{AddressType, DmaRequest, Iova, MSI_WINDOW};

use crate::AmdViConfig;
use crate::control::Snapshot;

/// HyperTransport's interrupt and end-of-interrupt range.
const HT_INTERRUPTS: RangeInclusive<Iova> = Iova(0xfd_f800_0000)..=Iova(0xfd_f8ff_ffff);
/// HyperTransport's system management range.
const HT_SYSTEM_MANAGEMENT: RangeInclusive<Iova> = Iova(0xfd_f910_0000)..=Iova(0xfd_f91f_ffff);
/// HyperTransport's port I/O range.
const HT_PORT_IO: RangeInclusive<Iova> = Iova(0xfd_fc00_0000)..=Iova(0xfd_fdff_ffff);

/// What becomes of a request for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It passes untranslated and unchecked.
    Forward,
    /// It is translated.
    Translate,
}

/// The special ranges that hold for a device's requests.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Not for guest virtual addresses.
    guest: bool,
    exclusion: Option<RangeInclusive<Iova>>,
    hyper_transport: bool,
}

pub(crate) fn of(
    config: &AmdViConfig,
    snapshot: &Snapshot,
    device: &Device,
    guest: bool,
) -> Ranges {
    let base = snapshot.exclusion;
    let excluded = base.enable() && (base.allow() || device.exclusion);
    Ranges {
        guest,
        exclusion: excluded.then(|| base.range(snapshot.exclusion_limit)),
        hyper_transport: !config.ht_range_ignore,
    }
}

impl Ranges {
    /// What becomes of `request`.
    pub(crate) fn ruling(&self, device: &Device, request: &DmaRequest) -> Result<Ruling, Reason> {
        let address = &request.address;
        if self.guest {
            return Ok(Ruling::Translate);
        }
        let asks = request.address_type == AddressType::TranslationRequest;
        if MSI_WINDOW.contains(address) {
            return Err(if asks {
                Reason::TranslationRequestRange
            } else {
                Reason::InterruptRange
            });
        }
        if self
            .exclusion
            .as_ref()
            .is_some_and(|range| range.contains(address))
        {
            return Ok(Ruling::Forward);
        }
        if !self.hyper_transport {
            return Ok(Ruling::Translate);
        }
        let special = [HT_INTERRUPTS, HT_SYSTEM_MANAGEMENT, HT_PORT_IO];
        if asks && special.iter().any(|range| range.contains(address)) {
            return Err(Reason::TranslationRequestRange);
        }
        if HT_INTERRUPTS.contains(address) {
            Err(Reason::ReservedRange)
        } else if HT_SYSTEM_MANAGEMENT.contains(address) {
            match device.system_management {
                // No interrupt comes this way, so none of its messages is one.
                SystemManagement::Abort | SystemManagement::ForwardInterrupts => {
                    Err(Reason::SystemManagementDenied)
                }
                SystemManagement::Forward => Ok(Ruling::Forward),
                SystemManagement::Translate => Ok(Ruling::Translate),
            }
        } else if HT_PORT_IO.contains(address) {
            match device.io_control {
                IoControl::Abort => Err(Reason::PortIoDenied),
                IoControl::Forward => Ok(Ruling::Forward),
                IoControl::Translate => Ok(Ruling::Translate),
            }
        } else {
            Ok(Ruling::Translate)
        }
    }

    /// The size of the largest page around `address`, at most `shift` as a power of two in bytes,
    /// all of which is treated alike.
    pub(crate) fn fit(&self, address: Iova, shift: u8) -> u8 {
        if self.guest {
            return shift;
        }
        let mut special = Vec::new();
        special.extend(self.exclusion.clone());
        if self.hyper_transport {
            special.extend([HT_INTERRUPTS, HT_SYSTEM_MANAGEMENT, HT_PORT_IO]);
        }
        let mut shift = shift;
        while shift > 12 {
            let first = address.align_down(1 << shift);
            let last = Iova(first.0 | ((1 << shift) - 1));
            let cut = |range: &RangeInclusive<Iova>| {
                let overlaps = *range.start() <= last && *range.end() >= first;
                overlaps && !(*range.start() <= first && *range.end() >= last)
            };
            if !special.iter().any(cut) {
                break;
            }
            shift -= 1;
        }
        shift
    }
}
