//! Isolation groups, case by case.

use super::*;

struct Tree {
    log: Log,
    fabric: Arc<Fabric>,
}

impl Tree {
    fn new() -> Self {
        let log = Log::default();
        let fabric = new_fabric(&log);
        Self { log, fabric }
    }

    fn bridge(&self, bus: BusId, devfn: DevFn, kind: PortKind, acs: AcsFlags) -> BusId {
        self.fabric.add_bridge(bus, devfn, kind, acs).unwrap()
    }

    fn root_port(&self, devfn: DevFn, acs: AcsFlags) -> BusId {
        self.bridge(BusId::ROOT, devfn, PortKind::RootPort, acs)
    }

    fn endpoint(&self, bus: BusId, devfn: DevFn, acs: AcsFlags) {
        let mut builder = ConfigBuilder::endpoint(identity()).pcie(PortKind::Endpoint);
        if !acs.is_empty() {
            builder = builder.acs(acs);
        }
        self.function(bus, devfn, builder);
    }

    fn conventional(&self, bus: BusId, devfn: DevFn) {
        self.function(bus, devfn, ConfigBuilder::endpoint(identity()));
    }

    fn function(&self, bus: BusId, devfn: DevFn, builder: ConfigBuilder) {
        let probe = Probe::new(builder, upstream(&self.log));
        self.fabric.add(bus, devfn, probe).unwrap();
    }

    /// The groups but the host bridge's, as indices in the order of addition from 1.
    fn groups(&self, basis: AcsBasis) -> Vec<Vec<usize>> {
        let groups = self.fabric.groups(basis);
        assert_eq!(groups[0].members, [FunctionId(0)]);
        groups[1..]
            .iter()
            .map(|group| group.members.iter().map(|id| id.0).collect())
            .collect()
    }

    fn capable(&self) -> Vec<Vec<usize>> {
        self.groups(AcsBasis::Capability)
    }
}

const NONE: AcsFlags = AcsFlags::empty();
const ACS: AcsFlags = AcsFlags::ISOLATION;

#[test]
fn devices_on_the_root_bus_stand_alone() {
    let tree = Tree::new();
    tree.endpoint(BusId::ROOT, at(1, 0), NONE);
    tree.endpoint(BusId::ROOT, at(2, 0), NONE);
    assert_eq!(tree.capable(), [[1], [2]]);
}

#[test]
fn functions_of_a_device_without_acs_share() {
    let tree = Tree::new();
    tree.endpoint(BusId::ROOT, at(1, 0), NONE);
    tree.endpoint(BusId::ROOT, at(1, 1), NONE);
    tree.endpoint(BusId::ROOT, at(1, 2), ACS);
    tree.endpoint(BusId::ROOT, at(1, 3), NONE);
    assert_eq!(tree.capable(), [vec![1, 2, 4], vec![3]]);
}

#[test]
fn a_root_port_with_acs_stands_apart_from_what_is_behind() {
    let tree = Tree::new();
    let bus = tree.root_port(at(1, 0), ACS);
    tree.endpoint(bus, at(0, 0), NONE);
    assert_eq!(tree.capable(), [[1], [2]]);
}

