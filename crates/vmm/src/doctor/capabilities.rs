//! What this program asks of KVM.

use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;

/// A KVM capability, and whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Its name in the KVM interface.
    pub name: &'static str,
    /// What it is used for.
    pub purpose: &'static str,
    /// Whether a machine cannot do without it.
    pub needed: bool,
    /// Whether this KVM has it.
    pub present: bool,
}

/// A capability, its name, what it is for, and whether it is needed.
type Known = (Cap, &'static str, &'static str, bool);

const KNOWN: &[Known] = &[
    (
        Cap::SplitIrqchip,
        "KVM_CAP_SPLIT_IRQCHIP",
        "local APICs in the kernel, the I/O APIC behind the unit",
        true,
    ),
    (
        Cap::X2ApicApi,
        "KVM_CAP_X2APIC_API",
        "interrupts with 32-bit destinations",
        true,
    ),
    (
        Cap::SignalMsi,
        "KVM_CAP_SIGNAL_MSI",
        "interrupts from user space",
        true,
    ),
    (
        Cap::IrqRouting,
        "KVM_CAP_IRQ_ROUTING",
        "remapped interrupts as routes",
        true,
    ),
    (
        Cap::Irqfd,
        "KVM_CAP_IRQFD",
        "interrupts without a system call of their own",
        true,
    ),
    (
        Cap::Ioeventfd,
        "KVM_CAP_IOEVENTFD",
        "doorbells that do not stop the CPU",
        true,
    ),
    (
        Cap::MpState,
        "KVM_CAP_MP_STATE",
        "CPUs that wait to be started",
        true,
    ),
    (
        Cap::ExtCpuid,
        "KVM_CAP_EXT_CPUID",
        "a CPUID of the machine's own",
        true,
    ),
    (
        Cap::TscDeadlineTimer,
        "KVM_CAP_TSC_DEADLINE_TIMER",
        "the guest's cheapest timer",
        false,
    ),
    (
        Cap::ImmediateExit,
        "KVM_CAP_IMMEDIATE_EXIT",
        "stopping a CPU without a race",
        false,
    ),
];

/// Asks KVM for everything that this program knows how to use.
pub(super) fn ask(kvm: &Kvm) -> Vec<Capability> {
    KNOWN
        .iter()
        .map(|&(cap, name, purpose, needed)| Capability {
            name,
            purpose,
            needed,
            present: kvm.check_extension(cap),
        })
        .collect()
}
