//! Devices, tables, and what the unit tells.

use super::*;
use vm_iommufd::selftest::{APERTURE_START, MOCK_PAGE_SIZE, PASID_BITS};

const NEST_PARENT: u32 = 1;
const DIRTY_TRACKING: u32 = 2;
const FAULT_ID_VALID: u32 = 4;
const PASID: u32 = 8;

fn nested(bench: &Bench, device: u32, on: u32) -> Result<u32, Errno> {
    bench
        .program
        .poke(MEMORY, &[0x0b, 0xf0, 0xad, 0x0b, 0, 0, 0, 0])
        .unwrap();
    let mut command = uapi::iommu_hwpt_alloc {
        size: 48,
        dev_id: device,
        pt_id: on,
        data_type: 0xdead,
        data_len: 8,
        data_uptr: MEMORY,
        ..Default::default()
    };
    bench.call(calls::IOMMU_HWPT_ALLOC, &mut command)?;
    Ok(command.out_hwpt_id)
}

fn replace(bench: &Bench, device: u32, on: u32) -> Result<u32, Errno> {
    let mut command = test(Operation::MockDomainReplace, device);
    command.set_word(0, on);
    bench.test(&mut command)?;
    Ok(command.word(0))
}

#[test]
fn what_tables_are_refused() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (device, table, bound) = bench.device(ioas, 0).unwrap();
    assert_eq!(
        bench.hwpt(ioas, ioas, 0),
        Err(Errno::ENOENT),
        "not a device"
    );
    assert_eq!(bench.hwpt(bound, 99, 0), Err(Errno::EINVAL));
    assert_eq!(bench.hwpt(bound, device, 0), Err(Errno::EINVAL));
    assert_eq!(bench.hwpt(bound, ioas, 16), Err(Errno::EOPNOTSUPP));
    assert_eq!(
        bench.hwpt(bound, ioas, NEST_PARENT | FAULT_ID_VALID),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(bench.hwpt(bound, ioas, FAULT_ID_VALID), Err(Errno::ENOENT));
    assert_eq!(
        nested(&bench, bound, table),
        Err(Errno::EINVAL),
        "an automatic table is no parent"
    );
    let plain = bench.hwpt(bound, ioas, 0).unwrap();
    assert_eq!(nested(&bench, bound, plain), Err(Errno::EINVAL));
    let parent = bench.hwpt(bound, ioas, NEST_PARENT).unwrap();
    assert_eq!(
        bench.hwpt(bound, parent, 0),
        Err(Errno::EOPNOTSUPP),
        "no description"
    );
    let child = nested(&bench, bound, parent).unwrap();
    assert_eq!(nested(&bench, bound, child), Err(Errno::EINVAL));
    assert_eq!(bench.destroy(parent), Err(Errno::EBUSY));
    assert_eq!(bench.destroy(child), Ok(0));
    assert_eq!(bench.destroy(parent), Ok(0));
    let (_, _, lesser) = bench.device(ioas, 1).unwrap();
    assert_eq!(
        bench.hwpt(lesser, ioas, DIRTY_TRACKING),
        Err(Errno::EOPNOTSUPP)
    );
}

#[test]
fn a_table_is_in_use_as_long_as_a_device_is_on_it() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (device, automatic, bound) = bench.device(ioas, 0).unwrap();
    assert_eq!(
        bench.destroy(bound),
        Err(Errno::EBUSY),
        "only who bound it may unbind it"
    );
    assert_eq!(bench.destroy(automatic), Err(Errno::EBUSY));
    let table = bench.hwpt(bound, ioas, 0).unwrap();
    assert_eq!(replace(&bench, device, table), Ok(table));
    assert_eq!(bench.destroy(table), Err(Errno::EBUSY));
    assert_eq!(
        replace(&bench, device, automatic),
        Err(Errno::ENOENT),
        "it went with its device"
    );
    assert_eq!(replace(&bench, device, bound), Err(Errno::EINVAL));
    assert_eq!(replace(&bench, device, table), Ok(table), "the same again");
    let other = bench.ioas();
    assert_eq!(bench.destroy(ioas), Err(Errno::EBUSY));
    let next = replace(&bench, device, other).unwrap();
    assert_ne!(next, table);
    assert_eq!(bench.destroy(table), Ok(0));
    assert_eq!(bench.destroy(ioas), Ok(0));
    assert_eq!(bench.destroy(device), Ok(0));
    assert_eq!(bench.destroy(bound), Err(Errno::ENOENT));
    assert_eq!(bench.destroy(other), Ok(0));
}

