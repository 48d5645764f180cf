//! Whether a walker and the oracle agree.

use vm_iommu_oracle::{Refusal, Translation, Why};
use vm_iommu_pagetable::{
    Attributes, Reason, Visited, Walk, WalkFault, Walker, testing::MockMemory,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::case::{Case, OracleMemory, oracle_access};

/// Makes all requests of a case to both, and compares answers and what became of memory.
pub(crate) fn compare<F: Walker>(
    case: &Case,
    format: &F,
    oracle: impl Fn(
        &mut OracleMemory,
        u64,
        u64,
        vm_iommu_oracle::Access,
    ) -> Result<Translation, Refusal>,
    attributes: impl Fn(&Translation) -> Attributes,
) {
    let root = PhysAddr(case.roots[0]);
    for &(address, access) in &case.requests {
        let memory = &case.memory;
        let mut model = OracleMemory::new(memory);
        let expected = oracle(&mut model, root.0, address, oracle_access(access));

        let before = OracleMemory::new(memory);
        let probe = format.probe(memory, root, Iova(address), access);
        assert_eq!(before, OracleMemory::new(memory), "a probe wrote");
        agree(&probe, &expected, &attributes);

        let translation = format.translate(memory, root, Iova(address), access);
        assert_eq!(model, OracleMemory::new(memory), "flags differ");
        let walk = format.walk(memory, root, Iova(address), access);
        agree(&walk, &expected, &attributes);
        assert_eq!(model, OracleMemory::new(memory), "a second walk wrote");
        assert_eq!(translation, walk.map(|walk| walk.translation));

        if let Ok(walk) = walk {
            from_positions(memory, format, root, Iova(address), access, &walk);
            assert!(walk.permissions.contains(walk.cacheable));
            if access.writes() {
                assert_eq!(walk.cacheable, walk.permissions);
            }
        }
    }
}

/// Walks again from each table on the way.
fn from_positions<F: Walker>(
    memory: &MockMemory,
    format: &F,
    root: PhysAddr,
    iova: Iova,
    access: Access,
    walk: &Walk,
) {
    let start = format.root(root);
    let positions: Vec<_> = format.positions(start, iova, &walk.visited).collect();
    assert_eq!(positions.len() + 1, walk.visited.len());
    for position in positions {
        let again = format
            .walk_from(memory, position, root, iova, access)
            .unwrap();
        assert_eq!(again.translation, walk.translation);
        let again = format.translate_from(memory, position, root, iova, access);
        assert_eq!(again, Ok(walk.translation));
    }
}

/// Panics unless both grant or both refuse, for the same reasons.
pub(crate) fn agree(
    walk: &Result<Walk, WalkFault>,
    expected: &Result<Translation, Refusal>,
    attributes: impl Fn(&Translation) -> Attributes,
) {
    match (walk, expected) {
        (Ok(walk), Ok(expected)) => {
            granted_alike(walk, expected, attributes);
            assert_eq!(places(&walk.visited), oracle_places(expected));
        }
        (Err(fault), Err(refusal)) => refused_alike(fault, refusal),
        _ => panic!("walker: {walk:?}\noracle: {expected:?}"),
    }
}

pub(crate) fn granted_alike(
    translation: &vm_iommu_pagetable::Translation,
    expected: &Translation,
    attributes: impl Fn(&Translation) -> Attributes,
) {
    assert_eq!(translation.output, PhysAddr(expected.output));
    assert_eq!(u32::from(translation.page_shift), expected.page_shift);
    let mut permissions = Access::empty();
    permissions.set(Access::READ, expected.read);
    permissions.set(Access::WRITE, expected.write);
    permissions.set(Access::EXECUTE, expected.execute);
    assert_eq!(translation.permissions, permissions);
    assert_eq!(translation.attributes, attributes(expected));
}

pub(crate) fn refused_alike(fault: &WalkFault, refusal: &Refusal) {
    assert_eq!(
        reason(fault.reason),
        Some(refusal.why),
        "{fault:?} {refusal:?}"
    );
    assert_eq!(
        u32::from(fault.level),
        refusal.level,
        "{fault:?} {refusal:?}"
    );
    let address = fault.entry_address().map_or(0, |address| address.0);
    assert_eq!(address, refusal.address, "{fault:?} {refusal:?}");
}

fn places(visited: &Visited) -> Vec<(u32, u64)> {
    visited
        .iter()
        .map(|step| (step.level.into(), step.address.0))
        .collect()
}

fn oracle_places(translation: &Translation) -> Vec<(u32, u64)> {
    translation
        .entries
        .iter()
        .map(|entry| (entry.level, entry.address))
        .collect()
}

/// A walker's reason in the oracle's terms.
fn reason(reason: Reason) -> Option<Why> {
    Some(match reason {
        Reason::BeyondWidth => Why::TooWide,
        Reason::NotCanonical => Why::NotCanonical,
        Reason::NotPresent => Why::NotPresent,
        Reason::Reserved { bit } => Why::ReservedBit(bit.into()),
        Reason::NextLevel { next_level } => Why::NextLevel(next_level.into()),
        Reason::PageSize { shift } => Why::PageSize(shift.into()),
        Reason::SkippedBits => Why::SkippedBits,
        Reason::TableAccess => Why::NoMemory,
        Reason::ReadDenied => Why::NoRead,
        Reason::WriteDenied => Why::NoWrite,
        Reason::ExecuteDenied => Why::NoExecute,
        Reason::PrivilegeDenied => Why::NoUser,
        Reason::SupervisorDisabled => Why::NoSupervisor,
        // Nobody else changes the memory here.
        _ => return None,
    })
}
