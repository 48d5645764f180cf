//! The CPUID model, over invented and real lists.

use std::collections::BTreeSet;

use kvm_bindings::kvm_cpuid_entry2;

use super::cpuid::{CpuModel, indexed};
use super::features::{self, FeatureError, Register};
use super::{ExitCounters, ExitKind, feature_names};
use crate::config::FeatureChange;

/// Everything there is: all features, and a leaf 0xD with a component of each kind.
fn everything() -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<kvm_cpuid_entry2> = vec![kvm_cpuid_entry2 {
        eax: 0x20,
        ..Default::default()
    }];
    for name in feature_names() {
        let feature = features::find(name).unwrap();
        let at = entries
            .iter()
            .position(|e| e.function == feature.leaf && e.index == feature.subleaf);
        let at = at.unwrap_or_else(|| {
            entries.push(indexed(feature.leaf, feature.subleaf));
            entries.len() - 1
        });
        let entry = &mut entries[at];
        *match feature.register {
            Register::Eax => &mut entry.eax,
            Register::Ebx => &mut entry.ebx,
            Register::Ecx => &mut entry.ecx,
            Register::Edx => &mut entry.edx,
        } |= 1 << feature.bit;
    }
    let mut states = indexed(0xd, 0);
    states.eax = 0x602e7;
    states.ebx = 0x240;
    states.ecx = 2752 + 8192;
    entries.push(states);
    for (component, size, offset) in [(2, 256, 576), (5, 64, 832), (9, 8, 2688), (18, 8192, 2752)] {
        let mut entry = indexed(0xd, component);
        (entry.eax, entry.ebx) = (size, offset);
        entries.push(entry);
    }
    entries.push(kvm_cpuid_entry2 {
        function: 0x4000_0001,
        eax: 0x0100_0009,
        ..Default::default()
    });
    entries
}

fn model(cpus: u16, changes: &[&str]) -> Result<CpuModel, FeatureError> {
    CpuModel::from_supported(everything(), cpus, &parse(changes))
}

fn parse(changes: &[&str]) -> Vec<FeatureChange> {
    changes
        .iter()
        .map(|change| FeatureChange {
            name: change[1..].to_owned(),
            enable: change.starts_with('+'),
        })
        .collect()
}

fn leaf(model: &CpuModel, cpu: u16, function: u32, index: u32) -> kvm_cpuid_entry2 {
    *model
        .for_cpu(cpu)
        .unwrap()
        .as_slice()
        .iter()
        .find(|e| e.function == function && e.index == index)
        .unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"))
}

#[test]
fn every_need_names_a_feature_and_every_bit_has_one_name() {
    let mut bits = BTreeSet::new();
    for name in feature_names() {
        let feature = features::find(name).unwrap();
        for need in feature.needs {
            assert!(features::find(need).is_ok(), "{name} needs unknown {need}");
        }
        let place = (
            feature.leaf,
            feature.subleaf,
            feature.register as u8,
            feature.bit,
        );
        assert!(bits.insert(place), "{name} shares its bit");
    }
    for (_, names) in features::STATE_COMPONENTS {
        assert!(names.iter().all(|name| features::find(name).is_ok()));
    }
}

#[test]
fn hiding_xsave_hides_all_that_needs_it_and_empties_its_leaf() {
    let model = model(1, &["-xsave"]).unwrap();
    for gone in [
        "xsave",
        "avx",
        "avx2",
        "f16c",
        "fma",
        "vaes",
        "vpclmulqdq",
        "pku",
        "avx512f",
        "avx512bw",
        "avx512_vbmi2",
        "avx512_fp16",
        "avx512_bf16",
        "avx_vnni",
        "mpx",
        "amx_tile",
        "amx_int8",
        "xsaves",
        "xsavec",
        "shstk",
        "ibt",
        "xop",
        "fma4",
        "sm4",
    ] {
        assert!(!model.offers(gone), "{gone} is still offered");
    }
    for kept in [
        "aes",
        "pclmulqdq",
        "sse4_2",
        "cx16",
        "x2apic",
        "gfni",
        "sha_ni",
    ] {
        assert!(model.offers(kept), "{kept} is gone");
    }
    for index in [0, 1, 2, 5, 9, 18] {
        let entry = leaf(&model, 0, 0xd, index);
        assert_eq!(
            (entry.eax, entry.ebx, entry.ecx, entry.edx),
            (0, 0, 0, 0),
            "0xD.{index}"
        );
    }
}

