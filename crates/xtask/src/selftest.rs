//! `cargo xtask selftest`: the kernel's own tests of an interface, unmodified, on ours.

mod iommufd;
mod list;
mod tap;
#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::{Args, Subcommand};

/// What `cargo xtask selftest` takes.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The test of /dev/iommu, tools/testing/selftests/iommu/iommufd, under `vm-iommu iommufd`.
    Iommufd(iommufd::IommufdArgs),
}

pub use iommufd::outcome as iommufd_outcome;

/// Runs the command; the answer is whether every case that is known went as it should.
pub fn run(args: &SelftestArgs) -> Result<bool> {
    match &args.what {
        What::Iommufd(args) => iommufd::run(args),
    }
}
