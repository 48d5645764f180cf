//! Sizes, flags and reserved fields.

use super::*;

/// A call, the size of its structure, and what must be there at least.
const CALLS: &[(u32, usize, usize)] = &[
    (calls::IOMMU_DESTROY, 8, 8),
    (calls::IOMMU_IOAS_ALLOC, 12, 12),
    (calls::IOMMU_IOAS_ALLOW_IOVAS, 24, 24),
    (calls::IOMMU_IOAS_COPY, 40, 40),
    (calls::IOMMU_IOAS_IOVA_RANGES, 32, 32),
    (calls::IOMMU_IOAS_MAP, 40, 40),
    (calls::IOMMU_IOAS_UNMAP, 24, 24),
    (calls::IOMMU_OPTION, 24, 24),
    (calls::IOMMU_VFIO_IOAS, 12, 12),
    (calls::IOMMU_HWPT_ALLOC, 48, 24),
    (calls::IOMMU_GET_HW_INFO, 40, 32),
    (calls::IOMMU_HWPT_SET_DIRTY_TRACKING, 16, 16),
    (calls::IOMMU_HWPT_GET_DIRTY_BITMAP, 48, 48),
    (calls::IOMMU_HWPT_INVALIDATE, 32, 32),
    (calls::IOMMU_FAULT_QUEUE_ALLOC, 16, 16),
    (calls::IOMMU_IOAS_MAP_FILE, 40, 40),
    (calls::IOMMU_VIOMMU_ALLOC, 40, 24),
    (calls::IOMMU_VDEVICE_ALLOC, 24, 24),
    (calls::IOMMU_IOAS_CHANGE_PROCESS, 8, 8),
    (calls::IOMMU_VEVENTQ_ALLOC, 32, 28),
    (calls::IOMMU_HW_QUEUE_ALLOC, 40, 40),
    (calls::IOMMU_IOAS_NOIOMMU_GET_PA, 40, 40),
    (IOMMU_TEST_CMD, 72, 68),
];

fn structure(size: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
    bytes
}

#[test]
fn a_structure_may_be_longer_if_the_rest_is_zero_and_shorter_down_to_a_limit() {
    for &(request, size, least) in CALLS {
        let answer = |bytes: &[u8]| {
            let bench = Bench::new();
            bench.program.call_with(&bench.context, request, bytes)
        };
        assert_eq!(
            answer(&structure(least - 1, size)),
            Err(Errno::EINVAL),
            "{request:#x}"
        );
        let whole = answer(&structure(size, size));
        assert_ne!(whole, Err(Errno::E2BIG), "{request:#x}");
        assert_eq!(
            answer(&structure(size + 1, size + 1)),
            whole,
            "{request:#x}"
        );
        assert_eq!(
            answer(&structure(size + 6000, size + 6000)),
            whole,
            "{request:#x}"
        );
        let mut tail = structure(size + 6000, size + 6000);
        tail[size + 5999] = 1;
        assert_eq!(answer(&tail), Err(Errno::E2BIG), "{request:#x}");
    }
}

#[test]
fn what_cannot_be_read_is_a_fault() {
    let bench = Bench::new();
    for &(request, size, _) in CALLS {
        let at = |address| bench.program.call_at(&bench.context, request, address);
        assert_eq!(at(0), Err(Errno::EFAULT), "{request:#x}");
        assert_eq!(at(u64::MAX - 1), Err(Errno::EFAULT), "{request:#x}");
        // The size is readable, the rest is not.
        let end = MEMORY + MEMORY_PAGES * PAGE - 4;
        bench
            .program
            .poke(end, &(size as u32).to_le_bytes())
            .unwrap();
        assert_eq!(at(end), Err(Errno::EFAULT), "{request:#x}");
    }
}

#[test]
fn numbers_that_are_not_calls_are_unknown() {
    let bench = Bench::new();
    let structure = structure(8, 64);
    for request in [
        // A size in the number.
        calls::IOMMU_DESTROY | 8 << 16,
        // Another type of device.
        calls::IOMMU_DESTROY ^ 0x100,
        // Below and above the numbers.
        0x3b7f,
        0x3bff,
        // Of VFIO, but not of containers.
        0x3b64 + 17,
    ] {
        let found = bench.program.call_with(&bench.context, request, &structure);
        assert_eq!(found, Err(Errno::ENOTTY), "{request:#x}");
    }
}

