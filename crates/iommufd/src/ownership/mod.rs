//! Exclusive ownership of DMA, by isolation group.
//!
//! A user that drives a device can have it read and write whatever its tables allow. So the
//! devices that a unit cannot keep apart, an isolation group, have at most one *owner*: a context,
//! or nobody, and then kernel drivers may use them on the group's *default* domain. From the first
//! claim until the last release no device of the group reaches anything but a table that the owner
//! attached; between attachments it is blocked, and never on its default domain. A driver for the
//! unit ([`Iommu`](vm_iommu_driver::iommu::Iommu)) writes what is decided here.
//!
//! | event | Linux | as proposed in 2021 |
//! |---|---|---|
//! | [`Device::claim`] | `iommu_device_claim_dma_owner` | `iommu_device_init_user_dma` |
//! | [`Device::attach`] | `iommufd_device_attach`, `iommu_attach_group_handle` | `iommu_attach_device` |
//! | [`Device::replace`] | `iommufd_device_replace`, `iommu_replace_group_handle` | – |
//! | [`Device::detach`] | `iommufd_device_detach`, `iommu_detach_group_handle` | `iommu_detach_device` |
//! | [`Device::release`] | `iommu_device_release_dma_owner` | `iommu_device_exit_user_dma` |
//! | [`Device::bind`], [`Device::unbind`] | `iommu_device_use_default_domain`, `iommu_device_unuse_default_domain` | a notifier |
//! | [`Group::claim`], [`Group::release`] | `iommu_group_claim_dma_owner`, `iommu_group_release_dma_owner` | – |
//! | [`Ownership::hot_add`], [`Device::remove`] | `iommu_probe_device`, `iommu_release_device` | – |
//! | [`Device::reset_begin`], [`Device::reset_end`] | `pci_dev_reset_iommu_prepare`, `pci_dev_reset_iommu_done` | – |
//!
//! What was `user_dma_cnt` then is the number of claimed devices ([`GroupView::claims`]), and
//! `attach_cnt` the number of devices attached ([`GroupView::attached`]).
//!
//! All events of a group are in one order, under its lock; each is carried out whole or refused,
//! and then nothing has changed. Only two kinds of event cannot be refused half way: taking a
//! table away, and giving the default domain back. If a unit's driver fails there, the device
//! stays blocked, and [`GroupView::stuck`] names it.
#![forbid(unsafe_code)]

mod attach;
mod claim;
mod default_domain;
mod device;
mod error;
mod fabric;
mod group;
mod hotplug;
mod registry;
mod reset;
mod state;
mod table;
mod view;
mod write;

pub use default_domain::DefaultType;
pub use device::{Device, DriverKind};
pub use error::OwnershipError;
pub use fabric::{GroupMember, members_of};
pub use group::{Group, Request};
pub use registry::{GroupKey, Ownership, OwnershipConfig};
pub use table::{AddressSpace, SpaceId, Table, Target};
pub use view::{DeviceView, GroupView};

/// A security context: one open of the framework, that owns groups and address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u64);