#[test]
fn a_hidden_state_component_leaves_the_area_as_small_as_what_is_left_needs() {
    let model = model(1, &["-amx_tile", "-pku"]).unwrap();
    let states = leaf(&model, 0, 0xd, 0);
    assert_eq!(states.eax, 0xe7);
    assert_eq!(states.ecx, 832 + 64);
    assert_eq!(leaf(&model, 0, 0xd, 18).eax, 0);
    assert_eq!(leaf(&model, 0, 0xd, 5).eax, 64);
    assert!(model.offers("avx512f"));
}

#[test]
fn a_later_change_wins_and_brings_what_it_needs() {
    let model = model(1, &["-xsave", "+avx2"]).unwrap();
    assert!(model.offers("xsave") && model.offers("avx") && model.offers("avx2"));
    assert!(!model.offers("fma") && !model.offers("avx512f"));
    assert_eq!(leaf(&model, 0, 0xd, 0).eax, 7);
}

#[test]
fn a_feature_that_kvm_lacks_is_refused_and_so_is_an_unknown_name() {
    let mut entries = everything();
    entries.retain(|e| e.function != 7);
    let refused = CpuModel::from_supported(entries, 1, &parse(&["+avx2"])).unwrap_err();
    assert_eq!(refused, FeatureError::Unsupported { name: "avx2" });
    let unknown = model(1, &["-sse9"]).unwrap_err();
    assert_eq!(
        unknown,
        FeatureError::Unknown {
            name: "sse9".to_owned()
        }
    );
}

#[test]
fn each_processor_is_a_core_with_its_own_apic_id() {
    for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (255, 8), (300, 9)] {
        let model = model(cpus, &[]).unwrap();
        for cpu in [0, cpus - 1] {
            let basic = leaf(&model, cpu, 1, 0);
            assert_eq!(basic.ebx >> 24, u32::from(cpu) & 0xff);
            assert_eq!(basic.edx & 1 << 28 != 0, cpus > 1);
            for function in [0xb, 0x1f] {
                let smt = leaf(&model, cpu, function, 0);
                assert_eq!((smt.eax, smt.ebx, smt.ecx), (0, 1, 0x100));
                let core = leaf(&model, cpu, function, 1);
                assert_eq!((core.eax, core.ebx), (bits, u32::from(cpus)));
                assert_eq!((core.ecx, core.edx), (0x201, u32::from(cpu)));
                assert_eq!(leaf(&model, cpu, function, 2).ecx, 2);
            }
        }
    }
}

#[test]
fn the_paravirtual_clock_and_the_deadline_timer_are_offered() {
    let mut entries = everything();
    for entry in entries.iter_mut().filter(|e| e.function == 1) {
        entry.ecx &= !(1 << 24);
    }
    let model = CpuModel::from_supported(entries, 1, &[]).unwrap();
    assert!(model.offers("tsc_deadline_timer") && model.offers("hypervisor"));
    assert_eq!(leaf(&model, 0, 0x4000_0001, 0).eax, 0x0100_0009);
}

#[test]
fn exits_add_up_over_processors_by_name() {
    let [one, other] = [ExitCounters::default(), ExitCounters::default()];
    one.count(ExitKind::PortWrite);
    other.count(ExitKind::PortWrite);
    other.count(ExitKind::EndOfInterrupt);
    let total = ExitCounters::total([&one, &other]);
    assert_eq!(total.get("pio_write"), Some(&2));
    assert_eq!(total.get("ioapic_eoi"), Some(&1));
    assert_eq!(total.len(), 2);
}
