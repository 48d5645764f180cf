//! The reference virtual machine monitor.
fn main() {}
