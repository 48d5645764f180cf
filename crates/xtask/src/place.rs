//! Where guests run: on this machine's KVM if it is of the hardware kind, else in the box.

use crate::hypervisor::Place;
use crate::proc;
use crate::ui::say;
use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DOCTOR_LIMIT: Duration = Duration::from_secs(60);

/// The options that choose the place by hand.
#[derive(Debug, Clone, Copy, Args)]
pub struct PlaceArgs {
    /// Run in the box, an emulated KVM host, whatever this machine's KVM is.
    #[arg(long = "box", conflicts_with = "native")]
    boxed: bool,
    /// Run on this machine's KVM, without measuring it first.
    #[arg(long)]
    native: bool,
}

/// Decides, and says what and why. `vmm` is our binary, which can measure.
pub fn choose(args: PlaceArgs, vmm: Option<&Path>) -> Result<Place> {
    if args.boxed {
        return Ok(Place::Box);
    }
    let open = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if args.native {
        if let Err(error) = open {
            bail!("--native needs /dev/kvm, and it cannot be opened: {error}");
        }
        return Ok(Place::Native);
    }
    if let Err(error) = open {
        say(format!(
            "/dev/kvm cannot be opened ({error}): guests run in the box"
        ));
        return Ok(Place::Box);
    }
    let doctor = vmm.and_then(|vmm| {
        let mut command = Command::new(vmm);
        command.args(["doctor", "--json"]);
        let text = proc::capture(&mut command, DOCTOR_LIMIT).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    });
    let kind = doctor.as_ref().and_then(|report| report["kvm"].as_str());
    match kind {
        Some("hardware") => {
            say("this machine's KVM is of the hardware kind: guests run on it");
            Ok(Place::Native)
        }
        Some(kind) => {
            say(format!(
                "this machine's KVM is {kind}: guests run in the box"
            ));
            Ok(Place::Box)
        }
        None => {
            say("this machine's KVM was not measured: guests run in the box");
            Ok(Place::Box)
        }
    }
}
