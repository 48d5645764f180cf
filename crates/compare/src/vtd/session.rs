//! The units that are compared: each a QEMU with other properties.

/// A unit of QEMU's and what the generator has to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// The properties of `intel-iommu`.
    pub properties: &'static str,
    /// Separates its random choices from those of others.
    pub stream: u64,
    /// The width of addresses in bits.
    pub width: u8,
    /// The numbers of levels that its tables may have.
    pub levels: &'static [u8],
    /// SNP may be set.
    pub snoop_control: bool,
    /// Requesters may be given a device-TLB.
    pub device_tlb: bool,
}

/// All of them.
pub const SESSIONS: &[Session] = &[
    Session {
        name: "48",
        properties: "aw-bits=48",
        stream: 1,
        width: 48,
        levels: &[3, 4],
        snoop_control: false,
        device_tlb: false,
    },
    Session {
        name: "39",
        properties: "aw-bits=39",
        stream: 2,
        width: 39,
        levels: &[3],
        snoop_control: false,
        device_tlb: false,
    },
    Session {
        name: "48-snoop",
        properties: "aw-bits=48,snoop-control=on",
        stream: 3,
        width: 48,
        levels: &[3, 4],
        snoop_control: true,
        device_tlb: false,
    },
    Session {
        name: "48-device-tlb",
        properties: "aw-bits=48,device-iotlb=on",
        stream: 4,
        width: 48,
        levels: &[3, 4],
        snoop_control: false,
        device_tlb: true,
    },
];
