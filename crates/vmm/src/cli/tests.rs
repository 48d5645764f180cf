use clap::{CommandFactory, Parser};

use super::arguments::{Arguments, Command};
use super::{exit, usage};
use crate::config::{DeviceConfig, IommuConfig, MachineConfig, MemorySize, VtdOptions};
use crate::{boot, layout};

fn parse(words: &[&str]) -> Result<Arguments, String> {
    Arguments::try_parse_from([&["vm-iommu"], words].concat())
        .map_err(|error| usage::line(&error.render().to_string()))
}

fn machine(words: &[&str]) -> Result<MachineConfig, String> {
    match parse(words)?.command {
        Command::Run(arguments) => Ok(arguments.into_config()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_no_fault_with_the_options() {
    Arguments::command().debug_assert();
}

#[test]
fn a_kernel_is_enough_for_a_machine() {
    let config = machine(&["run", "--kernel", "k"]).unwrap();
    let kernel = config.kernel.as_ref().unwrap();
    assert_eq!(kernel.path.to_str(), Some("k"));
    assert_eq!((kernel.initrds.len(), kernel.cmdline.as_str()), (0, ""));
    let expected = MachineConfig {
        kernel: config.kernel.clone(),
        ..MachineConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn every_option_reaches_the_machine() {
    let config = machine(&[
        "run",
        "--kernel=k",
        "--initrd=a",
        "--initrd=b,cmdline=x=1,y",
        "--cmdline=-n console=ttyS0",
        "--cpus=4",
        "--memory=2G",
        "--iommu=vtd,aw=57,eim=off",
        "--device=virtio-blk,path=d,iommu=off",
        "--device=edu",
        "--cpu-features",
        "-xsave,+cx16",
        "--report=r.json",
    ])
    .unwrap();
    let kernel = config.kernel.unwrap();
    assert_eq!(kernel.cmdline, "-n console=ttyS0");
    assert_eq!(kernel.initrds[1].cmdline, "x=1,y");
    assert_eq!(config.cpus, 4);
    assert_eq!(config.memory, MemorySize::from_bytes(2 << 30).unwrap());
    assert_eq!(
        config.iommu,
        IommuConfig::Vtd(VtdOptions {
            address_width: 57,
            eim: false,
            ..VtdOptions::default()
        })
    );
    assert!(matches!(
        config.devices[..],
        [DeviceConfig::VirtioBlk(_), DeviceConfig::Edu(_)]
    ));
    let features: Vec<_> = config
        .cpu_features
        .iter()
        .map(|change| (change.name.as_str(), change.enable))
        .collect();
    assert_eq!(features, [("xsave", false), ("cx16", true)]);
    assert_eq!(config.report.unwrap().to_str(), Some("r.json"));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    for (words, expected) in [
        (
            &["run"][..],
            "the following required arguments were not provided: --kernel <FILE>; for help, try '--help'",
        ),
        (
            &["run", "--kernel=k", "--iommu=vtd,aw=47"],
            "invalid value 'vtd,aw=47' for '--iommu <UNIT[,OPTION=VALUE]...>': vtd: aw=47 is not usable; aw is 39, 48 or 57; for help, try '--help'",
        ),
        (
            &["run", "--kernel=k", "--cpus=0"],
            "invalid value '0' for '--cpus <N>': 0 is not in 1..=1024; for help, try '--help'",
        ),
        (
            &["run", "--kernel=k", "--cpu=2"],
            "unexpected argument '--cpu' found; tip: a similar argument exists: '--cpus'; for help, try '--help'",
        ),
        (
            &["boot"],
            "unrecognized subcommand 'boot'; for help, try '--help'",
        ),
    ] {
        assert_eq!(parse(words).unwrap_err(), expected, "{words:?}");
    }
}

#[test]
fn the_help_tells_every_option_of_the_unit_and_the_exit_codes() {
    let mut command = Arguments::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_long_help().to_string();
    for word in [
        "aw=48",
        "intremap=on",
        "eim=on",
        "caching-mode=off",
        "pass-through=on",
        "caches=on",
        "drain=on",
        "fault-records=8",
        "dma-mask=0xfffffff",
        "readonly=off",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

/// The page of the book about this program.
const PAGE: &str = include_str!("../../../../docs/vmm.md");

#[test]
fn the_book_names_every_option() {
    let command = Arguments::command();
    let options = command
        .get_subcommands()
        .flat_map(|command| command.get_arguments())
        .filter_map(|argument| argument.get_long());
    for option in options.filter(|&option| option != "help" && option != "verbose") {
        assert!(PAGE.contains(&format!("--{option}")), "--{option}");
    }
    for command in command.get_subcommands() {
        let line = format!("    vm-iommu {} ", command.get_name());
        assert!(PAGE.contains(&line), "{line}");
    }
}

#[test]
fn the_book_and_the_help_know_the_same_exit_codes() {
    let codes: Vec<_> = exit::HELP
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(codes.first(), Some(&"0"));
    let table = PAGE.split("## Exit codes").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .skip(1)
        .collect();
    assert_eq!(rows, codes);
}

#[test]
fn the_book_has_the_address_map_of_the_layout() {
    for address in [
        layout::LOW_RAM_END - 1,
        layout::HIGH_RAM_START,
        *layout::ACPI_TABLES.start(),
        *layout::ACPI_TABLES.end(),
        *layout::PCI_WINDOW_32.start(),
        *layout::PCI_WINDOW_32.end(),
        *layout::ECAM.start(),
        *layout::ECAM.end(),
        layout::IOAPIC,
        layout::VTD,
        layout::AMDVI,
        layout::LAPIC,
        layout::KVM_IDENTITY_MAP,
        *layout::PCI_WINDOW_64.start(),
        *layout::PCI_WINDOW_64.end(),
        layout::EXIT_DEVICE.into(),
        layout::COM1.into(),
        layout::FW_CFG.into(),
        layout::ACPI_SLEEP_CONTROL.into(),
        layout::ACPI_SLEEP_STATUS.into(),
        layout::ACPI_RESET.into(),
        layout::PCI_CONFIG.into(),
        (*layout::PCI_WINDOW_PIO.start()).into(),
        (*layout::PCI_WINDOW_PIO.end()).into(),
        boot::BOOT_PARAMS.0,
        boot::PVH_START_INFO.0,
    ] {
        assert!(PAGE.contains(&format!("{address:#x}")), "{address:#x}");
    }
}
