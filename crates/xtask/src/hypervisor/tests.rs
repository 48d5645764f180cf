use super::*;

fn machine(iommu: &str) -> Machine {
    Machine {
        kernel: "k".to_owned(),
        initrd: "i".to_owned(),
        cmdline: "console=ttyS0 a=b".to_owned(),
        cpus: 4,
        memory: "1G".to_owned(),
        iommu: iommu.to_owned(),
        disk: "d".to_owned(),
        indirect: false,
        edu: true,
        report: Some("r".to_owned()),
    }
}

fn line(iommu: &str, vmm: Vmm, place: Place) -> String {
    machine(iommu).arguments(vmm, place).unwrap().join(" ")
}

#[test]
fn the_box_hides_xsave_and_a_real_host_does_not() {
    let in_box = line("vtd", Vmm::VmIommu, Place::Box);
    assert!(in_box.contains("--cpu-features -xsave"), "{in_box}");
    let native = line("vtd", Vmm::VmIommu, Place::Native);
    assert!(!native.contains("xsave"), "{native}");
    assert!(line("vtd", Vmm::Qemu, Place::Box).contains(",-xsave,-avx,"));
    assert!(!line("vtd", Vmm::Qemu, Place::Native).contains("xsave"));
}

#[test]
fn unit_options_become_qemus() {
    let text = line("vtd,aw=39,eim=off", Vmm::Qemu, Place::Box);
    assert!(
        text.contains("intel-iommu,intremap=on,aw-bits=39,eim=off"),
        "{text}"
    );
    let text = line("amdvi,dma-remap=on", Vmm::Qemu, Place::Box);
    assert!(
        text.contains("amd-iommu,intremap=on,dma-remap=on"),
        "{text}"
    );
    assert!(machine("smmu").arguments(Vmm::Qemu, Place::Box).is_err());
    assert!(machine("vtd,x").arguments(Vmm::Qemu, Place::Box).is_err());
}

#[test]
fn no_unit_means_no_platform_access() {
    let text = line("none", Vmm::Qemu, Place::Box);
    assert!(
        !text.contains("intel-iommu") && text.contains("iommu_platform=off"),
        "{text}"
    );
    assert!(line("none", Vmm::VmIommu, Place::Native).contains("--iommu none"));
}
