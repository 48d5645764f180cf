//! Random transitions while devices do DMA: each access matches the reach of some state between
//! its begin and its end, and while a group is owned its default domain is not touched.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use vm_iommu_dma::DmaHandle;
use vm_iommu_driver::SpinBudget;
use vm_iommu_pagetable::TableMemory;
use vm_iommu_spec::{Fault, Iova, PhysAddr};

use crate::events::{Event, event};
use crate::machine::{DEVICES, GROUP_OF, IDENTITY};
use crate::unit::{AmdViKind, Kind, PROBE, Registers, USUAL, UnitMachine, VtdKind};
use crate::world::World;

/// How many transitions are made.
const TRANSITIONS: u64 = 100_000;

/// After how many of them the accesses are looked at.
const ROUND: u64 = 1000;

/// After how many of them each thread must have had a turn, however busy the machine is.
const TURN: u64 = 500;

/// How long a thread rests after a turn.
const PAUSE: Duration = Duration::from_micros(20);

/// Which devices each thread plays.
const THREADS: [&[usize]; 3] = [&[0, 3], &[1, 4, 5], &[2, 6, 7]];

/// The global counter that stamps accesses and transitions.
static CLOCK: AtomicU64 = AtomicU64::new(0);

fn stamp() -> u64 {
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

/// An access, and the label of the page that it reached, or why it was refused.
#[derive(Debug)]
struct Access {
    device: usize,
    begin: u64,
    end: u64,
    reached: Result<u64, Fault>,
}

/// A device came to reach something else.
#[derive(Debug)]
struct Change {
    begin: u64,
    end: u64,
    to: Option<u64>,
}

/// Where a device writes in whatever page it reaches.
fn slot(device: usize) -> u64 {
    8 * (1 + device as u64)
}

/// The labels there can be, and their pages.
fn pages<K: Kind>(machine: &UnitMachine<K>) -> Vec<(u64, PhysAddr)> {
    let labels = (1..8).chain(100..108).chain([1000, 1001]);
    let pages = labels.map(|label| (label, machine.page_of(label)));
    pages.chain([(IDENTITY, PhysAddr(PROBE.0))]).collect()
}

/// Tells the threads to stop, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads and writes in turn until told to stop.
fn play<K: Kind>(
    machine: &UnitMachine<K>,
    devices: &[usize],
    turns: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<Access> {
    let handles: Vec<(usize, DmaHandle)> = devices
        .iter()
        .map(|device| (*device, machine.ports[*device].handle()))
        .collect();
    let pages = pages(machine);
    let mut accesses = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for (device, handle) in &handles {
            let mut data = [0; 8];
            let begin = stamp();
            let outcome = handle.read(PROBE, &mut data);
            let end = stamp();
            accesses.push(Access {
                device: *device,
                begin,
                end,
                reached: outcome
                    .map(|()| u64::from_le_bytes(data))
                    .map_err(|partial| partial.fault),
            });
            let begin = stamp();
            let place = Iova(PROBE.0 + slot(*device));
            let outcome = handle.write(place, &begin.to_le_bytes());
            let end = stamp();
            // Nobody else writes there: the page that has the value is the one that was reached.
            let written = |page: PhysAddr| {
                let place = PhysAddr(page.0 + slot(*device));
                machine.ram.load(place) == Ok(begin)
            };
            let reached = outcome.map_err(|partial| partial.fault).map(|()| {
                let mut pages = pages.iter();
                let page = pages.find(|(_, page)| written(*page));
                page.expect("a written page").0
            });
            accesses.push(Access {
                device: *device,
                begin,
                end,
                reached,
            });
        }
        turns.fetch_add(1, Ordering::Relaxed);
        // Who sleeps between accesses is seldom interrupted in one, where drains would wait for it.
        thread::sleep(PAUSE);
    }
    accesses
}

/// Whether an access matches one of the states of its time. During a change, refusal is one.
fn matches(access: &Access, first: Option<u64>, changes: &[Change]) -> bool {
    // The changes that had ended before the access began; the last of them led to its first state.
    let over = changes.partition_point(|change| change.end < access.begin);
    let state = match over.checked_sub(1) {
        Some(last) => changes[last].to,
        None => first,
    };
    let during = changes[over..]
        .iter()
        .take_while(|change| change.begin < access.end);
    let mut allowed: Vec<_> = [state].into_iter().collect();
    for change in during {
        allowed.extend([change.to, None]);
    }
    allowed.contains(&access.reached.ok())
}

/// The devices of a group.
fn members<K: Kind>(world: &World<UnitMachine<K>>, group: u64) -> impl Iterator<Item = usize> {
    (0..DEVICES).filter(move |&d| GROUP_OF[d] == group && world.model.devices[d].present)
}

/// What is in the default domain of a group, and where devices pass through to.
fn canaries<K: Kind>(
    machine: &UnitMachine<K>,
    world: &World<UnitMachine<K>>,
    group: u64,
) -> Vec<u64> {
    let defaults = [machine.page_of(1000 + group), PhysAddr(PROBE.0)];
    members(world, group)
        .flat_map(|d| defaults.map(|page| (d, page)))
        .map(|(d, page)| machine.ram.load(PhysAddr(page.0 + slot(d))).unwrap())
        .collect()
}

#[test]
fn a_hundred_thousand_transitions_under_dma_on_a_vtd_unit() {
    transitions::<VtdKind<USUAL>>();
}

#[test]
fn a_hundred_thousand_transitions_under_dma_on_an_amdvi_unit() {
    transitions::<AmdViKind<USUAL>>();
}

fn transitions<K: Kind>() {
    let machine = UnitMachine::<K>::with_budget(SpinBudget(10_000_000));
    let mut world = World::new(machine);
    let machine = std::sync::Arc::clone(&world.machine);
    let strategy = event();
    let mut runner = TestRunner::deterministic();
    let mut made = 0;
    let (mut total, mut refused, mut spanning) = (0, 0, 0_u64);
    // For each group, who was there when it came to be owned, and the canaries then.
    let mut owned: [Option<(Vec<usize>, Vec<u64>)>; 2] = [None, None];
    while made < TRANSITIONS {
        let before = machine.unit.refused();
        let first: Vec<_> = (0..DEVICES).map(|d| world.model.reach(d, None)).collect();
        let mut changes: [Vec<Change>; DEVICES] = Default::default();
        let stop = AtomicBool::new(false);
        let turns: [AtomicU64; THREADS.len()] = Default::default();
        let accesses: Vec<Access> = thread::scope(|scope| {
            let (machine, stop) = (&machine, &stop);
            let threads: Vec<_> = THREADS
                .iter()
                .zip(&turns)
                .map(|(devices, turns)| scope.spawn(|| play(machine, devices, turns, stop)))
                .collect();
            let stops = Stop(stop);
            let goal = (made + ROUND).min(TRANSITIONS);
            while made < goal {
                let event = strategy.new_tree(&mut runner).unwrap().current();
                for (group, owned) in (0..2).zip(&owned) {
                    if let Some((_, then)) = owned {
                        let found = canaries(machine, &world, group);
                        assert_eq!(
                            found, *then,
                            "a default domain was touched before {event:?}"
                        );
                    }
                }
                let earlier: Vec<_> = (0..DEVICES).map(|d| world.model.reach(d, None)).collect();
                let begin = stamp();
                let changed = world.apply_unobserved(event);
                let end = stamp();
                made += u64::from(changed);
                for d in 0..DEVICES {
                    let to = world.model.reach(d, None);
                    // A device that passes through when it is removed may have done so before, and
                    // is refused between the two; so is one that is added again.
                    let comes_or_goes =
                        matches!(event, Event::HotAdd(e) | Event::Remove(e) if e == d);
                    if to != earlier[d] || comes_or_goes {
                        changes[d].push(Change { begin, end, to });
                    }
                }
                if changed && made.is_multiple_of(TURN) {
                    for turns in &turns {
                        let before = turns.load(Ordering::Relaxed);
                        while turns.load(Ordering::Relaxed) == before
                            && !threads.iter().any(|thread| thread.is_finished())
                        {
                            thread::yield_now();
                        }
                    }
                }
                for (group, owned) in (0..2).zip(&mut owned) {
                    let members: Vec<_> = members(&world, group).collect();
                    let is_owned = world.model.groups[group as usize].owner.is_some();
                    if !is_owned {
                        *owned = None;
                    } else if owned.as_ref().is_none_or(|(then, _)| *then != members) {
                        *owned = Some((members, canaries(machine, &world, group)));
                    }
                }
            }
            drop(stops);
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.flatten().collect()
        });
        for access in &accesses {
            let (first, changes) = (first[access.device], &changes[access.device]);
            assert!(
                matches(access, first, changes),
                "{access:?} of {:?} and then {:?}",
                (
                    first,
                    changes.iter().rfind(|change| change.end < access.begin)
                ),
                changes.iter().find(|change| change.end >= access.begin)
            );
            let over = changes.partition_point(|change| change.end < access.begin);
            let next = changes.get(over);
            spanning += u64::from(next.is_some_and(|change| change.begin < access.end));
        }
        let refusals = accesses.iter().filter(|access| access.reached.is_err());
        let refusals = refusals.count() as u64;
        assert_eq!(machine.unit.refused() - before, refusals, "each is counted");
        total += accesses.len() as u64;
        refused += refusals;
        world.verify();
    }
    println!("{made} transitions, {total} accesses, {refused} refused, {spanning} during a change");
    // The devices were neither idle nor always refused, and some accesses met a change.
    assert!(refused > 0 && total - refused > made / 10 && spanning > 0);
}
