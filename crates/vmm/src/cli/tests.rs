use clap::{CommandFactory, Parser};

use super::arguments::{Arguments, Command};
use super::usage;
use crate::config::{DeviceConfig, IommuConfig, MachineConfig, MemorySize, VtdOptions};

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
        "fault-records=8",
        "dma-mask=0xfffffff",
        "readonly=off",
        "Examples:",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
