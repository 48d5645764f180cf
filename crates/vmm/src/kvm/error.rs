//! What can go wrong between this process and KVM.

use std::io;

use thiserror::Error;

use super::features::FeatureError;

/// A machine that KVM does not run, in words that say how to mend it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// The device node is missing.
    #[error(
        "/dev/kvm is missing; load the module (modprobe kvm-intel or kvm-amd), or turn on \
         virtualization in the firmware"
    )]
    NoDevice,
    /// The device node may not be opened.
    #[error("/dev/kvm may not be opened; join its group (usermod -aG kvm $USER) or run as root")]
    NoPermission,
    /// The device node cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// KVM speaks another version of its interface.
    #[error("KVM's interface has version {found}, and this program needs 12")]
    Version {
        /// The version that KVM reports.
        found: i32,
    },
    /// KVM lacks something that the machine cannot do without.
    #[error("this KVM lacks {capability}; a newer kernel has it")]
    Capability {
        /// The capability's name in the KVM interface.
        capability: &'static str,
    },
    /// Guest memory could not be reserved.
    #[error("{bytes} bytes of guest memory cannot be reserved; ask for less with --memory")]
    Memory {
        /// The size that was asked for.
        bytes: u64,
        /// What the host said.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// More processors than KVM runs.
    #[error("{given} CPUs are more than this KVM runs, {most}; ask for fewer with --cpus")]
    TooManyCpus {
        /// The number that was asked for.
        given: u16,
        /// The most that KVM runs.
        most: usize,
    },
    /// A change of the CPUID that cannot be made.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// KVM refused a call.
    #[error("KVM refused to {action}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// Its answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A resource of the host ran out.
    #[error("cannot {action}")]
    Host {
        /// What was attempted.
        action: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl KvmError {
    /// Names the call that KVM refused; for `map_err`.
    pub(crate) fn call(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Call { action, source }
    }

    /// Names what the host did not do; for `map_err`.
    pub(crate) fn host(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { action, source }
    }
}
