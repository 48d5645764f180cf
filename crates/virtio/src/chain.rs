//! Descriptor chains, read once into a bounded list, so that the guest cannot change one between
//! its check and its use.

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_iommu_dma::DmaSession;
use vm_iommu_spec::{Fault, Iova};

use crate::Buffer;

/// Why a chain is no request. It is given back with a used length of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// It is longer than the queue (virtio 1.2, section 2.7.5.3.1).
    #[error("the chain has more than {limit} descriptors")]
    TooLong {
        /// The largest size of the queue.
        limit: u16,
    },
    /// It does not end: a loop, an index outside its table, a bad indirect table, or more than
    /// 4 GiB in all.
    #[error("the chain breaks off after {descriptors} descriptors")]
    BrokenOff {
        /// How many could be read.
        descriptors: u16,
    },
    /// A device-readable buffer follows a device-writable one (virtio 1.2, section 2.7.4.2).
    #[error("a readable buffer at {address} follows a writable one")]
    ReadableAfterWritable {
        /// Where the buffer is.
        address: Iova,
    },
    /// A buffer passes the end of the address space.
    #[error("a buffer of {len} bytes at {address} wraps the address space")]
    Wraps {
        /// Where the buffer begins.
        address: Iova,
        /// Its length in bytes.
        len: u32,
    },
    /// The indirect table cannot be read.
    #[error("the indirect table cannot be read: {0}")]
    Fault(#[source] Fault),
}

/// One request: the buffers of a descriptor chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What the device reads.
    pub readable: Buffer,
    /// What the device writes.
    pub writable: Buffer,
}

impl Chain {
    /// Reads a chain of at most `limit` descriptors. Empty buffers are left out.
    pub(crate) fn parse(
        session: &DmaSession<'_>,
        chain: DescriptorChain<&DmaSession<'_>>,
        limit: u16,
    ) -> Result<Self, ChainError> {
        let mut parsed = Self::default();
        let mut descriptors = 0_u16;
        // The library ends the iteration at whatever is wrong with the next descriptor.
        let mut ended = false;
        for descriptor in chain {
            if descriptors == limit {
                return Err(ChainError::TooLong { limit });
            }
            descriptors += 1;
            ended = !descriptor.has_next();
            let address = Iova(descriptor.addr().0);
            let len = descriptor.len();
            if len == 0 {
                continue;
            }
            if address.last_byte(len.into()).is_none() {
                return Err(ChainError::Wraps { address, len });
            }
            if descriptor.is_write_only() {
                parsed.writable.push(address, len);
            } else if parsed.writable.is_empty() {
                parsed.readable.push(address, len);
            } else {
                return Err(ChainError::ReadableAfterWritable { address });
            }
        }
        if ended {
            return Ok(parsed);
        }
        Err(match session.take_fault() {
            Some(fault) => ChainError::Fault(fault),
            None => ChainError::BrokenOff { descriptors },
        })
    }
}
