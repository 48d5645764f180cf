//! Interrupts on their way to KVM's local APICs: the routes of message-signalled interrupts, and
//! the I/O APIC, both through the unit's interrupt remapping if there is one.

mod apics;
mod ioapic;
mod redirection;
mod router;
mod table;
#[cfg(test)]
mod tests;
mod vector;

pub use apics::LocalApics;
pub use ioapic::{IoApic, Line, PinSink};
pub use redirection::Redirection;
pub use router::{InterruptCounters, Messages, MsiRouter};
