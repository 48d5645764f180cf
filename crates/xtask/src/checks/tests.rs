use super::*;
use crate::job::Mark;
use crate::proc::Ending;

fn machine() -> Machine {
    Machine {
        kernel: String::new(),
        initrd: String::new(),
        cmdline: String::new(),
        cpus: 2,
        memory: "1G".to_owned(),
        iommu: "vtd".to_owned(),
        indirect: false,
        disk: "disk".to_owned(),
        edu: true,
        report: None,
    }
}

/// The report of a guest in which all is well.
fn report() -> Vec<(&'static str, String)> {
    let mut lines: Vec<(&str, String)> = [
        ("userspace", "1"),
        ("kernel", "6.1.0"),
        ("cpus", "2"),
        (
            "dmesg",
            "[    0.1] DMAR: dmar0: reg_base_addr fed90000 ver 1:0",
        ),
        (
            "dmesg",
            "[    0.2] DMAR-IR: Enabled IRQ remapping in x2apic mode",
        ),
        (
            "dmesg",
            "[    0.3] DMAR: Intel(R) Virtualization Technology for Directed I/O",
        ),
        ("pci", "0000:00:00.0 0x1 0x2 0x060000 group=0 type=DMA-FQ"),
        (
            "pci",
            "0000:00:01.0 0x1af4 0x1042 0x010000 group=1 type=DMA-FQ",
        ),
        ("disk_device", "0000:00:01.0"),
        ("irq_before", "4 10 IR-IO-APIC 4-edge ttyS0"),
        ("irq_before", "25 3 IR-PCI-MSI 1-edge virtio0-req.0"),
        ("queue", "0 cpu=0"),
        ("queue", "1 cpu=1"),
        ("irq_after", "4 12 IR-IO-APIC 4-edge ttyS0"),
        ("irq_after", "25 90 IR-PCI-MSI 1-edge virtio0-req.0"),
        ("irq_after", "26 80 IR-PCI-MSI 2-edge virtio0-req.1"),
        ("edu_device", "0000:00:02.0"),
        ("edu_id", "0x010000ED"),
        ("edu_factorial", "0x000002D0"),
        (
            "edu_fault",
            "[ 3.1] DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x123000",
        ),
        ("done", "1"),
    ]
    .into_iter()
    .map(|(key, value)| (key, value.to_owned()))
    .collect();
    for queue in 0..2 {
        let whole = disk::hash(queue * disk::REGION, disk::REGION);
        let small = disk::hash(queue * disk::REGION, 65536);
        lines.push(("queue_read", format!("{queue} {whole}")));
        lines.push(("queue_small", format!("{queue} {small}")));
        lines.push(("queue_back", format!("{queue} {whole}")));
    }
    lines
}

