//! The software that drives a remapping unit as a kernel would.
