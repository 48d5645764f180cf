//! `vm-iommu demo`.

use std::io;
use std::process::ExitCode;

use super::arguments::DemoArguments;
use super::{complain, exit};
use crate::demo::{self, DemoOptions};
use crate::one_line::one_line;

/// Runs the demo, which tells its story, a failure included, to standard output.
pub(super) fn demo(arguments: &DemoArguments) -> ExitCode {
    let options = DemoOptions {
        iommu: arguments.iommu,
        json: arguments.json,
        ..DemoOptions::default()
    };
    match demo::run(options, &mut io::stdout()) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::from(exit::DEMO_FAILED),
        Err(error) => {
            complain(&one_line(&error));
            ExitCode::from(exit::CANNOT_START)
        }
    }
}
