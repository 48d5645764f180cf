//! The IOMMU that a virtual machine monitor embeds.