fn result(lines: &[(&'static str, String)]) -> JobResult {
    JobResult {
        name: "test".to_owned(),
        ending: Ending::Exited(0),
        wall_ms: 5000.0,
        marks: lines
            .iter()
            .map(|(key, value)| Mark {
                at_ms: 1000.0,
                key: (*key).to_owned(),
                value: value.clone(),
            })
            .collect(),
    }
}

/// An image on which two queues have copied their regions.
fn image() -> (tempfile::TempDir, std::path::PathBuf) {
    use std::io::{Seek, SeekFrom, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk::create(&path).unwrap();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    let mut bytes = vec![0; 2 * disk::REGION as usize];
    disk::content(0, &mut bytes);
    file.seek(SeekFrom::Start(disk::WRITE_BASE)).unwrap();
    file.write_all(&bytes).unwrap();
    (dir, path)
}

fn failures(lines: &[(&'static str, String)], groups: Option<&Groups>) -> Vec<&'static str> {
    let (_dir, path) = image();
    judge(&machine(), &result(lines), &path, groups)
        .into_iter()
        .filter(|check| !check.passed)
        .map(|check| check.name)
        .collect()
}

#[test]
fn a_sound_guest_passes_everything() {
    assert_eq!(failures(&report(), None), Vec::<&str>::new());
}

#[test]
fn each_fact_has_a_check_that_misses_it() {
    let cases = [
        ("done", "", "boots and powers off"),
        ("cpus", "", "processors online"),
        ("dmesg", "Directed I/O", "unit found, translation on"),
        ("dmesg", "IRQ remapping", "interrupt remapping on"),
        ("disk_device", "", "the disk's domain translates"),
        ("pci", "", "IOMMU groups are the fabric's"),
        ("queue", "1 ", "every queue works and interrupts"),
        ("irq_after", "req.1", "every queue works and interrupts"),
        ("queue_read", "1 ", "disk read, 64 KiB requests"),
        ("queue_small", "0 ", "disk read, 512-byte requests"),
        ("queue_back", "1 ", "disk written and read back"),
        ("irq_after", "PCI-MSI", "interrupts arrive remapped"),
        ("edu_factorial", "", "edu answers"),
        ("edu_fault", "", "a stray DMA is refused and reported"),
    ];
    for (key, part, check) in cases {
        let mut lines = report();
        lines.retain(|(k, value)| !(*k == key && value.contains(part)));
        let failed = failures(&lines, None);
        assert!(failed.contains(&check), "without {key} {part}: {failed:?}");
    }
}

#[test]
fn a_bad_line_is_noticed() {
    let cases = [
        (
            "fault",
            "DMAR: DRHD: handling fault status reg 2",
            "no fault, no warning",
        ),
        ("trouble", "WARNING: CPU: 0", "no fault, no warning"),
        (
            "irq_after",
            "27 5 PCI-MSI 3-edge edu",
            "interrupts arrive remapped",
        ),
        (
            "pci",
            "0000:00:03.0 0 0 0 group=none type=none",
            "IOMMU groups are the fabric's",
        ),
    ];
    for (key, value, check) in cases {
        let mut lines = report();
        lines.push((key, value.to_owned()));
        assert_eq!(failures(&lines, None), [check], "{key}={value}");
    }
}

#[test]
fn groups_are_compared_as_sets() {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    let same = vec![set(&["0000:00:01.0"]), set(&["0000:00:00.0"])];
    assert_eq!(failures(&report(), Some(&same)), Vec::<&str>::new());
    let merged = vec![set(&["0000:00:01.0", "0000:00:00.0"])];
    assert_eq!(
        failures(&report(), Some(&merged)),
        ["IOMMU groups are the fabric's"]
    );
}

#[test]
fn a_guest_without_a_unit_must_not_have_one() {
    let (_dir, path) = image();
    let machine = Machine {
        iommu: "none".to_owned(),
        ..machine()
    };
    let failed: Vec<&str> = judge(&machine, &result(&report()), &path, None)
        .into_iter()
        .filter(|check| !check.passed)
        .map(|check| check.name)
        .collect();
    assert_eq!(failed, ["no unit", "interrupts arrive"]);
}

/// The same report as AMD's driver makes it.
fn amd_report() -> Vec<(&'static str, String)> {
    let mut lines = report();
    lines.retain(|(key, _)| !matches!(*key, "dmesg" | "edu_fault"));
    let more = [
        (
            "dmesg",
            "[    0.2] AMD-Vi: Extended features (0x1, 0x0): GT",
        ),
        ("dmesg", "[    0.2] AMD-Vi: Interrupt remapping enabled"),
        ("dmesg", "[    0.2] AMD-Vi: X2APIC enabled"),
        (
            "pci",
            "0000:00:00.2 0x1022 0x1419 0x080600 group=none type=none",
        ),
        (
            "edu_fault",
            "[ 3.1] pci 0000:00:02.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x2 address=0x123000 flags=0x0]",
        ),
    ];
    lines.extend(more.map(|(key, value)| (key, value.to_owned())));
    lines
}

/// What fails on a machine with this unit and these words on the command line.
fn failures_with(
    iommu: &str,
    cmdline: &str,
    lines: &[(&'static str, String)],
) -> Vec<&'static str> {
    let (_dir, path) = image();
    let machine = Machine {
        iommu: iommu.to_owned(),
        cmdline: cmdline.to_owned(),
        ..machine()
    };
    judge(&machine, &result(lines), &path, None)
        .into_iter()
        .filter(|check| !check.passed)
        .map(|check| check.name)
        .collect()
}

#[test]
fn amds_driver_has_words_of_its_own() {
    let lines = amd_report();
    assert_eq!(failures_with("amdvi", "", &lines), Vec::<&str>::new());
    for part in [
        "Extended features",
        "Interrupt remapping",
        "X2APIC",
        "IO_PAGE_FAULT",
    ] {
        let mut lines = amd_report();
        lines.retain(|(_, value)| !value.contains(part));
        assert_eq!(failures_with("amdvi", "", &lines).len(), 1, "{part}");
    }
    let mut without = amd_report();
    without.retain(|(_, value)| !value.contains("X2APIC"));
    assert!(failures_with("amdvi,xt=off", "", &without).is_empty());
    assert_eq!(
        failures_with("none", "", &lines),
        ["no unit", "interrupts arrive"]
    );
    let v2 = "amd_iommu=pgtbl_v2";
    assert_eq!(
        failures_with("amdvi", v2, &lines),
        ["unit found, translation on"]
    );
}

#[test]
fn the_disks_domain_is_of_the_type_that_was_asked_for() {
    const TRANSLATES: &str = "the disk's domain translates";
    for (iommu, cmdline, kind, failed) in [
        ("amdvi", "", "DMA-FQ", vec![]),
        // Forced to be strict.
        ("amdvi", "", "DMA", vec![TRANSLATES]),
        ("amdvi", "iommu.strict=1", "DMA", vec![]),
        ("amdvi", "iommu.strict=1", "DMA-FQ", vec![TRANSLATES]),
        ("amdvi,np-cache=on", "", "DMA", vec![]),
        (
            "amdvi",
            "iommu=pt",
            "DMA-FQ",
            vec!["the disk passes through", "edu passes through"],
        ),
    ] {
        let lines: Vec<_> = amd_report()
            .into_iter()
            .map(|(key, value)| (key, value.replace("DMA-FQ", kind)))
            .collect();
        let found = failures_with(iommu, cmdline, &lines);
        assert_eq!(found, failed, "{iommu} {cmdline} {kind}");
    }
}

#[test]
fn a_vmm_that_never_reached_user_space_fails() {
    let failed = failures(&[], None);
    assert!(failed.contains(&"boots and powers off"));
    assert!(failed.contains(&"no fault, no warning"));
    assert!(failed.contains(&"image on the host"));
}
