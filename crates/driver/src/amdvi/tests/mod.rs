mod attach;
mod bench;
mod events;
mod interrupts;
mod mappings;
mod start;
