//! Inputs to start from: tables that editors made.

use vm_iommu_pagetable::testing::{MockMemory, MockPages};
use vm_iommu_pagetable::{
    AmdV1, AmdV1Config, AttributeFlags, Editable, Editor, Levels, Mapping, SecondStage,
    SecondStageConfig, Walker, X86_64, X86_64Config,
};
use vm_iommu_spec::{Access, Iova, PhysAddr};

use super::case::{Builder, MEMORY_SIZE};

/// 52 bits of physical address, in all configurations.
const WIDE: u32 = 0xf800_0000;
/// What seeds ask of their address: to read, to write, and an atomic operation.
const ACCESSES: [u8; 3] = [1, 2, 7];

/// Inputs by the name of the target that they are for.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (bits, levels) in [(0, Levels::Three), (1, Levels::Four), (2, Levels::Five)] {
        for shift in [12, 21, 30] {
            let format = SecondStage::new(SecondStageConfig::new(levels));
            let top = 1 << (levels.address_width() - 1);
            for iova in [0x5000_0000, top | 0x4000_0000] {
                let config = WIDE | 0x9c | bits;
                let input = chain(format, config, iova, shift, 0);
                seeds.push(("pagetable_second_stage", input.bytes()));
            }
        }
    }
    for (bits, levels) in [(1, Levels::Four), (2, Levels::Five)] {
        for shift in [12, 21, 30] {
            let format = X86_64::new(X86_64Config::new(levels));
            for iova in [0x5000_0000, u64::MAX << 38] {
                let config = WIDE | 0x7c | bits;
                let input = chain(format, config, iova, shift, 0);
                seeds.push(("pagetable_x86_64", input.bytes()));
                if bits == 1 {
                    seeds.push(("pagetable_nested", nested(iova, shift, false)));
                    seeds.push(("pagetable_nested", nested(iova, shift, true)));
                }
            }
        }
    }
    for mode in 1..=6 {
        let format = AmdV1::new(AmdV1Config::new(mode));
        for shift in [12, 13, 16, 20, 21, 25, 30, 39, 43, 48, 51] {
            if shift < 12 + 9 * mode {
                let input = chain(format, WIDE | 0x18 | u32::from(mode), 0, shift, 0);
                seeds.push(("pagetable_amd_v1", input.bytes()));
            }
        }
    }
    seeds
}

/// The entries of one page of `1 << shift` bytes that an editor maps at `iova`, in pages of table
/// memory from `first_page` on.
fn chain<F: Editable>(format: F, config: u32, iova: u64, shift: u8, first_page: u8) -> Builder {
    let requests = ACCESSES.map(|access| (iova | 0x123, access));
    let input = Builder::new(config, [first_page, 8], &requests);
    entries(input, format, iova, iova, shift, first_page)
}

/// Adds the entries of a page at `iova`, on the path of the first request, which is for `path`.
fn entries<F: Editable>(
    mut input: Builder,
    format: F,
    iova: u64,
    path: u64,
    shift: u8,
    first_page: u8,
) -> Builder {
    let memory = MockMemory::new(PhysAddr(0), MEMORY_SIZE as usize);
    let start = PhysAddr(u64::from(first_page) << 12);
    let mut pages = MockPages::new(&memory, start, PhysAddr(MEMORY_SIZE));
    let Some(mut editor) = Editor::create(format, &mut pages) else {
        return input;
    };
    let rw = Access::READ | Access::WRITE;
    let mut mapping = Mapping::new(Iova(iova), PhysAddr(0), 1 << shift, rw);
    mapping.attributes.flags = AttributeFlags::USER | AttributeFlags::SNOOP;
    if let Ok(invalidation) = editor.map(&memory, &mut pages, &mapping) {
        invalidation.completed(&mut pages);
    }
    if let Ok(walk) = editor
        .format()
        .probe(&memory, editor.root(), Iova(iova), rw)
    {
        for step in walk.visited.iter() {
            let page = (step.address.0 >> 12) as u8;
            input = if iova == path {
                input.on_path(page, step.level, step.entry)
            } else {
                input.word(page, (step.address.offset_in(4096) >> 5) as u8, step.entry)
            };
        }
    }
    input
}

/// First-stage tables in pages 0 to 7 over a second stage in pages 8 to 15 that maps the first
/// GiB to itself.
fn nested(iova: u64, shift: u8, amd: bool) -> Vec<u8> {
    let config = WIDE | 0x7d00;
    let path = iova;
    if amd {
        let input = chain(
            X86_64::new(X86_64Config::new(Levels::Four)),
            config | 1 << 16 | 4,
            iova,
            shift,
            0,
        );
        entries(input, AmdV1::new(AmdV1Config::new(4)), 0, path, 30, 8).bytes()
    } else {
        let input = chain(
            X86_64::new(X86_64Config::new(Levels::Four)),
            config | 0x1d,
            iova,
            shift,
            0,
        );
        let second = SecondStage::new(SecondStageConfig::new(Levels::Four));
        entries(input, second, 0, path, 30, 8).bytes()
    }
}
