//! What the guest's drivers say in their log, and what they are made to do on the command line.

use super::{JobResult, dmesg_line};
use crate::hypervisor::Machine;

/// A driver's own words.
pub(super) struct Words {
    /// Printed once DMA goes through the unit.
    translation: &'static str,
    /// What it found.
    unit: &'static str,
    /// Interrupts are remapped.
    pub(super) remapping: &'static str,
    /// What every line of the driver's contains.
    pub(super) any: &'static str,
    /// Parts of the line about a refused read of edu's.
    refused: &'static [&'static str],
}

const VTD: Words = Words {
    translation: "DMAR: Intel(R) Virtualization Technology for Directed I/O",
    unit: "DMAR: dmar0:",
    remapping: "DMAR-IR: Enabled IRQ remapping",
    any: "DMAR: ",
    refused: &["DMA Read", "0x123000"],
};

const AMDVI: Words = Words {
    // Printed like the other; newer kernels have no line before it.
    translation: "AMD-Vi: Extended features",
    unit: "AMD-Vi: Extended features",
    remapping: "AMD-Vi: Interrupt remapping enabled",
    any: "AMD-Vi: ",
    refused: &["IO_PAGE_FAULT", "address=0x123000"],
};

/// What AMD's driver says once its interrupts have 32-bit destinations.
pub(super) const X2APIC: &str = "AMD-Vi: X2APIC enabled";

/// The class of an AMD-Vi unit's own function, which is in no group.
const UNIT_CLASS: &str = "0x0806";

/// What drivers say whose unit must not be there.
pub(super) fn any_driver(result: &JobResult) -> Option<&str> {
    [&VTD, &AMDVI]
        .into_iter()
        .find_map(|words| dmesg_line(result, &[words.any]))
}

/// Whether a function of this class is a unit's own.
pub(super) fn is_unit(class: &str) -> bool {
    class.starts_with(UNIT_CLASS)
}

impl Words {
    /// Those of the driver of the machine's unit.
    pub(super) fn of(machine: &Machine) -> &'static Self {
        if machine.unit() == "amdvi" {
            &AMDVI
        } else {
            &VTD
        }
    }

    /// The line that says that translation is on, in the mode that was asked for, and the one
    /// about the unit.
    pub(super) fn translation<'a>(
        &self,
        machine: &Machine,
        result: &'a JobResult,
    ) -> (Option<&'a str>, &'a str) {
        let unit = dmesg_line(result, &[self.unit]).unwrap_or("the unit's line is missing");
        let on = dmesg_line(result, &[self.translation]);
        if !machine.has_word("amd_iommu=pgtbl_v2") {
            return (on, unit);
        }
        match dmesg_line(result, &["AMD-Vi: V2 page table enabled"]) {
            Some(line) => (on, line),
            None => (None, "the guest does not use v2 page tables"),
        }
    }

    /// The line about edu's refused read, if it is `line`.
    pub(super) fn is_refusal(&self, line: &str, function: &str) -> bool {
        line.contains(function) && self.refused.iter().all(|part| line.contains(part))
    }
}

/// The type of a domain that the guest should have chosen for the disk: lazy unless it was told
/// to be strict or the unit asks for it.
pub(super) fn domain_type(machine: &Machine) -> &'static str {
    let caches_absent = ["caching-mode=on", "np-cache=on"]
        .into_iter()
        .any(|option| machine.has_option(option));
    if machine.passes_through() {
        "identity"
    } else if machine.has_word("iommu.strict=1") || caches_absent {
        "DMA"
    } else {
        "DMA-FQ"
    }
}
