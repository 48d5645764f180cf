//! The command `vm-iommu`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vm_iommu_vmm::cli::main()
}
