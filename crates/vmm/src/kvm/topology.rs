//! The topology leaves: one package, each processor a core without siblings, APIC IDs in order.

use kvm_bindings::kvm_cpuid_entry2;

use super::cpuid::{indexed, is_at};

/// Leaves that list the levels of the topology with 32-bit APIC IDs.
const LEVEL_LEAVES: [u32; 2] = [0xb, 0x1f];
/// Level types of those leaves.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Makes the leaves that are the same on each processor describe `cpus` of them.
pub(super) fn describe(entries: &mut Vec<kvm_cpuid_entry2>, cpus: u16) {
    let cpus = u32::from(cpus);
    let id_bits = cpus.next_power_of_two().trailing_zeros();
    let highest = entries
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    entries.retain(|entry| !LEVEL_LEAVES.contains(&entry.function));
    for leaf in LEVEL_LEAVES {
        // Leaf 0xB is needed wherever there is x2APIC; the other only where it is expected.
        if leaf == 0xb || highest >= leaf {
            entries.extend(levels(leaf, cpus, id_bits));
        }
    }
    for entry in entries.iter_mut() {
        match entry.function {
            0 => entry.eax = entry.eax.max(0xb),
            1 => {
                entry.ebx = entry.ebx & 0xff00_ffff | (cpus.min(255) << 16);
                // Hyper-threading: more than one APIC ID in the package.
                entry.edx = entry.edx & !(1 << 28) | u32::from(cpus > 1) << 28;
            }
            // Cache parameters (0x8000_001d on AMD): how many share a cache, how many cores.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharers = if level >= 3 { cpus.min(4096) } else { 1 };
                entry.eax = entry.eax & !(0xfff << 14) | (sharers - 1) << 14;
                if entry.function == 4 {
                    entry.eax = entry.eax & !(0x3f << 26) | (cpus.min(64) - 1) << 26;
                }
            }
            0x8000_0001 => entry.ecx = entry.ecx & !(1 << 1) | u32::from(cpus > 1) << 1,
            0x8000_0008 => {
                entry.ecx = entry.ecx & !0xf0ff | (cpus.min(256) - 1) | id_bits.min(15) << 12;
            }
            _ => {}
        }
    }
}

/// Makes the leaves that differ say that they are processor `index`'s.
pub(super) fn identify(entries: &mut [kvm_cpuid_entry2], index: u16, cpus: u16) {
    debug_assert!(index < cpus);
    let id = u32::from(index);
    for entry in entries {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0x00ff_ffff | (id & 0xff) << 24,
            0xb | 0x1f => entry.edx = id,
            // AMD: extended APIC ID; core ID with one thread a core; node 0 of one.
            0x8000_001e if is_at(entry, 0x8000_001e, 0) => {
                entry.eax = id;
                entry.ebx = id & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

fn levels(leaf: u32, cpus: u32, id_bits: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |subleaf: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        eax: shift,
        ebx: count,
        ecx: kind << 8 | subleaf,
        ..indexed(leaf, subleaf)
    };
    [
        level(0, LEVEL_SMT, 0, 1),
        level(1, LEVEL_CORE, id_bits, cpus),
        level(2, 0, 0, 0),
    ]
}
