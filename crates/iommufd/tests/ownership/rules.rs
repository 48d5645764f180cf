//! The rules one by one, on a mock unit; what a VT-d unit makes of them, the other tests show.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use vm_iommu_driver::iommu::{DeviceInfo, Domain, DomainKind, Iommu, UnitKind};
use vm_iommu_spec::{Iova, Pasid, PhysAddr, RequesterId};
use vm_iommufd::ownership::{
    ContextId, DefaultType, Device, DriverKind, Group, GroupKey, Ownership, OwnershipConfig,
    OwnershipError, Table, Target,
};

use crate::faults::Faults;
use crate::machine::REQUESTERS;
use crate::mock::{MockUnit, mock_domain};
use crate::tables::{TestSpace, TestTable};

const OURS: ContextId = ContextId(1);
const THEIRS: ContextId = ContextId(2);
const DEFAULT: u64 = 1000;

/// Two devices in a group, and one in another.
struct Bed {
    unit: Arc<MockUnit>,
    ownership: Ownership,
    first: Arc<Device>,
    second: Arc<Device>,
    alone: Arc<Device>,
    group: Arc<Group>,
    space: Arc<TestSpace>,
}

fn plain(requester: RequesterId) -> DeviceInfo {
    DeviceInfo::new(requester)
}

fn space(context: ContextId, label: u64) -> Arc<TestSpace> {
    let labeller = move |domain: &Arc<dyn Domain>| {
        let domain = mock_domain(domain).expect("one of ours");
        domain.label.store(label, Ordering::SeqCst);
        label
    };
    TestSpace::new(label, context, &[], Box::new(labeller))
}

impl Bed {
    fn new() -> Self {
        Self::with(|_| {}, plain)
    }

    fn with(change: impl Fn(&mut MockUnit), info: fn(RequesterId) -> DeviceInfo) -> Self {
        let mut unit = MockUnit::new(UnitKind::Mock, &Arc::new(Faults::default()));
        change(&mut unit);
        let unit = Arc::new(unit);
        let iommu = Arc::clone(&unit) as Arc<dyn Iommu>;
        let ownership = Ownership::new(OwnershipConfig::default());
        let add = |d: usize, group| {
            let added = ownership.add(&iommu, info(REQUESTERS[d]), GroupKey(group));
            added.unwrap()
        };
        let (first, second, alone) = (add(0, 0), add(1, 0), add(3, 1));
        let group = first.group().unwrap();
        let bed = Self {
            unit,
            ownership,
            first,
            second,
            alone,
            group,
            space: space(OURS, 7),
        };
        for group in [&bed.group, &bed.alone.group().unwrap()] {
            label(&group.default_domain(), DEFAULT);
        }
        bed
    }

    fn table(&self, number: u64) -> Arc<TestTable> {
        self.table_in(&self.space, number)
    }

    fn table_in(&self, space: &Arc<TestSpace>, number: u64) -> Arc<TestTable> {
        let domain = self.unit.domain(DomainKind::Paging);
        label(&domain, number);
        Arc::new(space.table(domain, number))
    }

    /// What the devices of the group reach.
    fn reached(&self) -> [Option<u64>; 2] {
        [&self.first, &self.second].map(|device| self.unit.observe(device.requester(), None))
    }
}

fn label(domain: &Arc<dyn Domain>, label: u64) {
    let domain = mock_domain(domain).expect("one of ours");
    domain.label.store(label, Ordering::SeqCst);
}

fn to(table: &Arc<TestTable>) -> Target {
    Target::Table(Arc::clone(table) as Arc<dyn Table>)
}

#[test]
fn the_first_claim_blocks_the_group_and_the_last_release_gives_the_default_back() {
    let bed = Bed::new();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
    bed.first.claim(OURS).unwrap();
    assert_eq!(bed.reached(), [None; 2]);
    bed.second.claim(OURS).unwrap();
    assert_eq!(bed.group.view().claims(), 2);
    bed.first.release().unwrap();
    assert_eq!(bed.reached(), [None; 2]);
    assert_eq!(bed.group.view().owner, Some(OURS));
    bed.second.release().unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
    assert_eq!(bed.group.view().owner, None);
}

