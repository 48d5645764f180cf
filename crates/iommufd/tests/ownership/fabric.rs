//! Groups as the PCI fabric forms them.

use std::sync::Arc;

use vm_iommu_dma::{DmaPort, GuestRam, Upstream};
use vm_iommu_driver::iommu::{Iommu, UnitKind};
use vm_iommu_pci::{
    AcsBasis, AcsFlags, BusId, ConfigBuilder, ConfigSpace, DevFn, Fabric, Identity, PciFunction,
    PortKind, Windows,
};
use vm_iommu_spec::RequesterId;
use vm_iommufd::ownership::{ContextId, Ownership, OwnershipConfig, OwnershipError, members_of};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::faults::Faults;
use crate::mock::MockUnit;

/// A function with nothing but its config space.
struct Function {
    config: ConfigSpace,
    port: Arc<DmaPort>,
}

impl Function {
    fn new(kind: Option<PortKind>) -> Arc<Self> {
        let port = DmaPort::new(upstream());
        let builder = ConfigBuilder::endpoint(Identity::default());
        let builder = match kind {
            Some(kind) => builder.pcie(kind),
            None => builder,
        };
        Arc::new(Self {
            config: builder.build(&port).unwrap(),
            port,
        })
    }
}

impl PciFunction for Function {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn port(&self) -> &Arc<DmaPort> {
        &self.port
    }

    fn read_bar(&self, _: u8, _: u64, _: &mut [u8]) {}

    fn write_bar(&self, _: u8, _: u64, _: &[u8]) {}

    fn reset(&self) {}
}

fn upstream() -> Upstream {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    Upstream::direct(GuestRam::new(memory))
}

#[test]
fn members_carry_the_names_of_their_requests() {
    let windows = Windows {
        memory32: 0xc000_0000..=0xdfff_ffff,
        memory64: 0x40_0000_0000..=0x4f_ffff_ffff,
        io: 0xc000..=0xffff,
    };
    let fabric = Fabric::new(0, windows, upstream()).unwrap();
    let at = |device| DevFn::new(device, 0).unwrap();
    let acs = AcsFlags::ISOLATION;
    let port = |device| {
        let kind = PortKind::RootPort;
        fabric
            .add_bridge(BusId::ROOT, at(device), kind, acs)
            .unwrap()
    };
    // Two conventional functions behind a bridge, and an endpoint of its own.
    let (left, right) = (port(1), port(2));
    let kind = PortKind::PcieToPciBridge;
    let pci = fabric
        .add_bridge(left, at(0), kind, AcsFlags::empty())
        .unwrap();
    for device in [1, 2] {
        fabric.add(pci, at(device), Function::new(None)).unwrap();
    }
    let endpoint = Function::new(Some(PortKind::Endpoint));
    fabric.add(right, at(0), endpoint).unwrap();
    fabric.assign().unwrap();

    let unit = MockUnit::new(UnitKind::Mock, &Arc::new(Faults::default()));
    let unit = Arc::new(unit) as Arc<dyn Iommu>;
    let ownership = Ownership::new(OwnershipConfig::default());
    let mut devices = Vec::new();
    for group in fabric.groups(AcsBasis::Capability) {
        let (key, members) = members_of(&fabric, &group);
        for member in members {
            let address = fabric.address(member.function).unwrap();
            assert_eq!(member.info.requester, address);
            devices.push(ownership.add(&unit, member.info, key).unwrap());
        }
    }
    let device = |bus, device| {
        let requester = RequesterId::new(0, bus, device, 0).unwrap();
        devices
            .iter()
            .find(|device| device.requester() == requester)
            .unwrap()
    };
    // What lies behind the bridge to conventional PCI asks in the name of its secondary bus.
    let (one, two) = (device(2, 1), device(2, 2));
    let alias = RequesterId::new(0, 2, 0, 0).unwrap();
    assert_eq!(
        (&one.info().aliases[..], &two.info().aliases[..]),
        (&[alias][..], &[alias][..])
    );
    let apart = device(3, 0);
    assert!(apart.info().aliases.is_empty());

    let group = |device: &vm_iommufd::ownership::Device| device.group().unwrap();
    assert!(Arc::ptr_eq(&group(one), &group(two)));
    assert!(!Arc::ptr_eq(&group(one), &group(apart)));
    one.claim(ContextId(1)).unwrap();
    assert_eq!(two.claim(ContextId(2)), Err(OwnershipError::NotPermitted));
    apart.claim(ContextId(2)).unwrap();
}