#[test]
fn a_replacement_that_fails_changes_nothing() {
    let bench = Bench::new();
    let (ioas, other) = (bench.ioas(), bench.ioas());
    let (device, table, _) = bench.device(ioas, 0).unwrap();
    bench
        .map(other, 0x1000, PAGE, Some(APERTURE_START))
        .unwrap();
    assert_eq!(replace(&bench, device, other), Err(Errno::EFAULT));
    assert_eq!(bench.destroy(table), Err(Errno::EBUSY));
    assert_eq!(bench.destroy(other), Ok(0), "nothing of it is used");
    let mut check = test(Operation::PasidCheckHwpt, device);
    check.set_word(4, table);
    assert_eq!(bench.test(&mut check), Ok(0));
}

#[test]
fn pasids_are_rows_of_their_own() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (device, _, bound) = bench.device(ioas, 4).unwrap();
    let (lesser, _, _) = bench.device(ioas, 0).unwrap();
    let table = bench.hwpt(bound, ioas, PASID).unwrap();
    let pasid = |operation, device, pasid: u32, table: u32| {
        let mut command = test(operation, device);
        command.set_word(0, pasid);
        command.set_word(4, table);
        bench.test(&mut command)
    };
    let attach = |pasid_, table| pasid(Operation::PasidAttach, device, pasid_, table);
    assert_eq!(
        attach(5, table),
        Err(Errno::EINVAL),
        "requests without PASID are on another kind"
    );
    replace(&bench, device, table).unwrap();
    assert_eq!(attach(5, ioas), Err(Errno::EINVAL));
    assert_eq!(attach(1 << PASID_BITS, table), Err(Errno::EINVAL));
    assert_eq!(attach(5, table), Ok(0));
    assert_eq!(attach(5, table), Err(Errno::EBUSY));
    assert_eq!(
        pasid(Operation::PasidReplace, device, 6, table),
        Err(Errno::EINVAL)
    );
    assert_eq!(pasid(Operation::PasidCheckHwpt, device, 5, table), Ok(0));
    assert_eq!(
        replace(&bench, device, ioas),
        Err(Errno::EINVAL),
        "a PASID is attached"
    );
    replace(&bench, lesser, table).unwrap();
    // A device without PASIDs never uses the row that it has.
    assert_eq!(pasid(Operation::PasidAttach, lesser, 5, table), Ok(0));
    assert_eq!(pasid(Operation::PasidCheckHwpt, lesser, 5, 0), Ok(0));
    assert_eq!(pasid(Operation::PasidDetach, lesser, 5, 0), Ok(0));
    assert_eq!(pasid(Operation::PasidDetach, device, 5, 0), Ok(0));
    assert_eq!(
        pasid(Operation::PasidDetach, device, 5, 0),
        Ok(0),
        "twice is no error"
    );
    assert_eq!(pasid(Operation::PasidCheckHwpt, device, 5, 0), Ok(0));
    // A PASID that is attached when the device goes, goes with it.
    assert_eq!(attach(7, table), Ok(0));
    assert_eq!(bench.destroy(device), Ok(0));
    assert_eq!(bench.destroy(lesser), Ok(0));
    assert_eq!(bench.destroy(table), Ok(0));
}