#[test]
fn the_first_attach_moves_the_group_and_the_last_detach_blocks_it() {
    let bed = Bed::new();
    let table = bed.table(1);
    bed.first.claim(OURS).unwrap();
    bed.second.claim(OURS).unwrap();
    bed.first.attach(OURS, None, &to(&table)).unwrap();
    assert_eq!(bed.reached(), [Some(1); 2]);
    bed.second.attach(OURS, None, &to(&table)).unwrap();
    assert_eq!(bed.group.view().attachments(None), 2);
    assert_eq!(table.users(), 2);
    bed.first.detach(None);
    assert_eq!(bed.reached(), [Some(1); 2]);
    bed.second.detach(None);
    assert_eq!(
        bed.reached(),
        [None; 2],
        "blocked, not on the default domain"
    );
    assert_eq!(table.users(), 0);
}

#[test]
fn a_group_has_one_table_at_a_time() {
    let bed = Bed::new();
    let (one, other) = (bed.table(1), bed.table(2));
    bed.first.claim(OURS).unwrap();
    bed.second.claim(OURS).unwrap();
    bed.first.attach(OURS, None, &to(&one)).unwrap();
    let refused = bed.second.attach(OURS, None, &to(&other));
    assert_eq!(refused, Err(OwnershipError::OtherTable));
    let again = bed.first.attach(OURS, None, &to(&one));
    assert_eq!(again, Err(OwnershipError::Attached));
    // A replacement moves the whole group, whoever asks.
    bed.second.attach(OURS, None, &to(&one)).unwrap();
    bed.second.replace(OURS, None, &to(&other)).unwrap();
    assert_eq!(bed.reached(), [Some(2); 2]);
    assert_eq!((one.users(), other.users()), (0, 2));
}

#[test]
fn two_contexts_never_share_a_group_and_one_serves_many() {
    let bed = Bed::new();
    bed.first.claim(OURS).unwrap();
    let refused = bed.second.claim(THEIRS);
    assert_eq!(refused, Err(OwnershipError::NotPermitted));
    bed.alone.claim(OURS).unwrap();
    let whole = bed.group.claim(OURS);
    assert_eq!(whole, Err(OwnershipError::NotPermitted));
    // Neither does one use the other's table, nor claim it as its own.
    let theirs = bed.table_in(&space(THEIRS, 9), 9);
    let refused = bed.first.attach(OURS, None, &to(&theirs));
    assert_eq!(refused, Err(OwnershipError::NoTable));
    let refused = bed.first.attach(THEIRS, None, &to(&theirs));
    assert_eq!(refused, Err(OwnershipError::NotClaimed));
}

#[test]
fn devices_of_one_context_are_attached_to_different_address_spaces() {
    let bed = Bed::new();
    let other = space(OURS, 8);
    bed.first.claim(OURS).unwrap();
    bed.alone.claim(OURS).unwrap();
    let first = Target::Space(Arc::clone(&bed.space) as _);
    let second = Target::Space(Arc::clone(&other) as _);
    bed.first.attach(OURS, None, &first).unwrap();
    bed.alone.attach(OURS, None, &second).unwrap();
    assert_eq!(bed.reached(), [Some(7); 2]);
    let alone = bed.alone.requester();
    assert_eq!(bed.unit.observe(alone, None), Some(8));
    // The same address space gives the same table, and it dies with its last user.
    bed.alone.replace(OURS, None, &first).unwrap();
    assert_eq!(bed.unit.observe(alone, None), Some(7));
    assert_eq!(
        (bed.space.automatic().len(), other.automatic().len()),
        (1, 0)
    );
    bed.alone.detach(None);
    bed.first.detach(None);
    assert_eq!(bed.space.automatic().len(), 0);
}

