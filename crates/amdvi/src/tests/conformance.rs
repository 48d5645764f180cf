//! The conformance table names tests that exist, and every register, command, event and reason.

use std::path::{Path, PathBuf};

use vm_iommu_spec::amd::{EventCode, FaultReason};

use super::machine::everything;
use crate::registers::declare;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn table() -> String {
    std::fs::read_to_string(workspace().join("docs/conformance/amdvi.md")).unwrap()
}

/// The text of all tests of the unit and of the layouts.
fn tests() -> String {
    let places = ["crates/amdvi/src/tests", "crates/spec/src/amd/tests"];
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
        .filter(|name| !name.contains(['/', ':']));
    let mut count = 0;
    for name in names {
        assert!(tests.contains(&format!("fn {name}(")), "no test {name}");
        count += 1;
    }
    assert!(count > 100);
}

#[test]
fn the_table_names_every_register_command_event_and_reason() {
    let table = table();
    for register in declare(&everything()) {
        // Names that several registers share begin alike.
        let name = register.name.rsplit_once(' ').unwrap().0;
        assert!(table.contains(name), "{}", register.name);
    }
    for opcode in 1..=8 {
        assert!(table.contains(&format!("| {opcode}h | ")), "{opcode}");
    }
    for code in EventCode::ALL {
        let row = format!("| {:X}h | {code} |", *code as u8);
        assert!(table.contains(&row), "{row}");
    }
    for reason in FaultReason::ALL {
        let name = format!("{reason:?}");
        let named = table
            .split(|letter: char| !letter.is_alphanumeric())
            .any(|word| word == name);
        assert!(named, "{name}");
    }
}
