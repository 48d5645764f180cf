//! AMD-Vi: "AMD I/O Virtualization Technology (IOMMU) Specification", publication 48882. Section
//! numbers are those of revision 3.08 and later.

mod page_table;

pub use page_table::HostPagingEntry;
