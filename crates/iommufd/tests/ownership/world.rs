//! The framework, a machine, and the model beside them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use vm_iommu_driver::iommu::{Domain, DomainKind, PagingOptions, UnitKind};
use vm_iommu_spec::{Pasid, RequesterId};
use vm_iommufd::ownership::{
    ContextId, Device, DriverKind, GroupKey, GroupView, Ownership, OwnershipConfig, OwnershipError,
    Target,
};

use crate::events::{self, CONTEXT_OF, Event, PASIDS, TABLES};
use crate::faults::Faults;
use crate::machine::{DEVICES, FIRST, GROUP_OF, Machine, REQUESTERS, direct_regions, info_of};
use crate::mock::MockUnit;
use crate::model::{Model, Name};
use crate::tables::{TestSpace, TestTable};

/// The labels of automatic tables begin here.
pub const AUTOMATIC: u64 = 100;

/// What an injected fault may make of an event.
const OF_FAULTS: [i32; 2] = [5, 12];

pub struct World<M> {
    pub machine: Arc<M>,
    pub ownership: Ownership,
    pub devices: [Option<Arc<Device>>; DEVICES],
    pub spaces: Vec<Arc<TestSpace>>,
    pub tables: Vec<Arc<TestTable>>,
    pub model: Model,
    labels: Arc<Labels>,
    labelled: [Option<Weak<dyn Domain>>; 2],
}

/// The labels of automatic tables, each taken as long as its domain lives.
#[derive(Default)]
struct Labels(Mutex<BTreeMap<u64, Weak<dyn Domain>>>);

impl Labels {
    /// The one that is taken next.
    fn free(&self) -> u64 {
        let mut taken = self.0.lock().unwrap();
        taken.retain(|_, domain| domain.strong_count() != 0);
        let mut labels = AUTOMATIC..;
        labels
            .find(|label| !taken.contains_key(label))
            .expect("a label")
    }

    fn take(&self, domain: &Arc<dyn Domain>) -> u64 {
        let label = self.free();
        self.0.lock().unwrap().insert(label, Arc::downgrade(domain));
        label
    }
}

/// All that must be as it was after an event that failed.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    views: Vec<GroupView>,
    reached: Vec<Option<u64>>,
    uses: Vec<BTreeMap<(RequesterId, Option<Pasid>), usize>>,
    reserved: Vec<Vec<RequesterId>>,
    footprint: Vec<u64>,
}

fn pasid(p: Option<u32>) -> Option<Pasid> {
    p.map(|p| Pasid::new(p).expect("20 bits"))
}

