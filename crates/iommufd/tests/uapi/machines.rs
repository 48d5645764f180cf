//! Nested tables, vIOMMUs with their devices, events and queues, and page requests, by types.

use std::sync::Mutex;

use super::*;
use vm_iommu_driver::iommu::{DeviceInfo, Iommu, PagingOptions, UserData};
use vm_iommu_spec::{Access, Iova, RequesterId};
use vm_iommufd::ownership::{Device, GroupKey, Ownership, OwnershipConfig};
use vm_iommufd::selftest::{APERTURE_START, MOCK_PAGE_SIZE, MockUnit};
use vm_iommufd::{
    BoundDevice, HwPageTable, Ioas, PageRequest, PageResponse, VirtualEvent, VirtualIommu,
};

const RW: Access = Access::READ.union(Access::WRITE);
/// The types of the mock: of its nested tables, of vIOMMUs, of invalidations and queues.
const NESTED: u32 = 0xdead;
const MOCK: u32 = 0xdead_beef;
const EVENTS: u32 = 7;

const PARENT: PagingOptions = PagingOptions {
    nest_parent: true,
    dirty_tracking: false,
    pasid: false,
};

struct Vm {
    ownership: Ownership,
    added: Arc<Device>,
    bench: Bench,
    ioas: Ioas,
    parent: HwPageTable,
    viommu: VirtualIommu,
    device: BoundDevice,
}

impl Vm {
    fn new() -> Self {
        let ownership = Ownership::new(OwnershipConfig::default());
        let unit: Arc<dyn Iommu> = Arc::new(MockUnit::default());
        let info = DeviceInfo::new(RequesterId::from_raw(8));
        let added = ownership.add(&unit, info, GroupKey(1)).unwrap();
        let bench = Bench::new();
        let device = bench.context.bind(&added).unwrap();
        let ioas = bench.context.ioas().unwrap();
        let parent = ioas.table(&device, PARENT, None).unwrap();
        let mut data = [1, 2, 3, 4].repeat(6);
        let viommu = parent.viommu(&device, MOCK, &mut data).unwrap();
        assert_eq!(data[4..8], [1, 2, 3, 4], "the mock says the word again");
        Self {
            ownership,
            added,
            bench,
            ioas,
            parent,
            viommu,
            device,
        }
    }
}

/// A nested table of the mock, in whose cache every entry is 5 at first.
fn description() -> [u8; 8] {
    [5, 0, 0, 0, 0, 0, 0, 0]
}

fn nested(bytes: &[u8]) -> UserData<'_> {
    UserData {
        kind: NESTED,
        bytes,
    }
}

fn invalidation(bytes: &[u8]) -> UserData<'_> {
    UserData { kind: MOCK, bytes }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_nested_table_is_made_on_a_nesting_parent_and_invalidated_entry_by_entry() {
    let vm = Vm::new();
    let data = description();
    let plain = vm
        .ioas
        .table(&vm.device, PagingOptions::default(), None)
        .unwrap();
    let options = PagingOptions::default();
    let on_plain = plain.nested(&vm.device, options, nested(&data), None);
    assert_eq!(on_plain.err(), Some(Errno::EINVAL), "no nesting parent");
    let unknown = UserData {
        kind: 1,
        bytes: &data,
    };
    let unknown = vm.parent.nested(&vm.device, options, unknown, None);
    assert_eq!(unknown.err(), Some(Errno::EOPNOTSUPP));
    let table = vm
        .parent
        .nested(&vm.device, options, nested(&data), None)
        .unwrap();
    assert_eq!(vm.device.attach(None, &table), Ok(table.id()));
    assert_eq!(vm.parent.destroy(), Err(Errno::EBUSY));

    // Flags and index: the third entry is out of bounds, and the two before it are done.
    let entries = words(&[0, 1, 0, 2, 0, 9, 0, 0]);
    let outcome = table.invalidate(invalidation(&entries), 4);
    assert_eq!(outcome, (2, Err(Errno::EINVAL)));
    let flags = words(&[2, 0]);
    let outcome = table.invalidate(invalidation(&flags), 1);
    assert_eq!(outcome, (0, Err(Errno::EOPNOTSUPP)));
    let all = words(&[1, 0]);
    assert_eq!(table.invalidate(invalidation(&all), 1), (1, Ok(())));
    let paging = vm.parent.invalidate(invalidation(&all), 1);
    assert_eq!(paging, (0, Err(Errno::EINVAL)), "nothing of a user's there");

    vm.device.detach(None).unwrap();
    assert_eq!(table.destroy(), Ok(()));
}

