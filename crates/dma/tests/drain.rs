//! The stress test of the drain, as a test: `cargo bench -p vm-iommu-dma --bench drain` does more
//! of the same.

#[path = "../benches/stress/mod.rs"]
mod stress;

#[test]
fn not_one_byte_passes_after_an_invalidation_completed() {
    let outcome = stress::run(50_000, 2);
    assert!(outcome.invalidations >= 50_000);
    assert!(outcome.drains > 0 && outcome.drains <= outcome.invalidations);
    // Devices found pages that were mapped, and some that were not.
    assert!(outcome.accesses > 1000 && outcome.refused < outcome.accesses);
    assert!(outcome.drain.0 <= outcome.drain.1 && outcome.drain.1 <= outcome.elapsed);
}
