//! The Intel VT-d remapping unit.