#[test]
fn a_guests_device_has_one_number_and_leaves_a_tombstone() {
    let Vm {
        ownership,
        added,
        bench,
        parent,
        viommu,
        device,
        ..
    } = Vm::new();
    let virtual_device = viommu.device(&device, 0x99).unwrap();
    assert_eq!(viommu.device(&device, 0x9a).err(), Some(Errno::EEXIST));
    assert_eq!(viommu.destroy(), Err(Errno::EBUSY));
    // A cache of the device is invalidated by the guest's number of it.
    let known = words(&[0, 0x99, 1]);
    assert_eq!(viommu.invalidate(invalidation(&known), 1), (1, Ok(())));
    let unknown = words(&[0, 0x98, 1]);
    let outcome = viommu.invalidate(invalidation(&unknown), 1);
    assert_eq!(outcome, (0, Err(Errno::EINVAL)));
    // The device goes: its guest's device with it, but not the number.
    drop(device);
    let outcome = viommu.invalidate(invalidation(&known), 1);
    assert_eq!(outcome, (0, Err(Errno::EINVAL)));
    assert_eq!(virtual_device.destroy(), Err(Errno::ENOENT));
    let next = bench.context.ioas().unwrap();
    assert_ne!(next.id(), virtual_device.id(), "a tombstone keeps it");
    assert_eq!(viommu.destroy(), Ok(()));
    assert_eq!(parent.destroy(), Ok(()));
    drop((ownership, added));
}

#[test]
fn events_come_in_order_and_their_loss_is_told() {
    let vm = Vm::new();
    for depth in [0, u32::MAX] {
        assert_eq!(vm.viommu.events(EVENTS, depth).err(), Some(Errno::EINVAL));
    }
    let report = |event: &[u8]| vm.bench.context.report_event(vm.viommu.id(), EVENTS, event);
    assert_eq!(report(b"none"), Err(Errno::EOPNOTSUPP), "nobody listens");
    let events = vm.viommu.events(EVENTS, 2).unwrap();
    assert_eq!(vm.viommu.events(EVENTS, 2).err(), Some(Errno::EEXIST));
    let woken = Arc::new(Mutex::new(0));
    let count = Arc::clone(&woken);
    events.set_waker(Some(Arc::new(move || *count.lock().unwrap() += 1)));
    for event in [b"a", b"b", b"c", b"d"] {
        report(event).unwrap();
    }
    assert_eq!(*woken.lock().unwrap(), 4);
    let event = |sequence, data: Option<&[u8]>| {
        Some(VirtualEvent {
            sequence,
            data: data.map(<[u8]>::to_vec),
        })
    };
    assert_eq!(events.take(), event(0, Some(b"a")));
    assert_eq!(events.take(), event(1, Some(b"b")));
    assert_eq!(events.take(), event(3, None), "up to the fourth were lost");
    assert_eq!(events.take(), None);
    report(b"e").unwrap();
    assert_eq!(events.take(), event(4, Some(b"e")));
    assert_eq!(vm.viommu.destroy(), Err(Errno::EBUSY));
    assert_eq!(events.clone().destroy(), Err(Errno::EBUSY));
    assert_eq!(events.destroy(), Ok(()));
    assert_eq!(report(b"f"), Err(Errno::EOPNOTSUPP));
    assert_eq!(vm.viommu.destroy(), Ok(()));
}

#[test]
fn the_memory_of_a_hardware_queue_stays_until_it_ends() {
    let vm = Vm::new();
    let at = APERTURE_START;
    vm.ioas
        .map(&vm.bench.program, MEMORY, 2 * PAGE, Some(Iova(at)), RW)
        .unwrap();
    let make = |kind, index, iova| vm.viommu.hw_queue(kind, index, Iova(iova), PAGE);
    assert_eq!(make(1, 0, at).err(), Some(Errno::EOPNOTSUPP));
    assert_eq!(make(MOCK, 0, at + 2 * PAGE).err(), Some(Errno::ENOENT));
    assert_eq!(make(MOCK, 1, at).err(), Some(Errno::EIO), "not in order");
    let first = make(MOCK, 0, at).unwrap();
    assert_eq!(make(MOCK, 0, at).err(), Some(Errno::EEXIST));
    let second = make(MOCK, 1, at + PAGE).unwrap();
    let whole = Iova(at)..=Iova(at + 2 * PAGE - 1);
    assert_eq!(vm.ioas.unmap(whole.clone()), Err(Errno::EBUSY));
    assert_eq!(
        first.destroy(),
        Err(Errno::EBUSY),
        "the second depends on it"
    );
    assert_eq!(second.destroy(), Ok(()));
    assert_eq!(vm.ioas.unmap(whole.clone()), Err(Errno::EBUSY));
    assert_eq!(first.destroy(), Ok(()));
    assert_eq!(vm.ioas.unmap(whole), Ok(2 * PAGE));
}

