//! The conformance table names tests that exist, every register, and every fault reason.

use std::path::{Path, PathBuf};

use vm_iommu_spec::vtd::FaultReason;

use crate::VtdConfig;
use crate::registers::declare;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn table() -> String {
    std::fs::read_to_string(workspace().join("docs/conformance/vtd.md")).unwrap()
}

/// The text of all tests of the unit and of the layouts.
fn tests() -> String {
    let places = [
        "crates/vtd/src/tests",
        "crates/vtd/src/registers",
        "crates/spec/src/vtd/tests",
    ];
    let files = places
        .iter()
        .flat_map(|place| std::fs::read_dir(workspace().join(place)).unwrap());
    files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn every_test_that_the_table_names_exists() {
    let (table, tests) = (table(), tests());
    let names = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| !name.contains('/'));
    let mut count = 0;
    for name in names {
        assert!(tests.contains(&format!("fn {name}(")), "no test {name}");
        count += 1;
    }
    assert!(count > 50);
}

#[test]
fn the_table_names_every_register_and_every_fault_reason() {
    let table = table();
    for register in declare(&VtdConfig::default()) {
        let name = register.name.split(' ').next().unwrap();
        assert!(table.contains(name), "{name}");
    }
    for reason in FaultReason::ALL {
        assert!(
            table.contains(&format!("| {:#04x} |", reason.code())),
            "{reason}"
        );
    }
}