#[test]
fn dirty_pages_are_reported_once_unless_they_are_to_be_kept() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    bench
        .map(ioas, MEMORY, 16 * PAGE, Some(APERTURE_START))
        .unwrap();
    let (_, _, bound) = bench.device(ioas, 0).unwrap();
    let table = bench.hwpt(bound, ioas, DIRTY_TRACKING).unwrap();
    let plain = bench.hwpt(bound, ioas, 0).unwrap();
    let track = |hwpt_id, flags| {
        let mut command = uapi::iommu_hwpt_set_dirty_tracking {
            size: 16,
            flags,
            hwpt_id,
            ..Default::default()
        };
        bench.call(calls::IOMMU_HWPT_SET_DIRTY_TRACKING, &mut command)
    };
    assert_eq!(track(plain, 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(track(ioas, 1), Err(Errno::ENOENT));
    assert_eq!(track(table, 1), Ok(0));
    let ask = |iova, length, page_size, flags| {
        let mut command = uapi::iommu_hwpt_get_dirty_bitmap {
            size: 48,
            hwpt_id: table,
            flags,
            iova,
            length,
            page_size,
            data: MEMORY,
            ..Default::default()
        };
        bench.program.poke(MEMORY, &[0; 8]).unwrap();
        bench.call(calls::IOMMU_HWPT_GET_DIRTY_BITMAP, &mut command)?;
        let mut bits = [0; 8];
        bench.program.peek(MEMORY, &mut bits).unwrap();
        Ok(u64::from_le_bytes(bits))
    };
    let whole = 16 * PAGE;
    let (start, unit) = (APERTURE_START, MOCK_PAGE_SIZE);
    assert_eq!(ask(start, 0, unit, 0), Err(Errno::EINVAL));
    assert_eq!(ask(start, whole, 0, 0), Err(Errno::EINVAL));
    assert_eq!(ask(start, whole, 3 * unit, 0), Err(Errno::EINVAL));
    assert_eq!(ask(start + 1, whole, unit, 0), Err(Errno::EINVAL));
    assert_eq!(ask(u64::MAX - 4095, whole, unit, 0), Err(Errno::EOVERFLOW));
    assert_eq!(
        ask(start, 17 * PAGE, unit, 0),
        Err(Errno::EINVAL),
        "not all of it is mapped"
    );
    assert_eq!(ask(start, whole, unit, 0), Ok(0));
    // The program's memory is in one piece and aligned, so one large page maps all of it.
    bench.program.poke(MEMORY, &[1]).unwrap();
    let mut dirty = test(Operation::Dirty, table);
    dirty.set_long(8, start);
    dirty.set_long(16, whole);
    dirty.set_long(24, unit);
    dirty.set_long(32, MEMORY);
    assert_eq!(bench.test(&mut dirty), Ok(0));
    assert_eq!(dirty.long(40), 1);
    assert_eq!(ask(start, whole, unit, 1), Ok(u64::from(u32::MAX)));
    assert_eq!(ask(start + PAGE, PAGE, PAGE, 1), Ok(1));
    assert_eq!(ask(start, whole, unit, 0), Ok(u64::from(u32::MAX)));
    assert_eq!(ask(start, whole, unit, 0), Ok(0));
    assert_eq!(track(table, 0), Ok(0));
    assert_eq!(
        bench.test(&mut dirty),
        Err(Errno::EINVAL),
        "it is not tracked"
    );
}

#[test]
fn the_unit_tells_of_itself_as_much_as_there_is_room_for() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (_, _, bound) = bench.device(ioas, 4).unwrap();
    bench.program.poke(MEMORY, &[0xaa; 16]).unwrap();
    let ask = |flags, kind, length| {
        let mut command = uapi::iommu_hw_info {
            size: 40,
            flags,
            dev_id: bound,
            data_len: length,
            data_uptr: MEMORY,
            ..Default::default()
        };
        command.__bindgen_anon_1.in_data_type = kind;
        bench
            .call(calls::IOMMU_GET_HW_INFO, &mut command)
            .map(|_| command)
    };
    assert_eq!(ask(1, 1, 0).err(), Some(Errno::EOPNOTSUPP), "not VT-d");
    let info = ask(0, 1, 4).unwrap();
    assert_eq!((info.data_len, info.out_max_pasid_log2), (8, PASID_BITS));
    assert_eq!(info.out_capabilities, 1 | 8);
    let mut found = [0; 16];
    bench.program.peek(MEMORY, &mut found).unwrap();
    assert_eq!(found[..4], [0; 4]);
    assert_eq!(found[4..], [0xaa; 12]);
    ask(0, 0, 12).unwrap();
    bench.program.peek(MEMORY, &mut found).unwrap();
    assert_eq!(found[4..8], 0xdead_beef_u32.to_le_bytes());
    assert_eq!(found[8..12], [0; 4], "the rest of the buffer is cleared");
    assert_eq!(found[12..], [0xaa; 4]);
}

