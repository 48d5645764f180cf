use proptest::prelude::*;

use super::*;

fn parse<T: std::str::FromStr<Err = ConfigError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ConfigError| error.to_string())
}

#[test]
fn memory_takes_units_and_keeps_to_its_bounds() {
    let mib = |n: u64| Ok(MemorySize(n << 20));
    for (text, expected) in [
        ("1G", mib(1024)),
        ("1g", mib(1024)),
        ("512M", mib(512)),
        ("512", mib(512)),
        ("65536K", mib(64)),
        ("16", mib(16)),
        ("255G", mib(255 * 1024)),
        (
            "15M",
            Err("15 MiB of memory is out of bounds; give 16 MiB to 261120 MiB"),
        ),
        (
            "256G",
            Err("262144 MiB of memory is out of bounds; give 16 MiB to 261120 MiB"),
        ),
        (
            "20000001K",
            Err("20480001024 bytes of memory are not whole MiB; round it"),
        ),
        (
            "18446744073709551615G",
            Err("18446744073709551615 bytes of memory is out of bounds; give 16 MiB to 261120 MiB"),
        ),
        (
            "",
            Err("\"\" is not an amount of memory; write a number of MiB, or one with K, M or G"),
        ),
        (
            "+64M",
            Err(
                "\"+64M\" is not an amount of memory; write a number of MiB, or one with K, M or G",
            ),
        ),
        (
            "1GiB",
            Err(
                "\"1GiB\" is not an amount of memory; write a number of MiB, or one with K, M or G",
            ),
        ),
        (
            "é",
            Err("\"é\" is not an amount of memory; write a number of MiB, or one with K, M or G"),
        ),
    ] {
        assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn a_unit_is_none_or_vtd_or_amdvi_with_its_options() {
    let default = VtdOptions::default();
    let amdvi = AmdViOptions::default();
    for (text, expected) in [
        ("none", Ok(IommuConfig::None)),
        ("vtd", Ok(IommuConfig::Vtd(default))),
        (
            "vtd,aw=57,eim=off",
            Ok(IommuConfig::Vtd(VtdOptions {
                address_width: 57,
                eim: false,
                ..default
            })),
        ),
        (
            "vtd,intremap=off,caching-mode=on,pass-through=off,caches=off,drain=off,fault-records=256,ioapic-source=0x8",
            Ok(IommuConfig::Vtd(VtdOptions {
                intremap: false,
                eim: false,
                caching_mode: true,
                pass_through: false,
                caches: false,
                drain: false,
                fault_records: 256,
                ioapic_source: 8,
                ..default
            })),
        ),
        (
            "none,aw=48",
            Err("the machine without a unit has no option \"aw\"; it has: "),
        ),
        (
            "smmu",
            Err("no remapping unit is called \"smmu\"; there are: vtd, amdvi, none"),
        ),
        (
            "",
            Err("no remapping unit is called \"\"; there are: vtd, amdvi, none"),
        ),
        ("amdvi", Ok(IommuConfig::AmdVi(amdvi))),
        (
            "amdvi,hats=5,had=off,gats=4,pasid-bits=8,xt=off,irt=512,ia=off,np-cache=on,ats=on,segments=1,caches=off,drain=off,ivhd=11",
            Ok(IommuConfig::AmdVi(AmdViOptions {
                host_levels: Some(5),
                host_flags: false,
                guest_levels: 4,
                pasid_bits: 8,
                x2apic: false,
                interrupt_entries: 512,
                invalidate_all: false,
                np_cache: true,
                ats: true,
                segments: 1,
                caches: false,
                drain: false,
                block: 0x11,
                ..amdvi
            })),
        ),
        (
            "amdvi,hats=none,ga=off",
            Ok(IommuConfig::AmdVi(AmdViOptions {
                host_levels: None,
                host_flags: false,
                guest_apic: false,
                x2apic: false,
                ..amdvi
            })),
        ),
        (
            "amdvi,hats=none,gt=off",
            Err("amdvi: gt=off is not usable; gt is on when hats=none"),
        ),
        (
            "amdvi,hats=7",
            Err("amdvi: hats=7 is not usable; hats is 4, 5, 6 or none"),
        ),
        (
            "amdvi,ga=off,xt=on",
            Err("amdvi: xt=on is not usable; xt is off when ga=off"),
        ),
        (
            "amdvi,ivhd=12",
            Err("amdvi: ivhd=12 is not usable; ivhd is 10, 11 or 40"),
        ),
        (
            "vtd,aw=47",
            Err("vtd: aw=47 is not usable; aw is 39, 48 or 57"),
        ),
        (
            "vtd,eim=yes",
            Err("vtd: eim=yes is not usable; eim is on or off"),
        ),
        (
            "vtd,eim",
            Err("vtd: \"eim\" is not of the form option=value"),
        ),
        (
            "vtd,aw=48,aw=48",
            Err("vtd: aw is given twice; give it once"),
        ),
        (
            "vtd,intremap=off,eim=on",
            Err("vtd: eim=on is not usable; eim is off when intremap=off"),
        ),
        (
            "vtd,fault-records=0",
            Err("vtd: fault-records=0 is not usable; fault-records is 1 to 256"),
        ),
        (
            "vtd,fault-records=+8",
            Err("vtd: fault-records=+8 is not usable; fault-records is 1 to 256"),
        ),
        (
            "vtd,ioapic-source=65536",
            Err("vtd: ioapic-source=65536 is not usable; ioapic-source is a 16-bit source id"),
        ),
        (
            "vtd,width=48",
            Err(
                "vtd has no option \"width\"; it has: aw, intremap, eim, caching-mode, pass-through, caches, drain, fault-records, ioapic-source, units",
            ),
        ),
    ] {
        assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn a_device_is_a_disk_or_edu() {
    let disk = VirtioBlkConfig {
        path: "d.img".into(),
        iommu: true,
        read_only: false,
        queues: None,
        indirect: None,
        port: 0,
    };
    for (text, expected) in [
        (
            "virtio-blk,path=d.img",
            Ok(DeviceConfig::VirtioBlk(disk.clone())),
        ),
        (
            "virtio-blk,path=d.img,iommu=off,readonly=on,queues=4,indirect=off",
            Ok(DeviceConfig::VirtioBlk(VirtioBlkConfig {
                iommu: false,
                read_only: true,
                queues: Some(4),
                indirect: Some(false),
                ..disk.clone()
            })),
        ),
        (
            "virtio-blk,path=a,,b=c.img",
            Ok(DeviceConfig::VirtioBlk(VirtioBlkConfig {
                path: "a,b=c.img".into(),
                ..disk
            })),
        ),
        ("edu", Ok(DeviceConfig::Edu(EduConfig::default()))),
        (
            "edu,dma-mask=0xffffffffffffffff",
            Ok(DeviceConfig::Edu(EduConfig {
                dma_mask: u64::MAX,
                ..EduConfig::default()
            })),
        ),
        (
            "edu,dma-mask=0xf0",
            Err(
                "edu: dma-mask=0xf0 is not usable; dma-mask is a mask of address bits from bit 0 up",
            ),
        ),
        ("virtio-blk", Err("virtio-blk needs path=…")),
        ("virtio-blk,path=", Err("virtio-blk needs path=…")),
        (
            "virtio-blk,path=d,queues=0",
            Err("virtio-blk: queues=0 is not usable; queues is 1 to 256"),
        ),
        (
            "e1000",
            Err("no device is called \"e1000\"; there are: virtio-blk, edu"),
        ),
    ] {
        assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn a_module_keeps_every_comma_of_its_command_line() {
    let module = |path: &str, cmdline: &str| {
        Ok(Module {
            path: path.into(),
            cmdline: cmdline.to_owned(),
        })
    };
    assert_eq!(parse("initrd.img"), module("initrd.img", ""));
    assert_eq!(parse("a,b"), module("a,b", ""));
    assert_eq!(
        parse("m,cmdline=x=1,y,cmdline=2"),
        module("m", "x=1,y,cmdline=2")
    );
    assert_eq!(
        parse::<Module>(",cmdline=x"),
        Err("--initrd needs a path".to_owned())
    );
}

#[test]
fn a_feature_change_needs_its_sign() {
    let change = |name: &str, enable| {
        Ok(FeatureChange {
            name: name.to_owned(),
            enable,
        })
    };
    assert_eq!(parse("-xsave"), change("xsave", false));
    assert_eq!(parse("+CX16"), change("cx16", true));
    for text in ["xsave", "-", "+", "", "-a b", "-é"] {
        let error = parse::<FeatureChange>(text).unwrap_err();
        assert!(
            error.ends_with("write +NAME or -NAME, as in -xsave"),
            "{error}"
        );
    }
}

#[test]
fn parts_must_fit_together() {
    let machine = MachineConfig::default();
    assert_eq!(machine.validate(), Ok(()));
    let cpus = |cpus, iommu: &str| {
        MachineConfig {
            cpus,
            iommu: iommu.parse().unwrap(),
            ..machine.clone()
        }
        .validate()
    };
    assert!(matches!(cpus(0, "vtd"), Err(ConfigError::Cpus { .. })));
    assert!(matches!(cpus(1025, "vtd"), Err(ConfigError::Cpus { .. })));
    assert_eq!(cpus(1024, "vtd"), Ok(()));
    assert_eq!(cpus(1024, "amdvi"), Ok(()));
    assert_eq!(cpus(255, "none"), Ok(()));
    for iommu in [
        "none",
        "vtd,eim=off",
        "vtd,intremap=off",
        "amdvi,xt=off",
        "amdvi,ivhd=10",
    ] {
        assert!(matches!(
            cpus(256, iommu),
            Err(ConfigError::CpusNeedEim { given: 256, .. })
        ));
    }
    let crowded = MachineConfig {
        devices: vec![DeviceConfig::Edu(EduConfig::default()); 32],
        ..machine
    };
    assert!(matches!(
        crowded.validate(),
        Err(ConfigError::TooManyDevices {
            given: 32,
            most: 31
        })
    ));
    let beside_smbus = MachineConfig {
        iommu: "amdvi".parse().unwrap(),
        ..crowded
    };
    let numbers: Vec<u8> = beside_smbus.device_numbers().collect();
    assert_eq!((numbers.len(), numbers[18], numbers[19]), (30, 0x13, 0x15));
    assert!(matches!(
        beside_smbus.validate(),
        Err(ConfigError::TooManyDevices { most: 30, .. })
    ));
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,40}|(vtd|amdvi|none|edu|virtio-blk)(,[a-z-]{0,8}=?[0-9a-fx,]{0,8}){0,4}") {
        let _ = parse::<MemorySize>(&text);
        let _ = parse::<Module>(&text);
        let _ = parse::<IommuConfig>(&text);
        let _ = parse::<DeviceConfig>(&text);
        let _ = parse::<FeatureChange>(&text);
    }
}

#[test]
fn a_device_behind_a_root_port_needs_the_port_to_itself() {
    let check = |iommu: &str, devices: &[&str]| {
        let machine = MachineConfig {
            iommu: iommu.parse().unwrap(),
            devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
            ..MachineConfig::default()
        };
        machine.validate().map_err(|error| error.to_string())
    };
    for unit in ["vtd,units=3", "amdvi,units=3"] {
        assert_eq!(check(unit, &["edu", "edu,port=1", "edu,port=2"]), Ok(()));
    }
    for (iommu, port) in [("amdvi", 1), ("vtd,units=2", 2), ("none", 1)] {
        let message = format!(
            "there is no root port {port}; give --iommu …,units={} or more",
            port + 1
        );
        let devices = format!("edu,port={port}");
        assert_eq!(check(iommu, &[&devices]), Err(message), "{iommu}");
    }
    assert_eq!(
        check("vtd,units=2", &["edu,port=1", "edu,port=1"]),
        Err("root port 1 has a device already; a link has one".to_owned())
    );
    assert!("vtd,units=5".parse::<IommuConfig>().is_err());
    assert!("vtd,units=0".parse::<IommuConfig>().is_err());
    let machine = MachineConfig {
        iommu: "vtd,units=4".parse().unwrap(),
        ..MachineConfig::default()
    };
    // Root ports take device numbers.
    let numbers: Vec<u8> = machine.device_numbers().collect();
    assert_eq!(numbers, (1..=0x1b).chain([0x1f]).collect::<Vec<u8>>());
}
