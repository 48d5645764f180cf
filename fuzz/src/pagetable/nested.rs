//! A first stage over a second.

use vm_iommu_oracle::{Memory, NestedRefusal, Refusal, Stage, Translation};
use vm_iommu_pagetable::testing::MockMemory;
use vm_iommu_pagetable::{Attributes, Nested, NestedFault, NestedWalk, Purpose, Walker, X86_64};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::case::{Case, OracleMemory, oracle_access};
use super::compare::{agree, granted_alike, refused_alike};
use super::{amd_v1, second_stage, x86_64};

/// Walks x86-64 tables over a second stage, and asks the oracle.
///
/// Configuration bits 7:0 configure a VT-d second stage as [`second_stage()`](super::second_stage)
/// does, 15:8 the first stage as [`x86_64()`](super::x86_64) does. With bit 16 the second stage
/// is AMD's host translation, configured by bits 4:0 as [`amd_v1()`](super::amd_v1) does.
pub fn nested(data: &[u8]) {
    let case = Case::new(data);
    let mut first = case.config >> 8 & 0xff;
    if case.bit(16) {
        // AMD has no extended accessed flag.
        first &= 0x7f;
        let (format, oracle) = amd_v1::formats(&case, case.config);
        let translate = |memory: &mut dyn Memory, root, address, access| {
            oracle.translate(memory, root, address, access)
        };
        compare(&case, first, &format, &translate, amd_v1::attributes);
    } else {
        let (format, oracle) = second_stage::formats(&case);
        let translate = |memory: &mut dyn Memory, root, address, access| {
            oracle.translate(memory, root, address, access)
        };
        compare(&case, first, &format, &translate, second_stage::attributes);
    }
}

/// A second stage of the oracle: memory, root, address and access.
type Translate<'a> =
    dyn Fn(&mut dyn Memory, u64, u64, vm_iommu_oracle::Access) -> Result<Translation, Refusal> + 'a;

fn compare<S: Walker>(
    case: &Case,
    first_bits: u32,
    second: &S,
    translate: &Translate<'_>,
    second_attributes: impl Fn(&Translation) -> Attributes,
) {
    let (first, oracle) = x86_64::formats(case, first_bits);
    let [root, second_root] = case.roots;
    let walker: Nested<'_, X86_64, S, _> = Nested {
        first: &first,
        second,
        second_root: PhysAddr(second_root),
        memory: &case.memory,
    };
    let ask = |model: &mut OracleMemory, address, access| {
        vm_iommu_oracle::nested(
            model,
            &oracle,
            &|memory: &mut dyn Memory, address, access| {
                translate(memory, second_root, address, access)
            },
            root,
            address,
            oracle_access(access),
        )
    };
    for &(address, access) in &case.requests {
        let mut model = OracleMemory::new(&case.memory);
        let expected = ask(&mut model, address, access);

        let before = OracleMemory::new(&case.memory);
        let probe = walker.probe(PhysAddr(root), Iova(address), access);
        assert_eq!(before, OracleMemory::new(&case.memory), "a probe wrote");

        let translation = walker.translate(PhysAddr(root), Iova(address), access);
        assert_eq!(model, OracleMemory::new(&case.memory), "flags differ");
        match (&translation, &expected) {
            (Ok(translation), Ok((inner, outer))) => {
                granted_alike(&translation.first, inner, x86_64::attributes);
                granted_alike(&translation.second, outer, &second_attributes);
                combined(translation);
                assert_eq!(probe.map(|probe| probe.output), Ok(translation.output));
            }
            (Err(fault), Err(refusal)) => {
                refused(fault, refusal);
                // A probe needs no permission to set flags, so it may get further.
                if !matches!(
                    fault,
                    NestedFault::Second {
                        purpose: Purpose::Flags { .. },
                        ..
                    }
                ) {
                    assert!(probe.is_err());
                }
            }
            _ => panic!("walker: {translation:?}\noracle: {expected:?}"),
        }

        // The oracle is asked again: where an entry serves both stages, a flag of the one is an
        // attribute to the other.
        let again = ask(&mut model, address, access);
        let walk = walker.walk(PhysAddr(root), Iova(address), access);
        assert_eq!(model, OracleMemory::new(&case.memory), "flags differ");
        match (&walk, &again) {
            (Ok(walk), Ok((inner, outer))) => {
                agree(&Ok(walk.first), &Ok(inner.clone()), x86_64::attributes);
                agree(&Ok(walk.second), &Ok(outer.clone()), &second_attributes);
                combined(&walk.translation());
            }
            (Err(fault), Err(refusal)) => refused(fault, refusal),
            _ => panic!("walker: {walk:?}\noracle: {again:?}"),
        }
        let start = first.root(PhysAddr(root));
        let from = walker.walk_from(start, PhysAddr(root), Iova(address), access);
        assert_eq!(from.is_ok(), walk.is_ok());
        if let Ok(walk) = walk {
            from_positions(&walker, PhysAddr(root), Iova(address), access, &walk);
        }
    }
}

/// Walks again from each table of the first stage on the way. Flags that walks set may be
/// attributes to others; all else stays.
fn from_positions<S: Walker>(
    walker: &Nested<'_, X86_64, S, MockMemory>,
    root: PhysAddr,
    iova: Iova,
    access: Access,
    walk: &NestedWalk,
) {
    let start = walker.first.root(root);
    let positions = walker.first.positions(start, iova, &walk.first.visited);
    for position in positions.collect::<Vec<_>>() {
        let again = walker.walk_from(position, root, iova, access).unwrap();
        assert_eq!(again.output, walk.output);
        assert_eq!(again.permissions, walk.permissions);
        let again = walker.translate_from(position, root, iova, access).unwrap();
        assert_eq!(again.output, walk.output);
        assert_eq!(again.permissions, walk.permissions);
    }
}

/// What both stages make together.
fn combined(walk: &NestedWalk<vm_iommu_pagetable::Translation>) {
    assert_eq!(walk.output, walk.second.output);
    assert_eq!(
        walk.page_shift,
        walk.first.page_shift.min(walk.second.page_shift)
    );
    assert_eq!(
        walk.permissions,
        walk.first.permissions & walk.second.permissions
    );
    assert!(walk.permissions.contains(walk.cacheable));
}

fn refused(fault: &NestedFault, refusal: &NestedRefusal) {
    let stage = match *fault {
        NestedFault::First(_) => Stage::First,
        NestedFault::Second {
            address: Iova(address),
            purpose,
            ..
        } => match purpose {
            Purpose::Entry { level } => Stage::SecondForEntry {
                level: level.into(),
                address,
            },
            Purpose::Flags { level } => Stage::SecondForFlags {
                level: level.into(),
                address,
            },
            Purpose::Page => Stage::SecondForPage { address },
        },
        _ => panic!("no such fault: {fault:?}"),
    };
    assert_eq!(stage, refusal.stage, "{fault:?} {refusal:?}");
    let fault = match fault {
        NestedFault::Second { fault, .. } | NestedFault::First(fault) => fault,
        _ => panic!("no such fault: {fault:?}"),
    };
    refused_alike(fault, &refusal.refusal);
}
