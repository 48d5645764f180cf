mod attach;
mod bench;
mod faults;
mod interrupts;
mod mappings;
mod start;
