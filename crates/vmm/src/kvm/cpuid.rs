//! The CPUID that guests see: what KVM supports, the machine's topology, and the changes that
//! the user asked for.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

use super::features::{self, Feature, FeatureError, Register, STATE_COMPONENTS};
use super::{KvmError, topology};
use crate::config::FeatureChange;

/// KVM marks leaves that have subleaves with this flag.
const SIGNIFICANT_INDEX: u32 = 1;

/// The CPUID of a machine, from which each processor's is made.
#[derive(Clone, Debug)]
pub struct CpuModel {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u16,
}

impl CpuModel {
    /// What `kvm` supports, for a machine of `cpus` processors, with `changes` applied in order.
    ///
    /// # Errors
    /// KVM does not say what it supports, or a change cannot be made.
    pub fn new(kvm: &Kvm, cpus: u16, changes: &[FeatureChange]) -> Result<Self, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("say which CPUID it supports"))?;
        Ok(Self::from_supported(
            supported.as_slice().to_vec(),
            cpus,
            changes,
        )?)
    }

    /// The model over a given list of what KVM supports.
    pub(super) fn from_supported(
        entries: Vec<kvm_cpuid_entry2>,
        cpus: u16,
        changes: &[FeatureChange],
    ) -> Result<Self, FeatureError> {
        let mut model = Self { entries, cpus };
        // The local APIC in the kernel provides these two whether KVM lists them or not (older
        // ones do not list the second).
        for always in ["x2apic", "tsc_deadline_timer", "hypervisor"] {
            model.set(features::find(always)?, true);
        }
        let supported = model.clone();
        for change in changes {
            let feature = features::find(&change.name)?;
            if change.enable {
                for needed in features::requirements(feature) {
                    if !supported.has(needed) {
                        return Err(FeatureError::Unsupported { name: needed.name });
                    }
                    model.set(needed, true);
                }
            } else {
                for dependent in features::dependents(feature) {
                    model.set(dependent, false);
                }
            }
        }
        model.trim_state_components();
        topology::describe(&mut model.entries, cpus);
        Ok(model)
    }

    /// Whether the guest sees the feature of this name; `false` for unknown names.
    pub fn offers(&self, name: &str) -> bool {
        features::find(name).is_ok_and(|feature| self.has(feature))
    }

    /// The CPUID of processor `index`.
    ///
    /// # Errors
    /// There are more entries than KVM takes.
    pub fn for_cpu(&self, index: u16) -> Result<CpuId, KvmError> {
        let mut entries = self.entries.clone();
        topology::identify(&mut entries, index, self.cpus);
        CpuId::from_entries(&entries).map_err(|error| KvmError::Host {
            action: "describe the CPUID",
            source: std::io::Error::other(format!("{error:?}")),
        })
    }

    fn entry(&self, leaf: u32, subleaf: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries
            .iter()
            .find(|entry| is_at(entry, leaf, subleaf))
    }

    fn has(&self, feature: &Feature) -> bool {
        self.entry(feature.leaf, feature.subleaf)
            .is_some_and(|entry| {
                let value = match feature.register {
                    Register::Eax => entry.eax,
                    Register::Ebx => entry.ebx,
                    Register::Ecx => entry.ecx,
                    Register::Edx => entry.edx,
                };
                value & 1 << feature.bit != 0
            })
    }

    fn set(&mut self, feature: &Feature, on: bool) {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| is_at(entry, feature.leaf, feature.subleaf));
        let Some(entry) = entry else {
            return;
        };
        let value = match feature.register {
            Register::Eax => &mut entry.eax,
            Register::Ebx => &mut entry.ebx,
            Register::Ecx => &mut entry.ecx,
            Register::Edx => &mut entry.edx,
        };
        if on {
            *value |= 1 << feature.bit;
        } else {
            *value &= !(1 << feature.bit);
        }
    }

    /// Makes leaf 0xD agree with the features that are left: without XSAVE it is empty, and a
    /// component whose features are all hidden is not there.
    fn trim_state_components(&mut self) {
        if !self.offers("xsave") {
            for entry in self.entries.iter_mut().filter(|e| e.function == 0xd) {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            // The operating system's own use of it is mirrored here.
            for entry in self.entries.iter_mut().filter(|e| is_at(e, 1, 0)) {
                entry.ecx &= !(1 << 27);
            }
            return;
        }
        let gone: Vec<u32> = STATE_COMPONENTS
            .iter()
            .filter(|(_, features)| !features.iter().any(|name| self.offers(name)))
            .map(|(component, _)| *component)
            .collect();
        let kept = gone.iter().fold(u32::MAX, |mask, bit| mask & !(1 << bit));
        let mut end = 512 + 64;
        for entry in self.entries.iter_mut().filter(|e| e.function == 0xd) {
            match entry.index {
                0 => entry.eax &= kept,
                1 => entry.ecx &= kept,
                component if gone.contains(&component) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
                }
                // Bit 0 of ECX: a supervisor component, which has no place of its own in the
                // standard format.
                _ if entry.ecx & 1 == 0 => end = end.max(entry.eax.saturating_add(entry.ebx)),
                _ => {}
            }
        }
        for entry in self.entries.iter_mut().filter(|e| is_at(e, 0xd, 0)) {
            entry.ecx = end;
        }
    }
}

/// Whether `entry` answers for `leaf` and `subleaf`.
pub(super) fn is_at(entry: &kvm_cpuid_entry2, leaf: u32, subleaf: u32) -> bool {
    entry.function == leaf && (entry.flags & SIGNIFICANT_INDEX == 0 || entry.index == subleaf)
}

/// An entry for a leaf with subleaves.
pub(super) fn indexed(leaf: u32, subleaf: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: leaf,
        index: subleaf,
        flags: SIGNIFICANT_INDEX,
        ..Default::default()
    }
}
