//! What is held against what, and how much it may cost.

/// The column of the library's own IOTLB.
pub const PEER: &str = "IommuMemory";

/// The largest ratio of ours to its base.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Printed only.
    None,
    /// This.
    Ratio(f64),
    /// This many times the ratio that the named work has.
    TimesThatOf(f64, &'static str),
}

/// A line of the table: two columns of one row of the bench.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The row.
    pub work: &'static str,
    /// The column that ours is held against.
    pub base: &'static str,
    /// Our column.
    pub ours: &'static str,
    /// How much it may cost.
    pub limit: Limit,
}

const fn against(
    work: &'static str,
    base: &'static str,
    ours: &'static str,
    limit: Limit,
) -> Target {
    Target {
        work,
        base,
        ours,
        limit,
    }
}

const fn raw(work: &'static str, ours: &'static str, most: f64) -> Target {
    against(work, "raw", ours, Limit::Ratio(most))
}

/// All lines, in order.
pub const TARGETS: &[Target] = &[
    raw("read 64 B, 64 pages", "handle", 0.8),
    raw("write 64 B, 64 pages", "handle", 0.8),
    raw("read 64 B, 4096 pages", "handle", 1.0),
    raw("write 64 B, 4096 pages", "handle", 1.0),
    raw("read 64 B, 65536 pages", "handle", 1.3),
    raw("write 64 B, 65536 pages", "handle", 1.3),
    raw("read 64 B, 64 pages", "session", 0.9),
    raw("read 64 B, 4096 pages", "session", 1.1),
    raw("read 64 B, 65536 pages", "session", 1.5),
    raw("read 4096 B, 64 pages", "handle", 0.95),
    raw("write 4096 B, 64 pages", "handle", 0.95),
    raw("read 4096 B, 4096 pages", "handle", 1.05),
    raw("write 4096 B, 4096 pages", "handle", 1.05),
    raw("virtio-queue pop, 512 B, add_used", "session", 0.6),
    against("8 B, IOTLB miss", "walk", "miss", Limit::Ratio(1.5)),
    against(
        "8 B, IOTLB miss",
        "miss",
        "miss, tables cached",
        Limit::Ratio(0.6),
    ),
    against(
        "invalidate, batches of 1, idle",
        "hit",
        "invalidation",
        Limit::None,
    ),
    against(
        "invalidate, batches of 64, idle",
        "hit",
        "invalidation",
        Limit::Ratio(10.0),
    ),
    against(
        "invalidate, batches of 1, busy",
        "hit",
        "invalidation",
        Limit::None,
    ),
    against(
        "invalidate, batches of 64, busy",
        "hit",
        "invalidation",
        Limit::Ratio(80.0),
    ),
    against(
        "read 64 B, 64 pages, 1 threads",
        "raw",
        "handle",
        Limit::None,
    ),
    against(
        "read 64 B, 64 pages, 2 threads",
        "raw",
        "handle",
        Limit::TimesThatOf(1.1, "read 64 B, 64 pages, 1 threads"),
    ),
    against(
        "read 4096 B, 64 pages, 1 threads",
        "raw",
        "handle",
        Limit::None,
    ),
    against(
        "read 4096 B, 64 pages, 2 threads",
        "raw",
        "handle",
        Limit::TimesThatOf(1.1, "read 4096 B, 64 pages, 1 threads"),
    ),
];