impl<M: Machine + Send + Sync + 'static> World<M> {
    pub fn new(machine: M) -> Self {
        let machine = Arc::new(machine);
        let unit = machine.unit();
        let ownership = Ownership::new(OwnershipConfig::default());
        let mut devices: [Option<Arc<Device>>; DEVICES] = Default::default();
        let mut model = Model::new(M::PASIDS);
        for (d, slot) in devices.iter_mut().enumerate().take(FIRST) {
            let added = ownership.add(&unit, info_of(d), GroupKey(GROUP_OF[d]));
            *slot = Some(added.expect("a first device"));
            model.step(&Event::HotAdd(d)).expect("a first device");
        }
        let labels = Arc::new(Labels::default());
        let spaces: Vec<_> = CONTEXT_OF
            .iter()
            .enumerate()
            .map(|(index, &context)| {
                let conflicts: &[RequesterId] = match index {
                    1 => &REQUESTERS[1..2],
                    _ => &[],
                };
                let (machine, labels) = (Arc::clone(&machine), Arc::clone(&labels));
                let labeller = move |domain: &Arc<dyn Domain>| {
                    let label = labels.take(domain);
                    if machine.label(domain, label) {
                        label
                    } else {
                        0
                    }
                };
                let id = index as u64;
                TestSpace::new(id, ContextId(context), conflicts, Box::new(labeller))
            })
            .collect();
        let tables = TABLES
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let label = 1 + index as u64;
                let domain = if spec.other_kind {
                    let faults = Arc::new(Faults::default());
                    let other = match unit.kind() {
                        UnitKind::Amdvi => UnitKind::Vtd,
                        _ => UnitKind::Amdvi,
                    };
                    MockUnit::new(other, &faults).domain(DomainKind::Paging)
                } else if spec.foreign {
                    machine.foreign_domain()
                } else {
                    let options = PagingOptions::default();
                    let domain = unit.paging_domain(REQUESTERS[0], options, None).unwrap();
                    assert!(machine.label(&domain, label));
                    domain
                };
                Arc::new(TestTable {
                    for_pasids: spec.pasids,
                    fault_queue: spec.fault_queue,
                    ..spaces[spec.space].table(domain, label)
                })
            })
            .collect();
        let mut world = Self {
            machine,
            ownership,
            devices,
            spaces,
            tables,
            model,
            labels,
            labelled: Default::default(),
        };
        world.label_defaults();
        world.verify();
        world
    }

    pub fn device(&self, d: usize) -> &Device {
        self.devices[d].as_ref().expect("a device that was added")
    }

    pub fn target(&self, target: events::Target) -> Target {
        match target {
            events::Target::Table(table) => Target::Table(Arc::clone(&self.tables[table]) as _),
            events::Target::Space(space) => Target::Space(Arc::clone(&self.spaces[space]) as _),
        }
    }

    /// Carries out an event on both sides, and looks at nothing but its outcome. Yields whether
    /// the state changed.
    pub fn apply_unobserved(&mut self, event: Event) -> bool {
        if !self.is_possible(event) {
            return false;
        }
        let mut after = self.model.clone();
        after.next = self.labels.free();
        let expected = after.step(&event);
        let outcome = self.real(event).map_err(OwnershipError::errno);
        assert_eq!(outcome, expected, "{event:?}");
        if outcome.is_err() {
            if let Event::HotAdd(d) = event {
                self.model.devices[d].passes = after.devices[d].passes;
            }
            return false;
        }
        self.label_defaults();
        let changed = self.model != after;
        self.model = after;
        changed
    }

    /// Carries out an event on both sides. The operation after `fault` others fails, if there is
    /// one. Yields the outcome, and whether the fault struck.
    pub fn apply(&mut self, event: Event, fault: Option<u64>) -> (Result<(), i32>, bool) {
        if !self.is_possible(event) {
            return (Ok(()), false);
        }
        let before = self.snapshot();
        let mut after = self.model.clone();
        after.next = self.labels.free();
        let expected = after.step(&event);
        if let Some(passing) = fault {
            self.machine.faults().arm(passing);
        }
        let outcome = self.real(event).map_err(OwnershipError::errno);
        let struck = self.machine.faults().disarm() && fault.is_some();
        match (expected, outcome) {
            (Ok(()), Ok(())) => self.model = after,
            (_, Err(errno)) if expected == outcome || struck && OF_FAULTS.contains(&errno) => {
                self.failed(event, before);
            }
            _ => panic!("{event:?} gave {outcome:?} instead of {expected:?}, fault: {struck}"),
        }
        self.label_defaults();
        self.verify();
        (outcome, struck)
    }

    /// Nothing has changed, but that a device that could not be added is blocked.
    fn failed(&mut self, event: Event, mut before: Snapshot) {
        let mut now = self.snapshot();
        if let Event::HotAdd(d) = event
            && self.model.devices[d].passes
        {
            let reached = self.machine.observe(REQUESTERS[d], None);
            self.model.devices[d].passes = reached.is_some();
            now.reached.clone_from(&before.reached);
            now.footprint = Vec::new();
            before.footprint = Vec::new();
        }
        // A region that was mapped and unmapped leaves empty tables in the default domain, which
        // go with it: at most one for each level below the root, for each of its pages.
        if let Event::HotAdd(d) = event
            && !direct_regions(REQUESTERS[d]).is_empty()
            && let ([now, ..], [before, ..]) = (&mut now.footprint[..], &mut before.footprint[..])
            && (*before..=*before + 6).contains(now)
        {
            *before = *now;
        }
        assert_eq!(now, before, "{event:?} failed, but left something behind");
    }

    /// Whether there is somebody to tell the event; for an event of a group, whether it is there.
    fn is_possible(&self, event: Event) -> bool {
        let known = |d: usize| self.devices[d].is_some();
        match event {
            Event::ClaimGroup(g, _) | Event::ReleaseGroup(g, _) | Event::SetDefault(g, _) => {
                self.model.is_there(g)
            }
            Event::HotAdd(_) => true,
            Event::Bind(d, _)
            | Event::Unbind(d)
            | Event::Claim(d, _)
            | Event::Release(d)
            | Event::Close(d)
            | Event::Attach(d, ..)
            | Event::Replace(d, ..)
            | Event::Detach(d, _)
            | Event::Remove(d)
            | Event::Surprise(d)
            | Event::ResetBegin(d)
            | Event::ResetEnd(d) => known(d),
        }
    }

    fn real(&mut self, event: Event) -> Result<(), OwnershipError> {
        let group = |g: u64| self.ownership.group(GroupKey(g)).expect("a group");
        match event {
            Event::Bind(d, kind) => self.device(d).bind(kind),
            Event::Unbind(d) => self.device(d).try_unbind(),
            Event::Claim(d, c) => self.device(d).claim(ContextId(c)),
            Event::ClaimGroup(g, c) => group(g).claim(ContextId(c)),
            Event::ReleaseGroup(g, c) => group(g).release(ContextId(c)),
            Event::Release(d) => self.device(d).release(),
            Event::Close(d) => self.device(d).close(),
            Event::Attach(d, c, p, target) => {
                let target = self.target(target);
                self.device(d).attach(ContextId(c), pasid(p), &target)
            }
            Event::Replace(d, c, p, target) => {
                let target = self.target(target);
                self.device(d).replace(ContextId(c), pasid(p), &target)
            }
            Event::Detach(d, p) => {
                self.device(d).detach(pasid(p));
                Ok(())
            }
            Event::HotAdd(d) => {
                let key = GroupKey(GROUP_OF[d]);
                let unit = self.machine.unit();
                self.devices[d] = Some(self.ownership.add(&unit, info_of(d), key)?);
                Ok(())
            }
            Event::Remove(d) => self.device(d).try_remove(),
            Event::Surprise(d) => {
                self.device(d).surprise_remove();
                Ok(())
            }
            Event::ResetBegin(d) => self.device(d).reset_begin(),
            Event::ResetEnd(d) => self.device(d).reset_end(),
            Event::SetDefault(g, kind) => group(g).set_default_type(kind),
        }
    }

    /// Gives default domains that are new their labels.
    fn label_defaults(&mut self) {
        for (g, labelled) in (0..2_u64).zip(&mut self.labelled) {
            let Some(group) = self.ownership.group(GroupKey(g)) else {
                continue;
            };
            let domain = group.default_domain();
            let known = labelled
                .as_ref()
                .is_some_and(|known| Weak::ptr_eq(known, &Arc::downgrade(&domain)));
            if !known && domain.kind() == DomainKind::Paging {
                assert!(self.machine.label(&domain, 1000 + g));
            }
            *labelled = Some(Arc::downgrade(&domain));
        }
    }

    /// Each device with each PASID, and without.
    fn kinds() -> impl Iterator<Item = (usize, Option<u32>)> {
        let pasids = if M::PASIDS { &PASIDS[..] } else { &[] };
        (0..DEVICES).flat_map(move |d| {
            let pasids = pasids.iter().map(move |p| (d, Some(*p)));
            pasids.chain([(d, None)])
        })
    }

    fn snapshot(&self) -> Snapshot {
        let groups = self.ownership.groups();
        let used = self.all_tables().into_iter();
        Snapshot {
            views: groups.iter().map(|(_, group)| group.view()).collect(),
            reached: Self::kinds()
                .map(|(d, p)| self.machine.observe(REQUESTERS[d], pasid(p)))
                .collect(),
            uses: used
                .map(|table| table.uses.lock().unwrap().clone())
                .collect(),
            reserved: self.spaces.iter().map(|space| sorted(space)).collect(),
            footprint: self.machine.footprint(),
        }
    }

    fn all_tables(&self) -> Vec<Arc<TestTable>> {
        let automatic = self.spaces.iter().flat_map(|space| space.automatic());
        self.tables.iter().cloned().chain(automatic).collect()
    }

    /// The invariants, and that the machine is where the model is.
    pub fn verify(&self) {
        for (d, p) in Self::kinds() {
            let reached = self.machine.observe(REQUESTERS[d], pasid(p));
            assert_eq!(reached, self.model.reach(d, p), "device {d}, pasid {p:?}");
            let owned = self.model.groups[GROUP_OF[d] as usize].owner.is_some();
            if owned && self.model.devices[d].present {
                let user_labels = 1..1000;
                assert!(reached.is_none_or(|label| user_labels.contains(&label)));
            }
        }
        for g in 0..2 {
            self.verify_group(g);
        }
        for table in self.all_tables() {
            let mut uses = BTreeMap::new();
            for group in &self.model.groups {
                for (p, row) in &group.rows {
                    if Model::label(row.table) == table.label {
                        for d in &row.members {
                            uses.insert((REQUESTERS[*d], pasid(*p)), 1);
                        }
                    }
                }
            }
            assert_eq!(*table.uses.lock().unwrap(), uses, "table {}", table.label);
        }
        for (index, space) in self.spaces.iter().enumerate() {
            let mut expected = Vec::new();
            for row in self
                .model
                .groups
                .iter()
                .filter_map(|group| group.rows.get(&None))
            {
                let of_space = match row.table {
                    Name::Fixed(table) => TABLES[table].space == index,
                    Name::Automatic(space, _) => space == index,
                };
                if of_space {
                    expected.extend(row.members.iter().map(|d| REQUESTERS[*d]));
                }
            }
            expected.sort();
            assert_eq!(sorted(space), expected, "space {index}");
        }
    }

    fn verify_group(&self, g: u64) {
        let model = &self.model.groups[g as usize];
        let Some(group) = self.ownership.group(GroupKey(g)) else {
            assert!(!self.model.is_there(g), "group {g} is missing");
            return;
        };
        assert!(self.model.is_there(g), "group {g} is still there");
        let view = group.view();
        assert_eq!(view.owner, model.owner.map(ContextId));
        assert_eq!(view.owner.is_some(), view.claims() != 0);
        assert_eq!(view.default_type, model.default);
        assert_eq!(view.stuck().count(), 0);
        let claimed = |requester: RequesterId| {
            let mut devices = view.devices.iter();
            devices.any(|device| device.requester == requester && device.claimed)
        };
        for (_, attached) in &view.attached {
            assert!(!attached.is_empty());
            assert!(attached.iter().all(|device| claimed(*device)));
        }
        let kernel = |driver| driver == Some(DriverKind::Kernel);
        if view.owner.is_some() {
            assert!(!view.devices.iter().any(|device| kernel(device.driver)));
        }
        for device in &view.devices {
            let d = REQUESTERS
                .iter()
                .position(|other| *other == device.requester);
            let expected = &self.model.devices[d.expect("one of the devices")];
            assert_eq!(device.claimed, expected.claimed);
            assert_eq!(device.driver, expected.driver);
            assert_eq!(device.gone, expected.gone);
            assert_eq!(device.reset_depth, expected.depth);
        }
    }
}

fn sorted(space: &TestSpace) -> Vec<RequesterId> {
    let mut reserved = space.reserved.lock().unwrap().clone();
    reserved.sort();
    reserved
}
