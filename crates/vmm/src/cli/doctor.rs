//! `vm-iommu doctor`.

use std::io::{self, Write};
use std::process::ExitCode;

use super::arguments::DoctorArguments;
use super::{complain, exit};
use crate::doctor;

/// Prints the findings; KVM that no machine runs on is a failure.
pub(super) fn doctor(arguments: &DoctorArguments) -> ExitCode {
    let report = doctor::examine();
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).map(|json| json + "\n")
    } else {
        Ok(report.to_string())
    };
    let printed = text
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(text.as_bytes()));
    if let Err(error) = printed {
        complain(&format!("the findings cannot be printed: {error}"));
        return ExitCode::from(exit::BROKEN);
    }
    if report.is_usable() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::CANNOT_START)
    }
}
