//! The guest's hold on one PCI function: its config space through ECAM.

use vm_iommu_driver::Until;
use vm_iommu_spec::{MsiMessage, RequesterId};

use super::engine::Width;
use super::recorder::{Loaded, Recorder};
use crate::layout;

const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

const MEMORY_SPACE: u64 = 1 << 1;
const BUS_MASTER: u64 = 1 << 2;

/// Capability identifier of MSI.
const MSI: u8 = 0x05;
/// Bits of MSI's message control: 64-bit addresses, enable.
const MSI_64_BIT: u16 = 1 << 7;
const MSI_ENABLE: u16 = 1;

/// Reads a register at a guest physical address before the guest runs: what the guest will find.
pub type Look<'a> = &'a dyn Fn(u64, Width) -> u64;

/// A function that the guest programs.
pub struct Function<'a> {
    look: Look<'a>,
    requester: RequesterId,
    identity: u32,
}

/// The first function 0 with this vendor and device identifier, on any bus that is reached.
pub fn find(look: Look<'_>, (vendor, device): (u16, u16)) -> Option<Function<'_>> {
    let identity = u32::from(device) << 16 | u32::from(vendor);
    (0..=u16::MAX)
        .step_by(8)
        .map(|source| Function {
            look,
            requester: RequesterId::from_source_id(0, source),
            identity,
        })
        .find(|function| function.read(0) == identity)
}

impl Function<'_> {
    /// Where it is.
    pub fn requester(&self) -> RequesterId {
        self.requester
    }

    /// The guest looks for the function.
    pub fn identify(&self, recorder: &Recorder) -> Loaded {
        let until = Until {
            mask: u64::from(u32::MAX),
            expected: self.identity.into(),
        };
        recorder.expect(Width::Double, self.address(0), until)
    }

    /// The guest puts BAR 0 at `address`, below 4 GiB, and lets the function answer there and
    /// issue requests.
    pub fn enable(&self, recorder: &Recorder, address: u32) {
        recorder.write(Width::Word, self.address(COMMAND), 0);
        recorder.write(Width::Double, self.address(BAR0), address.into());
        let until = Until {
            mask: 0xffff_fff0,
            expected: address.into(),
        };
        recorder.expect(Width::Double, self.address(BAR0), until);
        let enable = MEMORY_SPACE | BUS_MASTER;
        recorder.write(Width::Word, self.address(COMMAND), enable);
    }

    /// The guest sets up the function's one MSI; `false` if it has none.
    pub fn enable_msi(&self, recorder: &Recorder, message: MsiMessage) -> bool {
        let Some((capability, control)) = self.msi() else {
            return false;
        };
        let write = |offset, width, value| {
            recorder.write(width, self.address(capability + offset), value);
        };
        write(4, Width::Double, message.address & 0xffff_ffff);
        let data = if control & MSI_64_BIT != 0 {
            write(8, Width::Double, message.address >> 32);
            0xc
        } else {
            8
        };
        write(data, Width::Word, message.data.into());
        write(2, Width::Word, (control | MSI_ENABLE).into());
        true
    }

    /// Where the MSI capability is, and its message control.
    fn msi(&self) -> Option<(u16, u16)> {
        let mut at = self.read(CAPABILITIES) as u8 & 0xfc;
        // No more capabilities fit.
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            let [id, next, control @ ..] = self.read(at.into()).to_le_bytes();
            if id == MSI {
                return Some((at.into(), u16::from_le_bytes(control)));
            }
            at = next & 0xfc;
        }
        None
    }

    fn read(&self, offset: u16) -> u32 {
        (self.look)(self.address(offset), Width::Double) as u32
    }

    fn address(&self, offset: u16) -> u64 {
        layout::ECAM.start() + (u64::from(self.requester.source_id()) << 12) + u64::from(offset)
    }
}
