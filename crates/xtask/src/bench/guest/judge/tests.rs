use super::*;

fn reading(way: Way, vmm: Vmm, rates: &[f64]) -> Reading {
    Reading {
        way,
        vmm,
        rates: rates.to_vec(),
        exits: Value::Null,
        threads_ms: Value::Null,
    }
}

fn readings(lazy: f64, strict: f64) -> Vec<Reading> {
    vec![
        reading(Way::None, Vmm::VmIommu, &[90.0, 100.0]),
        reading(Way::None, Vmm::Qemu, &[80.0]),
        reading(Way::Lazy, Vmm::VmIommu, &[lazy]),
        reading(Way::Strict, Vmm::VmIommu, &[strict]),
        reading(Way::Floor, Vmm::VmIommu, &[50.0]),
        reading(Way::Floor, Vmm::VmIommu, &[40.0]),
    ]
}

#[test]
fn the_fastest_window_of_all_boots_counts() {
    assert!(Table::new(&readings(90.0, 45.0)).met());
    assert!(!Table::new(&readings(89.0, 45.0)).met());
    assert!(!Table::new(&readings(90.0, 44.0)).met());
}

#[test]
fn each_of_ours_must_be_ahead_of_qemus() {
    let mut all = readings(90.0, 45.0);
    all.push(reading(Way::Strict, Vmm::Qemu, &[45.1]));
    let table = Table::new(&all);
    let missed: Vec<&str> = table
        .targets
        .iter()
        .filter(|target| !target.met())
        .map(|target| target.what.as_str())
        .collect();
    assert_eq!(missed, ["strict of QEMU's"]);
}