#[test]
fn a_root_port_without_acs_takes_in_what_is_behind() {
    let tree = Tree::new();
    let bus = tree.root_port(at(1, 0), NONE);
    tree.endpoint(bus, at(0, 0), NONE);
    let other = tree.root_port(at(2, 0), ACS);
    tree.endpoint(other, at(0, 0), NONE);
    assert_eq!(tree.capable(), [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn root_ports_of_one_device_without_acs_share_with_all_behind() {
    let tree = Tree::new();
    let left = tree.root_port(at(1, 0), NONE);
    let right = tree.root_port(at(1, 1), NONE);
    tree.endpoint(left, at(0, 0), NONE);
    tree.endpoint(right, at(0, 0), NONE);
    assert_eq!(tree.capable(), [[1, 2, 3, 4]]);
}

#[test]
fn a_switch_isolates_only_if_every_port_up_to_the_root_does() {
    for (root, downstream, expected) in [
        (
            ACS,
            ACS,
            vec![vec![1], vec![2], vec![3], vec![4], vec![5], vec![6]],
        ),
        (ACS, NONE, vec![vec![1], vec![2], vec![3, 5], vec![4, 6]]),
        (NONE, ACS, vec![vec![1, 2, 3, 4, 5, 6]]),
    ] {
        let tree = Tree::new();
        let bus = tree.root_port(at(1, 0), root);
        let switch = tree.bridge(bus, at(0, 0), PortKind::UpstreamPort, NONE);
        let left = tree.bridge(switch, at(0, 0), PortKind::DownstreamPort, downstream);
        let right = tree.bridge(switch, at(1, 0), PortKind::DownstreamPort, downstream);
        tree.endpoint(left, at(0, 0), NONE);
        tree.endpoint(right, at(0, 0), NONE);
        assert_eq!(tree.capable(), expected, "{root:?} {downstream:?}");
    }
}

#[test]
fn conventional_pci_shares_the_id_of_its_bridge() {
    let tree = Tree::new();
    let bus = tree.root_port(at(1, 0), ACS);
    let pci = tree.bridge(bus, at(0, 0), PortKind::PcieToPciBridge, NONE);
    tree.conventional(pci, at(1, 0));
    tree.conventional(pci, at(2, 0));
    assert_eq!(tree.capable(), [vec![1], vec![2, 3, 4]]);
    tree.fabric.assign().unwrap();
    let alias = Some(RequesterId::from_devfn(0, 2, 0));
    assert_eq!(tree.fabric.requester(FunctionId(3)), alias);
    assert_eq!(tree.fabric.requester(FunctionId(4)), alias);
    assert_eq!(
        tree.fabric.address(FunctionId(4)),
        RequesterId::new(0, 2, 2, 0)
    );
}

#[test]
fn of_several_bridges_to_conventional_pci_the_topmost_counts() {
    let tree = Tree::new();
    let bus = tree.root_port(at(1, 0), ACS);
    let outer = tree.bridge(bus, at(0, 0), PortKind::PcieToPciBridge, NONE);
    let bridge = Bridge::conventional(upstream(&tree.log)).unwrap();
    let id = tree.fabric.add(outer, at(5, 0), Arc::new(bridge)).unwrap();
    tree.conventional(tree.fabric.behind(id).unwrap(), at(6, 0));
    assert_eq!(tree.capable(), [vec![1], vec![2, 3, 4]]);
    tree.fabric.assign().unwrap();
    assert_eq!(
        tree.fabric.requester(FunctionId(4)),
        Some(RequesterId::from_devfn(0, 2, 0))
    );
}

#[test]
fn conventional_bridges_put_their_own_id() {
    let tree = Tree::new();
    let bridge = Bridge::conventional(upstream(&tree.log)).unwrap();
    let id = tree
        .fabric
        .add(BusId::ROOT, at(3, 0), Arc::new(bridge))
        .unwrap();
    let bus = tree.fabric.behind(id).unwrap();
    tree.conventional(bus, at(4, 0));
    assert_eq!(tree.capable(), [[1, 2]]);
    tree.fabric.assign().unwrap();
    assert_eq!(
        tree.fabric.requester(FunctionId(2)),
        RequesterId::new(0, 0, 3, 0)
    );
}

#[test]
fn by_control_a_port_isolates_once_software_enables_it() {
    let tree = Tree::new();
    let bus = tree.root_port(at(1, 0), ACS);
    tree.endpoint(bus, at(0, 0), NONE);
    assert_eq!(tree.groups(AcsBasis::Control), [[1, 2]]);
    let control = ecam(0, at(1, 0), FIRST_EXTENDED_CAPABILITY + 6);
    let partial = AcsFlags::SOURCE_VALIDATION.bits().to_le_bytes();
    tree.fabric.ecam_write(control, &partial);
    assert_eq!(tree.groups(AcsBasis::Control), [[1, 2]]);
    tree.fabric.ecam_write(control, &ACS.bits().to_le_bytes());
    assert_eq!(tree.groups(AcsBasis::Control), [[1], [2]]);
}
