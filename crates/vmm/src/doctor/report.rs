//! The findings, and what follows from them.

use std::fmt;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;

use super::capabilities::{self, Capability};
use super::measure::{KvmKind, Measurement, measure};
use crate::kvm::Vm;
use crate::one_line::one_line;

/// Everything that was found out about KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `hardware`, `interpreted`, or `unusable`.
    pub kvm: Verdict,
    /// Why KVM is unusable and how to mend that; absent if it is usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Instructions a second that a guest's kernel gets, if they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_second: Option<u64>,
    /// Version of the KVM interface, if KVM could be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<i32>,
    /// The most CPUs of a machine, if KVM could be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<usize>,
    /// The processor as KVM shows it to guests, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// What this program asks of KVM.
    pub capabilities: Vec<Capability>,
    /// What runs where.
    pub workloads: Vec<Workload>,
}

/// What KVM is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// [`KvmKind::Hardware`].
    Hardware,
    /// [`KvmKind::Interpreted`].
    Interpreted,
    /// Missing, forbidden, too old or broken.
    Unusable,
}

impl From<KvmKind> for Verdict {
    fn from(kind: KvmKind) -> Self {
        match kind {
            KvmKind::Hardware => Self::Hardware,
            KvmKind::Interpreted => Self::Interpreted,
        }
    }
}

/// The processor that guests see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// CPUID's vendor string.
    pub vendor: String,
    /// CPUID's brand string; empty if there is none.
    pub model: String,
    /// Whether guests get the x2APIC, which 32-bit destinations need.
    pub x2apic: bool,
}

/// Something that a user may want to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// What it is.
    pub name: &'static str,
    /// Where it runs.
    pub place: Place,
    /// The command that runs it there.
    pub command: &'static str,
}

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On this host's KVM.
    Here,
    /// In the box: a KVM host emulated by QEMU, which needs no KVM of its own.
    Box,
    /// Not on this host.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "here",
            Self::Box => "in the box",
            Self::Nowhere => "nowhere",
        })
    }
}

impl Report {
    /// Whether machines run on this host's KVM at all.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.kvm != Verdict::Unusable
    }
}

/// Looks at this host's KVM.
#[must_use]
pub fn examine() -> Report {
    match Vm::open() {
        Ok(kvm) => {
            let measured = measure().map_err(|error| one_line(&error));
            conclude(Some(&kvm), measured)
        }
        Err(error) => conclude(None, Err(one_line(&error))),
    }
}

/// Draws the conclusions from an opened KVM and what was measured, or why it was not.
pub(super) fn conclude(kvm: Option<&Kvm>, measured: Result<Measurement, String>) -> Report {
    let capabilities = kvm.map(capabilities::ask).unwrap_or_default();
    let missing: Vec<_> = capabilities
        .iter()
        .filter(|capability| capability.needed && !capability.present)
        .map(|capability| capability.name)
        .collect();
    let instructions_per_second = measured.as_ref().ok().map(Measurement::per_second);
    let (verdict, problem) = match measured {
        Err(problem) => (Verdict::Unusable, Some(problem)),
        Ok(_) if !missing.is_empty() => (
            Verdict::Unusable,
            Some(format!(
                "this KVM lacks {}; a newer kernel has it",
                missing.join(", ")
            )),
        ),
        Ok(measured) => (measured.kind().into(), None),
    };
    Report {
        kvm: verdict,
        problem,
        instructions_per_second,
        api_version: kvm.map(Kvm::get_api_version),
        max_cpus: kvm
            .filter(|kvm| kvm.check_extension(Cap::MaxVcpus))
            .map(Kvm::get_max_vcpus),
        cpu: kvm
            .and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok())
            .map(|cpuid| cpu(&cpuid)),
        capabilities,
        workloads: workloads(verdict),
    }
}

fn workloads(verdict: Verdict) -> Vec<Workload> {
    let payloads = match verdict {
        Verdict::Hardware | Verdict::Interpreted => Place::Here,
        Verdict::Unusable => Place::Nowhere,
    };
    let (linux, command) = match verdict {
        Verdict::Hardware => (Place::Here, "vm-iommu run, or cargo xtask boot"),
        Verdict::Interpreted | Verdict::Unusable => (Place::Box, "cargo xtask boot"),
    };
    vec![
        Workload {
            name: "the demo",
            place: payloads,
            command: "vm-iommu demo",
        },
        Workload {
            name: "bare-metal payloads",
            place: payloads,
            command: "vm-iommu run",
        },
        Workload {
            name: "stock Linux guests",
            place: linux,
            command,
        },
    ]
}

/// Reads what a guest would from CPUID's leaves 0, 1 and 0x80000002 to 4.
fn cpu(cpuid: &CpuId) -> Cpu {
    let leaf = |function: u32| {
        cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function)
    };
    let text = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes)
            .trim_matches(['\0', ' '])
            .to_owned()
    };
    let vendor = leaf(0).map_or_else(String::new, |l| text(&[l.ebx, l.edx, l.ecx]));
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .filter_map(leaf)
        .flat_map(|l| [l.eax, l.ebx, l.ecx, l.edx])
        .collect();
    Cpu {
        vendor,
        model: text(&brand),
        x2apic: leaf(1).is_some_and(|l| l.ecx >> 21 & 1 == 1),
    }
}
