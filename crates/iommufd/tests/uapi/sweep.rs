//! Each event that can fail is made to, one after the other: a call then leaves nothing behind.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
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