#[test]
fn unknown_flags_and_reserved_fields_are_not_supported() {
    /// A call, its size, and where which bit must not be set.
    type Call = (u32, usize, &'static [(usize, u32)]);
    let fields: &[Call] = &[
        (calls::IOMMU_IOAS_ALLOC, 12, &[(4, 1)]),
        (calls::IOMMU_IOAS_ALLOW_IOVAS, 24, &[(12, 1)]),
        (calls::IOMMU_IOAS_COPY, 40, &[(4, 8)]),
        (calls::IOMMU_IOAS_IOVA_RANGES, 32, &[(12, 1)]),
        (calls::IOMMU_IOAS_MAP, 40, &[(4, 8), (12, 1)]),
        (
            calls::IOMMU_OPTION,
            24,
            &[(4, 2), (8, 2), (8, 1 << 16), (12, 1)],
        ),
        (calls::IOMMU_VFIO_IOAS, 12, &[(8, 3), (8, 1 << 16)]),
        (calls::IOMMU_HWPT_ALLOC, 48, &[(20, 1)]),
        (
            calls::IOMMU_GET_HW_INFO,
            40,
            &[(4, 2), (28, 1 << 8), (28, 1 << 31)],
        ),
        (calls::IOMMU_HWPT_SET_DIRTY_TRACKING, 16, &[(4, 2)]),
        (calls::IOMMU_HWPT_GET_DIRTY_BITMAP, 48, &[(8, 2), (12, 1)]),
        (calls::IOMMU_HWPT_INVALIDATE, 32, &[(28, 1)]),
        (calls::IOMMU_FAULT_QUEUE_ALLOC, 16, &[(4, 1)]),
        (calls::IOMMU_IOAS_MAP_FILE, 40, &[(4, 8)]),
        (calls::IOMMU_VIOMMU_ALLOC, 40, &[(4, 1), (8, 0)]),
        (calls::IOMMU_IOAS_CHANGE_PROCESS, 8, &[(4, 1)]),
        (calls::IOMMU_VEVENTQ_ALLOC, 32, &[(4, 1), (12, 0), (28, 1)]),
        (calls::IOMMU_HW_QUEUE_ALLOC, 40, &[(4, 1), (12, 0)]),
        (calls::IOMMU_IOAS_NOIOMMU_GET_PA, 40, &[(4, 1), (12, 1)]),
    ];
    for &(request, size, bits) in fields {
        for &(offset, bit) in bits {
            let bench = Bench::new();
            let mut bytes = structure(size, size);
            let types = [
                calls::IOMMU_VIOMMU_ALLOC,
                calls::IOMMU_VEVENTQ_ALLOC,
                calls::IOMMU_HW_QUEUE_ALLOC,
            ];
            if types.contains(&request) && bit != 0 {
                let kind = if request == calls::IOMMU_VIOMMU_ALLOC {
                    8
                } else {
                    12
                };
                bytes[kind] = 1;
            }
            for (byte, bits) in bytes[offset..].iter_mut().zip(bit.to_le_bytes()) {
                *byte |= bits;
            }
            let found = bench.program.call_with(&bench.context, request, &bytes);
            assert_eq!(
                found,
                Err(Errno::EOPNOTSUPP),
                "{request:#x} {offset} {bit:#x}"
            );
        }
    }
}

#[test]
fn numbers_of_objects_are_the_lowest_free_from_one() {
    let bench = Bench::new();
    assert_eq!((bench.ioas(), bench.ioas(), bench.ioas()), (1, 2, 3));
    assert_eq!(bench.destroy(2), Ok(0));
    assert_eq!(bench.ioas(), 2);
    assert_eq!(bench.destroy(0), Err(Errno::ENOENT));
    assert_eq!(bench.destroy(9), Err(Errno::ENOENT));
}

#[test]
fn an_object_that_the_caller_cannot_be_told_of_is_not_made() {
    let bench = Bench::new();
    let page = 0x5000_0000;
    bench.program.add_memory(page, PAGE, true);
    bench.program.poke(page, &12_u32.to_le_bytes()).unwrap();
    let fuse = bench.program.fuse();
    fuse.store(0, std::sync::atomic::Ordering::Relaxed);
    let found = bench
        .program
        .call_at(&bench.context, calls::IOMMU_IOAS_ALLOC, page);
    assert_eq!(found, Err(Errno::EFAULT));
    assert_eq!(bench.destroy(1), Err(Errno::ENOENT));
    assert_eq!(bench.ioas(), 1);
}

#[test]
fn how_memory_is_accounted_is_chosen_before_there_are_objects_and_with_privilege() {
    let bench = Bench::new();
    let option = |operation: u16, value| uapi::iommu_option {
        size: 24,
        op: operation,
        val64: value,
        ..Default::default()
    };
    let set = |value| bench.call(calls::IOMMU_OPTION, &mut option(0, value));
    let get = || {
        let mut command = option(1, 7);
        bench
            .call(calls::IOMMU_OPTION, &mut command)
            .map(|_| command.val64)
    };
    assert_eq!(get(), Ok(0));
    assert_eq!(set(2), Err(Errno::EINVAL));
    bench.program.set_capable(false);
    assert_eq!(set(1), Err(Errno::EPERM));
    bench.program.set_capable(true);
    assert_eq!((set(1), get()), (Ok(0), Ok(1)));
    bench.ioas();
    assert_eq!(set(0), Err(Errno::EBUSY));
    assert_eq!(get(), Ok(1));
}

#[test]
fn physical_addresses_are_told_of_no_unit() {
    let bench = Bench::new();
    let ioas = bench.ioas();
    let ask = |ioas_id, iova, length| {
        let mut command = calls::iommu_ioas_noiommu_get_pa {
            size: 40,
            ioas_id,
            iova,
            length,
            ..Default::default()
        };
        bench.call(calls::IOMMU_IOAS_NOIOMMU_GET_PA, &mut command)
    };
    assert_eq!(ask(ioas, 0, 0), Err(Errno::EINVAL));
    assert_eq!(ask(ioas, u64::MAX, 1), Err(Errno::EOVERFLOW));
    assert_eq!(ask(99, 0, 1), Err(Errno::ENOENT));
    assert_eq!(ask(ioas, 0x1000, 1), Err(Errno::ENOENT));
    bench.map(ioas, MEMORY, PAGE, Some(0x1000)).unwrap();
    assert_eq!(ask(ioas, 0x1000, 1), Err(Errno::EOPNOTSUPP));
    bench.program.set_capable(false);
    assert_eq!(ask(ioas, 0x1000, 1), Err(Errno::EPERM));
}