#[test]
fn a_device_that_goes_takes_the_guests_device_and_not_its_number() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (device, _, bound) = bench.device(ioas, 0).unwrap();
    let parent = bench.hwpt(bound, ioas, NEST_PARENT).unwrap();
    let mut command = uapi::iommu_viommu_alloc {
        size: 40,
        type_: 0xdead_beef,
        dev_id: bound,
        hwpt_id: parent,
        ..Default::default()
    };
    bench.call(calls::IOMMU_VIOMMU_ALLOC, &mut command).unwrap();
    let viommu = command.out_viommu_id;
    let vdevice = |virt_id| {
        let mut command = uapi::iommu_vdevice_alloc {
            size: 24,
            viommu_id: viommu,
            dev_id: bound,
            virt_id,
            ..Default::default()
        };
        bench
            .call(calls::IOMMU_VDEVICE_ALLOC, &mut command)
            .map(|_| command.out_vdevice_id)
    };
    let nested = nested(&bench, bound, viommu).unwrap();
    assert_eq!(
        replace(&bench, device, nested),
        Err(Errno::ENOENT),
        "the guest has no such device"
    );
    let number = vdevice(0x99).unwrap();
    assert_eq!(vdevice(0x98), Err(Errno::EEXIST));
    assert_eq!(bench.destroy(viommu), Err(Errno::EBUSY));
    assert_eq!(replace(&bench, device, nested), Ok(nested));
    assert_eq!(bench.destroy(device), Ok(0));
    assert_eq!(bench.destroy(number), Err(Errno::ENOENT));
    assert!(
        bench.ioas() < number && bench.ioas() != number,
        "its number is not given out again"
    );
    assert_eq!(bench.destroy(nested), Ok(0));
    assert_eq!(bench.destroy(viommu), Ok(0));
    assert_eq!(bench.destroy(parent), Ok(0));
}

#[test]
fn memory_of_a_viommu_is_mapped_as_it_was_handed_out() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let (_, _, bound) = bench.device(ioas, 0).unwrap();
    let parent = bench.hwpt(bound, ioas, NEST_PARENT).unwrap();
    let mut data = [0; 24];
    data[0] = 0x42;
    bench.program.poke(MEMORY, &data).unwrap();
    let mut command = uapi::iommu_viommu_alloc {
        size: 40,
        type_: 0xdead_beef,
        dev_id: bound,
        hwpt_id: parent,
        data_len: 24,
        data_uptr: MEMORY,
        ..Default::default()
    };
    bench.call(calls::IOMMU_VIOMMU_ALLOC, &mut command).unwrap();
    bench.program.peek(MEMORY, &mut data).unwrap();
    let long = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
    let (offset, length) = (long(8), long(16));
    assert_eq!((data[4], length), (0x42, 2 * PAGE));
    let mmap = |offset, length, execute| bench.context.mmap(offset, length, execute).map(|_| ());
    assert_eq!(mmap(offset + PAGE, length, false), Err(Errno::ENXIO));
    assert_eq!(mmap(offset, PAGE, false), Err(Errno::ENXIO));
    assert_eq!(mmap(offset, length, true), Err(Errno::EPERM));
    assert_eq!(mmap(offset, 1, false), Err(Errno::EINVAL));
    let mapping = bench.context.mmap(offset, length, false).unwrap();
    let mut word = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(mapping.file(), &mut word, 0).unwrap();
    assert_eq!(word, [0x42, 0, 0, 0]);
    let copy = mapping.clone();
    drop(mapping);
    assert_eq!(bench.destroy(command.out_viommu_id), Err(Errno::EBUSY));
    drop(copy);
    assert_eq!(bench.destroy(command.out_viommu_id), Ok(0));
    assert_eq!(mmap(offset, length, false), Err(Errno::ENXIO));
}
