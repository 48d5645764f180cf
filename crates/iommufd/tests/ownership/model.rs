//! The state machine once more, as literally as it can be written, without any unit.

use std::collections::{BTreeMap, BTreeSet};

use vm_iommufd::ownership::{DefaultType, DriverKind};

use crate::events::{Event, TABLES, Target};
use crate::machine::{DEVICES, DIRECT, GROUP_OF, IDENTITY, info_of};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const EADDRINUSE: i32 = 98;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelDevice {
    /// In its group.
    pub present: bool,
    /// Removed by surprise, and still claimed.
    pub gone: bool,
    pub driver: Option<DriverKind>,
    pub claimed: bool,
    pub depth: u32,
    /// Was removed in order and passes through.
    pub passes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Fixed(usize),
    /// An automatic table of a space, by its label.
    Automatic(usize, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    pub table: Name,
    pub members: BTreeSet<usize>,
    pub written: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub owner: Option<u64>,
    pub whole: bool,
    pub default: DefaultType,
    pub rows: BTreeMap<Option<u32>, ModelRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub devices: [ModelDevice; DEVICES],
    pub groups: [ModelGroup; 2],
    /// The labels of the automatic tables of each space that have users.
    pub automatic: [Vec<u64>; 3],
    /// Whether the unit serves PASIDs.
    pub pasids: bool,
    /// The label of the automatic table that is to be made next, if one is.
    pub next: u64,
}

type Outcome = Result<(), i32>;

fn check(fine: bool, errno: i32) -> Outcome {
    if fine { Ok(()) } else { Err(errno) }
}

impl Model {
    pub fn new(pasids: bool) -> Self {
        Self {
            devices: Default::default(),
            groups: Default::default(),
            automatic: Default::default(),
            pasids,
            next: 0,
        }
    }

    fn group(&self, device: usize) -> &ModelGroup {
        &self.groups[GROUP_OF[device] as usize]
    }

    fn group_mut(&mut self, device: usize) -> &mut ModelGroup {
        &mut self.groups[GROUP_OF[device] as usize]
    }

    fn members(&self, group: u64) -> impl Iterator<Item = usize> {
        (0..DEVICES).filter(move |&d| GROUP_OF[d] == group && self.devices[d].present)
    }

    pub fn is_there(&self, group: u64) -> bool {
        (0..DEVICES)
            .any(|d| GROUP_OF[d] == group && (self.devices[d].present || self.devices[d].gone))
    }

    pub fn kernel(&self, group: u64) -> bool {
        self.members(group)
            .any(|d| self.devices[d].driver == Some(DriverKind::Kernel))
    }

    fn recovering(&self, group: u64) -> bool {
        self.members(group).any(|d| self.devices[d].depth > 0)
    }

    fn pasid_bits(&self, device: usize) -> u8 {
        if self.pasids {
            info_of(device).pasid_bits
        } else {
            0
        }
    }

    fn serves(&self, device: usize, p: Option<u32>) -> bool {
        p.is_none() || self.pasid_bits(device) > 0
    }

    fn attached(&self, device: usize, p: Option<u32>) -> bool {
        let row = self.group(device).rows.get(&p);
        row.is_some_and(|row| row.members.contains(&device))
    }

    fn space(name: Name) -> usize {
        match name {
            Name::Fixed(table) => TABLES[table].space,
            Name::Automatic(space, _) => space,
        }
    }

    fn for_pasids(name: Name) -> bool {
        matches!(name, Name::Fixed(table) if TABLES[table].pasids)
    }

    /// Device 1 has a region that meets what space 1 maps.
    fn conflicts(device: usize, space: usize) -> bool {
        device == 1 && space == 1
    }

    pub fn label(name: Name) -> u64 {
        match name {
            Name::Fixed(table) => 1 + table as u64,
            Name::Automatic(_, label) => label,
        }
    }

    /// What a device is to read where domains have their label.
    pub fn reach(&self, device: usize, p: Option<u32>) -> Option<u64> {
        let state = &self.devices[device];
        let group = self.group(device);
        if p.is_none() && state.passes {
            return Some(IDENTITY);
        }
        if !state.present || state.depth > 0 {
            return None;
        }
        match p {
            None if group.owner.is_none() => Some(match group.default {
                DefaultType::Identity => IDENTITY,
                DefaultType::Translated => 1000 + GROUP_OF[device],
            }),
            None => Some(Self::label(group.rows.get(&None)?.table)),
            Some(_) => {
                let row = group.rows.get(&p)?;
                let reaches = row.written.contains(&device) && self.serves(device, p);
                reaches.then(|| Self::label(row.table))
            }
        }
    }

    pub fn step(&mut self, event: &Event) -> Outcome {
        let outcome = match *event {
            Event::Bind(d, kind) => self.bind(d, kind),
            Event::Unbind(d) => self.unbind(d),
            Event::Claim(d, c) => self.claim(d, c),
            Event::ClaimGroup(g, c) => self.claim_group(g, c),
            Event::ReleaseGroup(g, c) => self.release_group(g, c),
            Event::Release(d) => self.release(d),
            Event::Close(d) => self.close(d),
            Event::Attach(d, c, p, target) => self.attach(d, c, p, target),
            Event::Replace(d, c, p, target) => self.replace(d, c, p, target),
            Event::Detach(d, p) => {
                self.detach(d, p);
                Ok(())
            }
            Event::HotAdd(d) => self.hot_add(d),
            Event::Remove(d) => self.remove(d),
            Event::Surprise(d) => {
                self.surprise(d);
                Ok(())
            }
            Event::ResetBegin(d) => self.reset_begin(d),
            Event::ResetEnd(d) => self.reset_end(d),
            Event::SetDefault(g, kind) => self.set_default(g, kind),
        };
        self.bury();
        outcome
    }

    /// An automatic table dies with its last user.
    fn bury(&mut self) {
        let groups = self.groups.clone();
        for (space, labels) in self.automatic.iter_mut().enumerate() {
            labels.retain(|label| {
                let name = Name::Automatic(space, *label);
                let mut rows = groups.iter().flat_map(|group| group.rows.values());
                rows.any(|row| row.table == name)
            });
        }
    }

    fn bind(&mut self, d: usize, kind: DriverKind) -> Outcome {
        check(self.devices[d].present, ENODEV)?;
        check(self.devices[d].driver.is_none(), EBUSY)?;
        let owned = self.group(d).owner.is_some();
        check(kind != DriverKind::Kernel || !owned, EBUSY)?;
        self.devices[d].driver = Some(kind);
        Ok(())
    }

    fn unbind(&mut self, d: usize) -> Outcome {
        let device = &mut self.devices[d];
        check(device.present, ENODEV)?;
        let user = device.driver == Some(DriverKind::User);
        check(!user || !device.claimed, EBUSY)?;
        device.driver = None;
        Ok(())
    }

    fn first_claim(&self, group: u64) -> Outcome {
        check(!self.recovering(group), EBUSY)?;
        check(!self.members(group).any(|d| DIRECT.contains(&d)), EINVAL)
    }

    fn claim(&mut self, d: usize, c: u64) -> Outcome {
        let (device, group) = (&self.devices[d], self.group(d));
        check(!(device.present && device.claimed), EINVAL)?;
        check(device.present, ENODEV)?;
        let other = group.owner.is_some_and(|owner| owner != c || group.whole);
        check(!other && !self.kernel(GROUP_OF[d]), EPERM)?;
        if group.owner.is_none() {
            self.first_claim(GROUP_OF[d])?;
        }
        self.devices[d].claimed = true;
        self.group_mut(d).owner = Some(c);
        Ok(())
    }

    fn claim_group(&mut self, g: u64, c: u64) -> Outcome {
        let members: Vec<usize> = self.members(g).collect();
        check(!members.is_empty(), ENODEV)?;
        let owned = self.groups[g as usize].owner.is_some();
        check(!owned && !self.kernel(g), EPERM)?;
        self.first_claim(g)?;
        for d in members {
            self.devices[d].claimed = true;
        }
        let group = &mut self.groups[g as usize];
        group.owner = Some(c);
        group.whole = true;
        Ok(())
    }

    fn release_group(&mut self, g: u64, c: u64) -> Outcome {
        let group = &mut self.groups[g as usize];
        check(group.whole && group.owner == Some(c), EINVAL)?;
        check(group.rows.is_empty(), EBUSY)?;
        group.owner = None;
        group.whole = false;
        for d in (0..DEVICES).filter(|&d| GROUP_OF[d] == g) {
            self.devices[d].claimed = false;
            self.devices[d].gone = false;
        }
        self.dissolve(g);
        Ok(())
    }

    fn release(&mut self, d: usize) -> Outcome {
        check(self.devices[d].claimed && !self.group(d).whole, EINVAL)?;
        let mut rows = self.group(d).rows.values();
        check(!rows.any(|row| row.members.contains(&d)), EBUSY)?;
        self.devices[d].claimed = false;
        self.devices[d].gone = false;
        let g = GROUP_OF[d];
        if !(0..DEVICES).any(|d| GROUP_OF[d] == g && self.devices[d].claimed) {
            self.groups[g as usize].owner = None;
        }
        self.dissolve(g);
        Ok(())
    }

    fn close(&mut self, d: usize) -> Outcome {
        check(self.devices[d].claimed && !self.group(d).whole, EINVAL)?;
        let rows: Vec<_> = self.group(d).rows.keys().copied().collect();
        for p in rows {
            self.detach(d, p);
        }
        self.release(d)
    }

    fn for_attachment(&self, d: usize, c: u64, target: Target) -> Outcome {
        check(self.devices[d].present, ENODEV)?;
        check(target.context() == c, ENOENT)?;
        let owner = self.group(d).owner;
        check(self.devices[d].claimed && owner == Some(c), EINVAL)
    }

    fn attach(&mut self, d: usize, c: u64, p: Option<u32>, target: Target) -> Outcome {
        self.for_attachment(d, c, target)?;
        check(!self.attached(d, p), EBUSY)?;
        match target {
            Target::Table(table) => self.attach_table(d, p, Name::Fixed(table)),
            Target::Space(space) => {
                check(p.is_none(), EINVAL)?;
                for label in self.automatic[space].clone() {
                    match self.attach_table(d, p, Name::Automatic(space, label)) {
                        Err(EINVAL) => {}
                        outcome => return outcome,
                    }
                }
                check(!self.group(d).rows.contains_key(&p), EINVAL)?;
                let label = self.next;
                self.attach_table(d, p, Name::Automatic(space, label))?;
                self.automatic[space].push(label);
                Ok(())
            }
        }
    }

    fn attach_table(&mut self, d: usize, p: Option<u32>, name: Name) -> Outcome {
        let current = self.group(d).rows.get(&p).map(|row| row.table);
        check(current.is_none_or(|current| current == name), EINVAL)?;
        let conflict = Self::conflicts(d, Self::space(name));
        check(p.is_some() || !conflict, EADDRINUSE)?;
        if current.is_none() {
            self.first_of(d, p, name)?;
            let written = self.writes(d, p);
            let row = ModelRow {
                table: name,
                members: BTreeSet::new(),
                written,
            };
            self.group_mut(d).rows.insert(p, row);
        }
        let row = self.group_mut(d).rows.get_mut(&p).unwrap();
        row.members.insert(d);
        Ok(())
    }

    /// Whom a write reaches.
    fn writes(&self, d: usize, p: Option<u32>) -> BTreeSet<usize> {
        let members = self.members(GROUP_OF[d]);
        members.filter(|&d| self.serves(d, p)).collect()
    }

    fn first_of(&self, d: usize, p: Option<u32>, name: Name) -> Outcome {
        let info = info_of(d);
        let spec = match name {
            Name::Fixed(table) => Some(&TABLES[table]),
            Name::Automatic(..) => None,
        };
        let vf_pri = self.pasids && info.virtual_function && info.pri;
        let queue = spec.is_some_and(|spec| spec.fault_queue);
        check(!(vf_pri && queue), EINVAL)?;
        let rows = &self.group(d).rows;
        if p.is_some() {
            check(Self::for_pasids(name), EINVAL)?;
            let row = rows.get(&None);
            check(row.is_none_or(|row| Self::for_pasids(row.table)), EINVAL)?;
        } else {
            let pasids = rows.keys().any(Option::is_some);
            check(!pasids || Self::for_pasids(name), EINVAL)?;
        }
        check(p.is_none() || self.pasids, EOPNOTSUPP)?;
        check(!spec.is_some_and(|spec| spec.other_kind), EINVAL)?;
        check(!self.recovering(GROUP_OF[d]), EBUSY)?;
        if let Some(p) = p {
            let mut bits = self.members(GROUP_OF[d]).map(|d| self.pasid_bits(d));
            check(!bits.any(|bits| bits > 0 && p >= 1 << bits), EINVAL)?;
        }
        let foreign = spec.is_some_and(|spec| spec.foreign);
        check(!foreign || self.writes(d, p).is_empty(), EINVAL)
    }

    fn replace(&mut self, d: usize, c: u64, p: Option<u32>, target: Target) -> Outcome {
        self.for_attachment(d, c, target)?;
        check(self.attached(d, p), EINVAL)?;
        match target {
            Target::Table(table) => self.replace_table(d, p, Name::Fixed(table)),
            Target::Space(space) => {
                check(p.is_none(), EINVAL)?;
                for label in self.automatic[space].clone() {
                    match self.replace_table(d, p, Name::Automatic(space, label)) {
                        Err(EINVAL) => {}
                        outcome => return outcome,
                    }
                }
                let label = self.next;
                self.replace_table(d, p, Name::Automatic(space, label))?;
                self.automatic[space].push(label);
                Ok(())
            }
        }
    }

    fn replace_table(&mut self, d: usize, p: Option<u32>, name: Name) -> Outcome {
        let row = &self.group(d).rows[&p];
        if row.table == name {
            return Ok(());
        }
        if p.is_none() && Self::space(row.table) != Self::space(name) {
            let mut members = row.members.iter();
            let conflict = members.any(|&d| Self::conflicts(d, Self::space(name)));
            check(!conflict, EADDRINUSE)?;
        }
        self.first_of(d, p, name)?;
        let written = self.writes(d, p);
        let row = self.group_mut(d).rows.get_mut(&p).unwrap();
        row.table = name;
        row.written = written;
        Ok(())
    }

    fn detach(&mut self, d: usize, p: Option<u32>) {
        let rows = &mut self.group_mut(d).rows;
        if let Some(row) = rows.get_mut(&p) {
            row.members.remove(&d);
            if row.members.is_empty() {
                rows.remove(&p);
            }
        }
    }

    fn hot_add(&mut self, d: usize) -> Outcome {
        check(!self.devices[d].present && !self.devices[d].gone, EBUSY)?;
        self.devices[d].passes = false;
        let owned = self.group(d).owner.is_some();
        check(!(owned && DIRECT.contains(&d)), EINVAL)?;
        self.devices[d] = ModelDevice {
            present: true,
            ..ModelDevice::default()
        };
        Ok(())
    }

    fn leave(&mut self, d: usize) {
        self.devices[d].present = false;
        self.devices[d].driver = None;
        self.devices[d].depth = 0;
        for row in self.group_mut(d).rows.values_mut() {
            row.written.remove(&d);
        }
        self.dissolve(GROUP_OF[d]);
    }

    /// A group that nobody is in begins anew.
    fn dissolve(&mut self, g: u64) {
        if !self.is_there(g) {
            self.groups[g as usize] = ModelGroup::default();
        }
    }

    fn remove(&mut self, d: usize) -> Outcome {
        check(self.devices[d].present, ENODEV)?;
        check(!self.devices[d].claimed, EBUSY)?;
        self.leave(d);
        self.devices[d].passes = DIRECT.contains(&d);
        Ok(())
    }

    fn surprise(&mut self, d: usize) {
        if self.devices[d].present {
            self.devices[d].gone = self.devices[d].claimed;
            self.leave(d);
        }
    }

    fn reset_begin(&mut self, d: usize) -> Outcome {
        check(self.devices[d].present, ENODEV)?;
        if info_of(d).ats {
            self.devices[d].depth += 1;
        }
        Ok(())
    }

    fn reset_end(&mut self, d: usize) -> Outcome {
        check(self.devices[d].present, ENODEV)?;
        if info_of(d).ats {
            check(self.devices[d].depth > 0, EINVAL)?;
            self.devices[d].depth -= 1;
        }
        Ok(())
    }

    fn set_default(&mut self, g: u64, kind: DefaultType) -> Outcome {
        let owned = self.groups[g as usize].owner.is_some();
        check(!owned && !self.kernel(g), EPERM)?;
        self.groups[g as usize].default = kind;
        Ok(())
    }
}
