//! The demo as a user runs it. Without KVM the tests are skipped, and say so.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo::{DemoError, DemoOptions, run};
use crate::kvm::KvmError;
use crate::machine::MachineError;

/// What the demo tells; `None` where there is no KVM.
fn told(iommu: &str, json: bool) -> Option<String> {
    let mut output = Vec::new();
    let options = DemoOptions {
        iommu: iommu.parse().unwrap(),
        json,
        ..DemoOptions::default()
    };
    let start = Instant::now();
    match run(options, &mut output) {
        Ok(failure) => assert_eq!(failure, None),
        Err(DemoError::Machine(MachineError::Kvm(
            error @ (KvmError::NoDevice | KvmError::NoPermission),
        ))) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    Some(String::from_utf8(output).unwrap())
}

#[test]
fn every_step_is_told_to_a_person() {
    let Some(text) = told("vtd", false) else {
        return;
    };
    eprintln!("{text}");
    assert_eq!(text.matches('\u{2713}').count(), 6);
    assert_eq!(text.matches('\u{2717}').count(), 0);
    for part in [
        "VT-d unit at 0xfed90000",
        "translation is on",
        "256 bytes",
        "vector 0x41, taken once",
        "VT-d fault reason 0x06",
        "second-stage entry, level 4",
        "second-stage entry, level 1",
    ] {
        assert!(text.contains(part), "{part} is not told");
    }
}

#[test]
fn every_step_is_told_to_a_program() {
    let Some(text) = told("vtd", true) else {
        return;
    };
    let whole: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(whole["ok"], true);
    let steps = whole["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().filter_map(|s| s["step"].as_str()).collect();
    let expected = [
        "found",
        "translating",
        "moved",
        "interrupted",
        "refused",
        "walk",
    ];
    assert_eq!(names, expected);
    let device = &steps[0]["device"];
    let refused = &steps[4];
    assert_eq!(&refused["requester"], device);
    assert_eq!(refused["page"], refused["address"]);
    assert_eq!(refused["reason_code"], 6);
    assert_eq!(steps[5]["walk"].as_array().unwrap().len(), 6);
}

#[test]
fn the_same_story_is_told_of_an_amd_vi_unit() {
    let Some(text) = told("amdvi", false) else {
        return;
    };
    eprintln!("{text}");
    assert_eq!(text.matches('\u{2713}').count(), 6);
    assert_eq!(text.matches('\u{2717}').count(), 0);
    for part in [
        "AMD-Vi unit at 0xfed80000",
        "translation is on",
        "256 bytes",
        "vector 0x41, taken once",
        "IO_PAGE_FAULT, domain 0x1",
        "device table entry",
        "host entry, level 4",
        "host entry, level 1",
    ] {
        assert!(text.contains(part), "{part} is not told");
    }
    let whole: Value = serde_json::from_str(&told("amdvi", true).unwrap()).unwrap();
    assert_eq!(whole["ok"], true);
    assert_eq!(whole["steps"][4]["reason_code"], 2);
    assert_eq!(whole["steps"][5]["walk"].as_array().unwrap().len(), 5);
}