#[test]
fn a_kernel_driver_and_a_user_exclude_each_other() {
    let bed = Bed::new();
    bed.second.bind(DriverKind::Kernel).unwrap();
    assert_eq!(bed.first.claim(OURS), Err(OwnershipError::NotPermitted));
    bed.second.unbind().unwrap();
    // What does no DMA, or only for a user, holds nothing.
    bed.second.bind(DriverKind::Safe).unwrap();
    bed.first.bind(DriverKind::User).unwrap();
    bed.first.claim(OURS).unwrap();
    let bound = bed.second.bind(DriverKind::User);
    assert_eq!(bound, Err(OwnershipError::DriverBound));
    bed.second.unbind().unwrap();
    let refused = bed.second.bind(DriverKind::Kernel);
    assert_eq!(refused, Err(OwnershipError::Owned));
    bed.first.release().unwrap();
    bed.second.bind(DriverKind::Kernel).unwrap();
}

#[test]
fn a_unit_without_coherency_or_isolated_interrupts_is_not_given_away() {
    let incoherent = Bed::with(|unit| unit.capabilities.coherent = false, plain);
    let refused = incoherent.first.claim(OURS);
    assert_eq!(refused, Err(OwnershipError::NotCoherent));

    let bed = Bed::with(|unit| unit.capabilities.isolated_msi = false, plain);
    let refused = bed.first.claim(OURS);
    assert_eq!(refused, Err(OwnershipError::SharedInterrupts));
    bed.ownership.allow_unsafe_interrupts(true);
    bed.first.claim(OURS).unwrap();
}

#[test]
fn a_claim_of_the_group_is_given_back_whole() {
    let bed = Bed::new();
    bed.group.claim(OURS).unwrap();
    assert_eq!(bed.group.view().claims(), 2);
    assert_eq!(bed.first.release(), Err(OwnershipError::NotClaimed));
    assert_eq!(bed.group.release(THEIRS), Err(OwnershipError::NotClaimed));
    bed.first.attach(OURS, None, &to(&bed.table(1))).unwrap();
    assert_eq!(bed.group.release(OURS), Err(OwnershipError::Attached));
    bed.first.detach(None);
    bed.group.release(OURS).unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
}

#[test]
fn unbinding_and_removing_ask_the_owner_and_wait() {
    let bed = Bed::new();
    bed.first.bind(DriverKind::User).unwrap();
    for orderly in [Device::unbind, Device::remove] {
        bed.first.claim(OURS).unwrap();
        assert_eq!(bed.first.try_remove(), Err(OwnershipError::Claimed));
        let (asked, asks) = mpsc::channel();
        bed.first
            .on_request(Arc::new(move || asked.send(()).unwrap()));
        let device = Arc::clone(&bed.first);
        let waits = thread::spawn(move || orderly(&device));
        asks.recv_timeout(Duration::from_secs(30))
            .expect("to be asked");
        assert!(!waits.is_finished());
        bed.first.release().unwrap();
        waits.join().unwrap().unwrap();
    }
    assert_eq!(bed.first.claim(OURS), Err(OwnershipError::NoGroup));
    assert_eq!(
        bed.ownership.device(bed.first.requester()).map(|_| ()),
        None
    );
}

#[test]
fn a_device_that_is_gone_is_refused_but_can_be_let_go() {
    let bed = Bed::new();
    let table = bed.table(1);
    bed.first.claim(OURS).unwrap();
    bed.first.attach(OURS, None, &to(&table)).unwrap();
    bed.first.surprise_remove();
    assert_eq!(bed.reached(), [None, Some(1)]);
    let refused = bed.first.replace(OURS, None, &to(&bed.table(2)));
    assert_eq!(refused, Err(OwnershipError::NoGroup));
    // Another in its place has to wait.
    let iommu = Arc::clone(&bed.unit) as Arc<dyn Iommu>;
    let info = plain(bed.first.requester());
    let added = bed.ownership.add(&iommu, info.clone(), GroupKey(0));
    assert_eq!(added.map(|_| ()), Err(OwnershipError::InGroup));
    bed.first.close().unwrap();
    assert_eq!(table.users(), 0);
    assert_eq!(bed.reached(), [None, Some(DEFAULT)]);
    bed.ownership.add(&iommu, info, GroupKey(0)).unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
}

