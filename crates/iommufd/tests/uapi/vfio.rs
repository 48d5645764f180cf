//! The calls of a VFIO container.

use super::*;
use vm_iommufd::selftest::APERTURE_START;

const GET_API_VERSION: u32 = 0x3b64;
const CHECK_EXTENSION: u32 = 0x3b65;
const SET_IOMMU: u32 = 0x3b66;
const MAP_DMA: u32 = 0x3b71;
const UNMAP_DMA: u32 = 0x3b72;

fn words(argsz: u32, flags: u32, longs: &[u64]) -> Vec<u8> {
    let mut bytes = [argsz.to_le_bytes(), flags.to_le_bytes()].concat();
    bytes.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
    bytes
}

#[test]
fn a_container_is_the_address_space_that_was_named() {
    let bench = Bench::new();
    let at = |request, argument| bench.program.call_at(&bench.context, request, argument);
    assert_eq!(at(GET_API_VERSION, 0), Ok(0));
    for (extension, found) in [
        (1, Ok(1)),
        (3, Ok(1)),
        (9, Ok(1)),
        (10, Ok(0)),
        (8, Ok(0)),
        (77, Ok(0)),
    ] {
        assert_eq!(at(CHECK_EXTENSION, extension), found);
    }
    assert_eq!(at(CHECK_EXTENSION, 4), Err(Errno::ENODEV));
    assert_eq!(at(SET_IOMMU, 2), Err(Errno::EINVAL));
    assert_eq!(at(SET_IOMMU, 1), Err(Errno::ENODEV));
    let ioas = bench.ioas();
    let mut command = uapi::iommu_vfio_ioas {
        size: 12,
        ioas_id: ioas,
        op: 1,
        ..Default::default()
    };
    assert_eq!(bench.call(calls::IOMMU_VFIO_IOAS, &mut command), Ok(0));
    assert_eq!(at(SET_IOMMU, 3), Ok(0));
    assert_eq!(bench.destroy(ioas), Ok(0));
    assert_eq!(
        at(SET_IOMMU, 3),
        Err(Errno::ENODEV),
        "it went with its object"
    );
}

#[test]
fn type_1_unmaps_parts_and_type_1v2_does_not() {
    for (kind, split) in [(1, true), (3, false)] {
        let bench = Bench::new();
        let ioas = bench.ioas();
        bench.device(ioas, 0).unwrap();
        let mut command = uapi::iommu_vfio_ioas {
            size: 12,
            ioas_id: ioas,
            op: 1,
            ..Default::default()
        };
        bench.call(calls::IOMMU_VFIO_IOAS, &mut command).unwrap();
        bench
            .program
            .call_at(&bench.context, SET_IOMMU, kind)
            .unwrap();
        let call = |request, bytes: &[u8]| bench.program.call_with(&bench.context, request, bytes);
        let map = words(32, 3, &[MEMORY, APERTURE_START, 4 * PAGE]);
        assert_eq!(
            call(MAP_DMA, &words(31, 3, &[MEMORY, APERTURE_START, PAGE])),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            call(MAP_DMA, &words(32, 4, &[MEMORY, APERTURE_START, PAGE])),
            Err(Errno::EINVAL)
        );
        assert_eq!(call(MAP_DMA, &map), Ok(0));
        let unmap = |iova, length, flags| {
            call(UNMAP_DMA, &words(24, flags, &[iova, length])).map(|_| bench.pinned())
        };
        assert_eq!(
            unmap(APERTURE_START, PAGE, 1),
            Err(Errno::EINVAL),
            "dirty pages are not told"
        );
        let part = unmap(APERTURE_START + PAGE, PAGE, 0);
        assert_eq!(part, if split { Ok(3) } else { Err(Errno::ENOENT) });
        assert_eq!(
            unmap(APERTURE_START + 8 * PAGE, PAGE, 0),
            Ok(bench.pinned()),
            "nothing is no error"
        );
        assert_eq!(unmap(0, PAGE, 2), Err(Errno::EINVAL));
        assert_eq!(unmap(0, 0, 2), Ok(0));
    }
}
