//! I/O page tables: walkers as hardware has them, editors as drivers have them.
