//! The events, and the tables that they name.

use proptest::prelude::*;
use vm_iommufd::ownership::{DefaultType, DriverKind};

use crate::machine::DEVICES;

/// A table that is there from the beginning.
pub struct TableSpec {
    pub space: usize,
    pub pasids: bool,
    pub fault_queue: bool,
    /// Of another unit of the same kind.
    pub foreign: bool,
    /// Of another kind of unit.
    pub other_kind: bool,
}

const PLAIN: TableSpec = TableSpec {
    space: 0,
    pasids: true,
    fault_queue: false,
    foreign: false,
    other_kind: false,
};

pub const TABLES: [TableSpec; 7] = [
    PLAIN,
    TableSpec {
        pasids: false,
        ..PLAIN
    },
    TableSpec { space: 1, ..PLAIN },
    TableSpec {
        space: 1,
        fault_queue: true,
        ..PLAIN
    },
    TableSpec {
        foreign: true,
        ..PLAIN
    },
    TableSpec {
        other_kind: true,
        ..PLAIN
    },
    TableSpec { space: 2, ..PLAIN },
];

/// The context of each address space.
pub const CONTEXT_OF: [u64; 3] = [1, 1, 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Table(usize),
    Space(usize),
}

impl Target {
    pub fn context(self) -> u64 {
        match self {
            Self::Table(table) => CONTEXT_OF[TABLES[table].space],
            Self::Space(space) => CONTEXT_OF[space],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Bind(usize, DriverKind),
    Unbind(usize),
    Claim(usize, u64),
    ClaimGroup(u64, u64),
    ReleaseGroup(u64, u64),
    Release(usize),
    Close(usize),
    Attach(usize, u64, Option<u32>, Target),
    Replace(usize, u64, Option<u32>, Target),
    Detach(usize, Option<u32>),
    HotAdd(usize),
    Remove(usize),
    Surprise(usize),
    ResetBegin(usize),
    ResetEnd(usize),
    SetDefault(u64, DefaultType),
}

/// The PASIDs in use: for all, for the wider devices, for none.
pub const PASIDS: [u32; 4] = [1, 3, 20, 300];

fn device() -> impl Strategy<Value = usize> {
    0..DEVICES
}

/// Mostly the first, so that much of what is tried is possible.
fn context() -> impl Strategy<Value = u64> {
    prop_oneof![6 => Just(1), 1 => Just(2)]
}

fn group() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => Just(1)]
}

fn pasid() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![3 => Just(None), 2 => proptest::sample::select(&PASIDS[..]).prop_map(Some)]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => (0..4_usize).prop_map(Target::Table),
        1 => (4..TABLES.len()).prop_map(Target::Table),
        2 => (0..3_usize).prop_map(Target::Space),
    ]
}

fn driver() -> impl Strategy<Value = DriverKind> {
    prop_oneof![
        Just(DriverKind::Kernel),
        Just(DriverKind::Safe),
        Just(DriverKind::User)
    ]
}

pub fn event() -> impl Strategy<Value = Event> {
    let attachment = || (device(), context(), pasid(), target());
    prop_oneof![
        2 => (device(), driver()).prop_map(|(d, kind)| Event::Bind(d, kind)),
        2 => device().prop_map(Event::Unbind),
        8 => (device(), context()).prop_map(|(d, c)| Event::Claim(d, c)),
        1 => (group(), context()).prop_map(|(g, c)| Event::ClaimGroup(g, c)),
        2 => (group(), context()).prop_map(|(g, c)| Event::ReleaseGroup(g, c)),
        3 => device().prop_map(Event::Release),
        1 => device().prop_map(Event::Close),
        14 => attachment().prop_map(|(d, c, p, t)| Event::Attach(d, c, p, t)),
        8 => attachment().prop_map(|(d, c, p, t)| Event::Replace(d, c, p, t)),
        4 => (device(), pasid()).prop_map(|(d, p)| Event::Detach(d, p)),
        4 => device().prop_map(Event::HotAdd),
        2 => device().prop_map(Event::Remove),
        1 => device().prop_map(Event::Surprise),
        2 => device().prop_map(Event::ResetBegin),
        3 => device().prop_map(Event::ResetEnd),
        1 => (group(), any::<bool>()).prop_map(|(g, identity)| {
            let kind = match identity {
                true => DefaultType::Identity,
                false => DefaultType::Translated,
            };
            Event::SetDefault(g, kind)
        }),
    ]
}
