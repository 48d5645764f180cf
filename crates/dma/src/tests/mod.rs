//! Tests of the crate as its users see it, over a remapper made of a plain map.

mod atc;
mod dirty;
mod epoch;
mod handle;
mod iotlb;
mod memory;
mod observer;
mod port_iommu;
mod recent;
mod remapper;
mod replace;
mod session;
mod walk_cache;
