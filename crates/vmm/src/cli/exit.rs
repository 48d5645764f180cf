//! The process's exit codes, a part of its interface.

/// What was asked for cannot be started: a bad option, a missing or unusable file, no usable KVM.
pub const CANNOT_START: u8 = 2;
/// The host or KVM could not go on.
pub const BROKEN: u8 = 8;
/// The demo's guest did not come to its end.
pub const DEMO_FAILED: u8 = 10;

/// The exit codes, for the end of the help.
pub const HELP: &str = "\
Exit codes:
  0      the guest powered off; the demo or the report came to its end
  2      not started: a bad option, a missing or unusable file, no usable /dev/kvm
  4      the guest reset the machine
  6      the guest shut down with a triple fault
  8      KVM or the host could not go on
  10     the demo's guest did not come to its end
  130    interrupted
  odd    the guest wrote V to the exit device at port 0xf4: (V << 1) | 1, lower 8 bits";
