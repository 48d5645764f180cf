//! `cargo xtask bench`: ours beside others, on the same machine in the same run.

mod boot;
mod dma;
mod drain;
mod guest;
mod iommufd;
mod server;

use anyhow::Result;
use clap::{Args, Subcommand};

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The time from a VMM's start to its guest's user space and to power-off, ours against
    /// QEMU's intel-iommu with interrupt remapping.
    Boot(boot::BootBenchArgs),
    /// What an access costs, hit and missed, beside the same access without any IOMMU.
    Dma(dma::DmaBenchArgs),
    /// A million invalidations under devices that do not pause: no byte may come late.
    Drain(drain::DrainBenchArgs),
    /// 4K random reads in a guest, with no unit and with each way of its driver, ours against
    /// QEMU's.
    Guest(guest::GuestBenchArgs),
    /// What iommufd's calls cost on a VT-d unit: maps, unmaps, attaches and replaces.
    Iommufd(iommufd::IommufdBenchArgs),
    /// What an ioctl costs through the iommufd server, beside a bare echo of a message.
    Server(server::ServerBenchArgs),
}

/// Runs the command; the answer is whether the targets were met.
pub fn run(args: BenchArgs) -> Result<bool> {
    match args.what {
        What::Boot(args) => boot::run(&args),
        What::Dma(args) => dma::run(&args),
        What::Drain(args) => drain::run(&args),
        What::Guest(args) => guest::run(&args),
        What::Iommufd(args) => iommufd::run(&args),
        What::Server(args) => server::run(&args),
    }
}
