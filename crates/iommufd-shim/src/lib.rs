//! The preload library of `vm-iommu iommufd -- PROGRAM`: it stands before the C library's `open`,
//! `ioctl`, `mmap` and a few more, and takes what a program does with `/dev/iommu` to the server.
//!
//! A descriptor of `/dev/iommu` is one end of a socket pair whose other end the server holds and
//! has named, so that this library keeps no table of descriptors: it asks the kernel for the name
//! behind a descriptor, and whatever `dup`, `fork`, `exec` and `close` do is right. Shared
//! anonymous memory is made of memory files, which the server maps as well; private memory the
//! server reaches through `/proc/self/mem`, opened here and handed over.
//!
//! In a program's process nothing may surprise: calls that are not ours go on to the next
//! library, no memory is allocated, no thread is made and no signal is touched. A connection to
//! the server is made when the first call needs one.
//!
//! Without a server in the environment every function goes straight on.

#![deny(missing_docs)]

mod descriptor;
mod edit;
pub mod hooks;
mod link;
mod memory;
mod next;
mod start;
mod status;
#[cfg(test)]
mod tests;