#[test]
fn page_requests_are_taken_and_answered_and_end_with_their_table() {
    let vm = Vm::new();
    let faults = vm.bench.context.page_faults().unwrap();
    let other = vm.bench.system.open();
    let foreign = other.page_faults().unwrap();
    let options = PagingOptions::default();
    let refused = vm.ioas.table(&vm.device, options, Some(&foreign));
    assert_eq!(refused.err(), Some(Errno::EINVAL), "another context's");
    let table = vm.ioas.table(&vm.device, options, Some(&faults)).unwrap();
    vm.device.attach(None, &table).unwrap();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let ask = |address| {
        let answers = Arc::clone(&answers);
        let page = PageRequest {
            address,
            permissions: 1,
            group: 3,
            pasid: None,
            last: true,
        };
        let respond = Box::new(move |answer| answers.lock().unwrap().push((address, answer)));
        vm.bench
            .context
            .report_page_requests(RequesterId::from_raw(8), vec![page], respond);
    };
    assert_eq!(faults.take(), None);
    ask(0x1000);
    ask(0x2000);
    let first = faults.take().unwrap();
    assert_eq!((first.device.raw(), first.requests[0].address), (8, 0x1000));
    assert_eq!(faults.answer(first.cookie, PageResponse::Success), Ok(()));
    let again = faults.answer(first.cookie, PageResponse::Success);
    assert_eq!(again, Err(Errno::EINVAL));
    let second = faults.take().unwrap();
    assert_ne!(second.cookie, first.cookie);
    ask(0x3000);
    vm.device.detach(None).unwrap();
    assert_eq!(
        *answers.lock().unwrap(),
        [
            (0x1000, PageResponse::Success),
            (0x3000, PageResponse::Invalid),
            (0x2000, PageResponse::Invalid),
        ]
    );
    assert_eq!(faults.take(), None);
    assert_eq!(faults.clone().destroy(), Err(Errno::EBUSY));
    assert_eq!(table.destroy(), Ok(()));
    assert_eq!(faults.destroy(), Ok(()));
}

#[test]
fn what_was_written_is_reported_page_by_page() {
    let vm = Vm::new();
    let options = PagingOptions {
        dirty_tracking: true,
        ..PagingOptions::default()
    };
    let range = || Iova(APERTURE_START)..=Iova(APERTURE_START + 2 * PAGE - 1);
    let plain = vm
        .ioas
        .table(&vm.device, PagingOptions::default(), None)
        .unwrap();
    let refused = plain.dirty(range(), PAGE, true, |_| ());
    assert_eq!(refused, Err(Errno::EOPNOTSUPP), "it does not track");
    let table = vm.ioas.table(&vm.device, options, None).unwrap();
    table.set_dirty_tracking(true).unwrap();
    vm.ioas
        .map(
            &vm.bench.program,
            MEMORY,
            2 * PAGE,
            Some(Iova(APERTURE_START)),
            RW,
        )
        .unwrap();
    let dirty = |clear| {
        let mut pages = Vec::new();
        table
            .dirty(range(), PAGE, clear, |page| pages.push(page.0))
            .unwrap();
        pages
    };
    assert!(dirty(true).is_empty());
    // A write through one page of the table, which maps both.
    vm.bench.program.poke(MEMORY, &[0b1000]).unwrap();
    let mut written = test(Operation::Dirty, table.id());
    written.set_long(8, APERTURE_START);
    written.set_long(16, 2 * PAGE);
    written.set_long(24, MOCK_PAGE_SIZE);
    written.set_long(32, MEMORY);
    vm.bench.test(&mut written).unwrap();
    assert_eq!(dirty(false), [APERTURE_START, APERTURE_START + PAGE]);
    assert_eq!(dirty(true), [APERTURE_START, APERTURE_START + PAGE]);
    assert!(dirty(true).is_empty());
    table.destroy().unwrap();
}