#[test]
fn what_a_member_reaches_a_device_added_later_reaches_too() {
    let bed = Bed::new();
    let iommu = Arc::clone(&bed.unit) as Arc<dyn Iommu>;
    bed.first.claim(OURS).unwrap();
    bed.first.attach(OURS, None, &to(&bed.table(1))).unwrap();
    let info = plain(REQUESTERS[5]);
    let added = bed.ownership.add(&iommu, info, GroupKey(0)).unwrap();
    assert_eq!(bed.unit.observe(added.requester(), None), Some(1));
    let refused = added.bind(DriverKind::Kernel);
    assert_eq!(refused, Err(OwnershipError::Owned));
}

#[test]
fn a_device_with_a_direct_region_is_not_given_away() {
    let bed = Bed::new();
    let iommu = Arc::clone(&bed.unit) as Arc<dyn Iommu>;
    let direct = plain(REQUESTERS[6]);
    let device = bed
        .ownership
        .add(&iommu, direct.clone(), GroupKey(1))
        .unwrap();
    let domain = device.group().unwrap().default_domain();
    for address in [0x7000_0000, 0x7000_1000] {
        let output = Some(PhysAddr(address));
        assert_eq!(domain.iova_to_phys(Iova(address)), output, "it is mapped");
    }
    let refused = bed.alone.claim(OURS);
    assert_eq!(refused, Err(OwnershipError::RequiresDirect));
    device.remove().unwrap();
    bed.alone.claim(OURS).unwrap();
    let refused = bed.ownership.add(&iommu, direct, GroupKey(1));
    assert_eq!(refused.map(|_| ()), Err(OwnershipError::RequiresDirect));
}

#[test]
fn a_relaxable_region_does_not_stand_in_the_way() {
    let bed = Bed::new();
    let iommu = Arc::clone(&bed.unit) as Arc<dyn Iommu>;
    let info = plain(REQUESTERS[7]);
    let device = bed.ownership.add(&iommu, info, GroupKey(1)).unwrap();
    assert_eq!(device.reserved_regions().len(), 1);
    bed.alone.claim(OURS).unwrap();
}

#[test]
fn page_requests_are_answered_when_their_table_goes() {
    let bed = Bed::new();
    let (one, other) = (bed.table(1), bed.table(2));
    bed.first.claim(OURS).unwrap();
    bed.first.attach(OURS, None, &to(&one)).unwrap();
    bed.first.replace(OURS, None, &to(&other)).unwrap();
    let both = [&bed.first, &bed.second].map(|device| (device.requester(), None));
    assert_eq!(*one.cancelled.lock().unwrap(), both);
    bed.first.detach(None);
    assert_eq!(*other.cancelled.lock().unwrap(), both);
}

#[test]
fn pasids_are_rows_of_their_own() {
    fn with_pasids(requester: RequesterId) -> DeviceInfo {
        DeviceInfo {
            pasid_bits: 4,
            ..DeviceInfo::new(requester)
        }
    }
    let bed = Bed::with(|_| {}, with_pasids);
    let table = |number| {
        let domain = bed.unit.domain(DomainKind::Paging);
        label(&domain, number);
        Arc::new(TestTable {
            for_pasids: true,
            ..bed.space.table(domain, number)
        })
    };
    let (one, two) = (table(1), table(2));
    let pasid = |raw| Some(Pasid::new(raw).unwrap());
    bed.first.claim(OURS).unwrap();
    bed.first.attach(OURS, pasid(1), &to(&one)).unwrap();
    assert_eq!(bed.reached(), [None; 2]);
    let reached = |device: &Device, raw| bed.unit.observe(device.requester(), pasid(raw));
    assert_eq!(reached(&bed.second, 1), Some(1), "the whole group has it");
    bed.first.attach(OURS, None, &to(&two)).unwrap();
    assert_eq!(bed.reached(), [Some(2); 2]);
    let limit = bed.first.attach(OURS, pasid(16), &to(&one));
    assert_eq!(limit, Err(OwnershipError::PasidLimit));
    let automatic = Target::Space(Arc::clone(&bed.space) as _);
    let refused = bed.first.attach(OURS, pasid(2), &automatic);
    assert_eq!(refused, Err(OwnershipError::NotForPasids));
    // Who comes later waits for the next write.
    let iommu = Arc::clone(&bed.unit) as Arc<dyn Iommu>;
    let info = with_pasids(REQUESTERS[5]);
    let late = bed.ownership.add(&iommu, info, GroupKey(0)).unwrap();
    assert_eq!(bed.unit.observe(late.requester(), None), Some(2));
    assert_eq!(reached(&late, 1), None);
    bed.first.replace(OURS, pasid(1), &to(&two)).unwrap();
    assert_eq!(reached(&late, 1), Some(2));
    // The end of a device file takes the PASIDs first.
    bed.first.close().unwrap();
    assert_eq!(reached(&bed.first, 1), None);
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
}

