//! Each event that can fail is made to, one after the other: a call then leaves nothing behind.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use vm_iommu_spec::PhysAddr;
use vm_iommufd::selftest::APERTURE_START;

/// A call of the sequence.
type Step = fn(&Bench) -> Result<u64, Errno>;

/// The calls, in order; what each yields is the same in each run.
const STEPS: &[Step] = &[
    new_ioas,
    |bench| bench.map(1, MEMORY, 3 * PAGE, Some(APERTURE_START)),
    |bench| {
        bench
            .device(1, 4)
            .map(|(device, table, bound)| numbers(&[device, table, bound]))
    },
    |bench| bench.map(1, MEMORY + 4 * PAGE, 2 * PAGE, None),
    |bench| {
        bench
            .device(1, 0)
            .map(|(device, table, bound)| numbers(&[device, table, bound]))
    },
    new_ioas,
    |bench| {
        let mut command = uapi::iommu_ioas_copy {
            size: 40,
            flags: 7,
            src_ioas_id: 1,
            dst_ioas_id: 7,
            length: 2 * PAGE,
            src_iova: APERTURE_START + PAGE,
            dst_iova: APERTURE_START,
        };
        bench
            .call(calls::IOMMU_IOAS_COPY, &mut command)
            .map(|_| command.dst_iova)
    },
    |bench| bench.map(7, MEMORY + 8 * PAGE, PAGE, Some(APERTURE_START + 16 * PAGE)),
    |bench| bench.hwpt(3, 7, 8).map(u64::from),
    |bench| {
        let mut command = test(Operation::MockDomainReplace, 2);
        command.set_word(0, 7);
        bench.test(&mut command).map(|_| command.word(0).into())
    },
    |bench| bench.access(7, true).map(u64::from),
    |bench| {
        let access = 100;
        bench.pin(access, APERTURE_START, 2 * PAGE).map(u64::from)
    },
    |bench| {
        let mut command = uapi::iommu_fault_alloc {
            size: 16,
            ..Default::default()
        };
        bench.call(calls::IOMMU_FAULT_QUEUE_ALLOC, &mut command)?;
        Ok(numbers(&[command.out_fault_id, command.out_fault_fd]))
    },
    |bench| bench.hwpt(3, 7, 1).map(u64::from),
];

fn new_ioas(bench: &Bench) -> Result<u64, Errno> {
    let mut command = uapi::iommu_ioas_alloc {
        size: 12,
        ..Default::default()
    };
    bench
        .call(calls::IOMMU_IOAS_ALLOC, &mut command)
        .map(|_| command.out_ioas_id.into())
}

fn numbers(numbers: &[u32]) -> u64 {
    numbers
        .iter()
        .fold(0, |all, number| all << 16 | u64::from(*number))
}

/// A bench after some steps, and what they yielded.
fn after(steps: usize) -> (Bench, Vec<Result<u64, Errno>>) {
    let bench = Bench::new();
    let results = STEPS.iter().take(steps).map(|step| step(&bench)).collect();
    (bench, results)
}

/// How often `take` goes well before there is no memory for it.
fn room(take: impl Fn() -> Result<u64, Errno>) -> usize {
    (0..)
        .map(|_| take())
        .take_while(|taken| match taken {
            Err(error) => {
                assert_eq!(*error, Errno::ENOMEM);
                false
            }
            Ok(_) => true,
        })
        .count()
}

/// Runs the calls with each limit that does not suffice. The first that meets it leaves the room
/// that there was, by `room_in`, and nothing pinned.
fn sweep_limit(config: impl Fn(u64) -> SystemConfig, room_in: impl Fn(&Bench) -> usize) -> u64 {
    for limit in 0.. {
        let before = |steps: usize| {
            let bench = Bench::with(config(limit));
            for step in STEPS.iter().take(steps) {
                step(&bench).unwrap();
            }
            bench
        };
        let meets_it = |&index: &usize| STEPS[index](&before(index)).is_err();
        let Some(index) = (0..STEPS.len()).find(meets_it) else {
            return limit;
        };
        let bench = before(index);
        let pinned = bench.pinned();
        for _ in 0..3 {
            let result = STEPS[index](&bench);
            assert_eq!(result, Err(Errno::ENOMEM), "limit {limit}, step {index}");
            assert_eq!(bench.pinned(), pinned, "limit {limit}, step {index}");
        }
        let right = room_in(&before(index));
        assert_eq!(room_in(&bench), right, "limit {limit}, step {index}");
    }
    unreachable!("some limit suffices")
}

#[test]
fn a_call_that_finds_no_room_for_an_object_leaves_nothing_behind() {
    let objects = sweep_limit(
        |limit| SystemConfig {
            objects: limit as u32,
            ..SystemConfig::default()
        },
        |bench| room(|| new_ioas(bench)),
    );
    // Two address spaces, three objects for each of two devices, two tables, an access, a queue.
    assert_eq!(objects, 12);
}

#[test]
fn a_call_that_finds_no_room_for_an_area_leaves_nothing_behind() {
    let areas = sweep_limit(
        |areas| SystemConfig {
            areas,
            ..SystemConfig::default()
        },
        |bench| {
            let ioas = bench.ioas();
            room(|| bench.map(ioas, MEMORY, PAGE, None))
        },
    );
    assert_eq!(areas, 4);
}

#[test]
fn a_call_that_finds_no_physical_addresses_for_pages_leaves_nothing_behind() {
    // These are given out by the GiB.
    let pieces = sweep_limit(
        |pieces| SystemConfig {
            frames: PhysAddr(1 << 40)..PhysAddr((1 << 40) + (pieces << 30)),
            ..SystemConfig::default()
        },
        |bench| {
            let ioas = bench.ioas();
            let pins = |page| {
                let iova = bench.map(ioas, MEMORY + page * PAGE, PAGE, None).unwrap();
                let access = bench.access(ioas, true).unwrap();
                bench.pin(access, iova, PAGE).map(u64::from)
            };
            (0..MEMORY_PAGES)
                .map(pins)
                .take_while(Result::is_ok)
                .count()
        },
    );
    assert_eq!(pieces, 1);
}

fn fuse(bench: &Bench) -> Arc<AtomicI64> {
    bench.program.fuse()
}

#[test]
fn a_call_that_fails_half_way_leaves_nothing_behind() {
    let (_, right) = after(STEPS.len());
    assert!(right.iter().all(Result::is_ok), "{right:?}");
    let mut failures = 0;
    for (index, step) in STEPS.iter().enumerate() {
        for event in 0.. {
            let (bench, _) = after(index);
            let pinned = bench.pinned();
            fuse(&bench).store(event, Ordering::Relaxed);
            let result = step(&bench);
            if fuse(&bench).load(Ordering::Relaxed) >= 0 {
                // It ended before the event that was to fail.
                assert_eq!(result, right[index]);
                break;
            }
            fuse(&bench).store(-1, Ordering::Relaxed);
            failures += 1;
            assert_eq!(result, Err(Errno::EFAULT), "step {index}, event {event}");
            assert_eq!(bench.pinned(), pinned, "step {index}, event {event}");
            // The same numbers and addresses are free, and all that follows goes as ever.
            for (later, step) in STEPS.iter().enumerate().skip(index) {
                assert_eq!(
                    step(&bench),
                    right[later],
                    "step {later} after {index}, event {event}"
                );
            }
        }
    }
    assert!(failures > STEPS.len(), "{failures} failures");
}