#[test]
fn a_device_in_reset_is_parked_until_the_last_end() {
    fn with_ats(requester: RequesterId) -> DeviceInfo {
        DeviceInfo {
            ats: true,
            ..DeviceInfo::new(requester)
        }
    }
    let bed = Bed::with(|_| {}, with_ats);
    bed.first.reset_begin().unwrap();
    bed.first.reset_begin().unwrap();
    assert_eq!(bed.reached(), [None, Some(DEFAULT)]);
    assert_eq!(bed.group.view().recovering(), 1);
    assert_eq!(bed.second.claim(OURS), Err(OwnershipError::Recovering));
    bed.first.reset_end().unwrap();
    assert_eq!(bed.reached(), [None, Some(DEFAULT)]);
    bed.first.reset_end().unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
    let unmatched = bed.first.reset_end();
    assert_eq!(unmatched, Err(OwnershipError::NotInReset));
}

#[test]
fn a_device_takes_the_reach_of_the_moment_when_its_reset_ends() {
    fn with_ats(requester: RequesterId) -> DeviceInfo {
        DeviceInfo {
            ats: true,
            ..DeviceInfo::new(requester)
        }
    }
    let bed = Bed::with(|_| {}, with_ats);
    let table = bed.table(1);
    bed.second.claim(OURS).unwrap();
    bed.second.attach(OURS, None, &to(&table)).unwrap();
    bed.first.reset_begin().unwrap();
    let refused = bed.second.replace(OURS, None, &to(&bed.table(2)));
    assert_eq!(refused, Err(OwnershipError::Recovering));
    // Leaving is possible all the same.
    bed.second.close().unwrap();
    assert_eq!(bed.reached(), [None, Some(DEFAULT)]);
    bed.first.reset_end().unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
}

#[test]
fn the_type_of_the_default_domain_changes_only_while_nobody_uses_it() {
    let bed = Bed::new();
    bed.first.claim(OURS).unwrap();
    let refused = bed.group.set_default_type(DefaultType::Identity);
    assert_eq!(refused, Err(OwnershipError::NotPermitted));
    bed.first.release().unwrap();
    bed.group.set_default_type(DefaultType::Identity).unwrap();
    assert_eq!(bed.group.default_domain().kind(), DomainKind::Identity);
    assert_eq!(bed.reached(), [Some(crate::machine::IDENTITY); 2]);
}

#[test]
fn who_cannot_take_the_default_domain_stays_blocked_and_is_named() {
    let bed = Bed::new();
    bed.first.claim(OURS).unwrap();
    bed.unit
        .refusing
        .lock()
        .unwrap()
        .push(bed.second.requester());
    bed.first.release().unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT), None]);
    let stuck: Vec<_> = bed.group.view().stuck().collect();
    assert_eq!(stuck, [bed.second.requester()]);
    // Once it takes a domain again it is as the others.
    bed.unit.refusing.lock().unwrap().clear();
    bed.first.claim(OURS).unwrap();
    bed.first.release().unwrap();
    assert_eq!(bed.reached(), [Some(DEFAULT); 2]);
    assert_eq!(bed.group.view().stuck().count(), 0);
}

#[test]
fn claims_from_many_threads_have_one_winner() {
    for _ in 0..50 {
        let bed = Bed::new();
        let winners = AtomicUsize::new(0);
        thread::scope(|scope| {
            for context in 0..4 {
                let (device, winners) = (&bed.first, &winners);
                scope.spawn(move || {
                    if device.claim(ContextId(context)).is_ok() {
                        winners.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
    }
}
