//! Sequences of iommufd's calls against a model.

mod model;

use std::sync::Arc;

use iommufd_bindings as uapi;
use model::{Model, Range};
use vm_iommufd::selftest::{APERTURE_START, IOMMU_TEST_CMD, Operation, Program, TestCommand};
use vm_iommufd::uapi as calls;
use vm_iommufd::uapi::Plain;
use vm_iommufd::{Context, Errno, System, SystemConfig};

/// The size of a page.
const PAGE: u64 = 4096;
/// The addresses that are mapped and asked about.
const WINDOW: u64 = 48;
/// The program's pages, of which the last have no memory.
const SOURCE: u64 = 0x10_0000;
const SOURCE_PAGES: u64 = 32;
const PRESENT_PAGES: u64 = 24;
/// Where the program has bitmaps and ranges.
const BUFFER: u64 = 0x4000_0000;
const BUFFER_LENGTH: u64 = 4 * PAGE;
/// How many calls an input makes at most.
const CALLS: usize = 96;

/// Makes calls, five bytes each, and compares each answer, what is mapped, what is pinned and
/// which objects there are with a model that keeps pages one by one. In the end nothing is left.
pub fn iommufd_calls(data: &[u8]) {
    let system = System::new(SystemConfig::default());
    let program = Program::new(1);
    program.add_memory(SOURCE, PRESENT_PAGES * PAGE, true);
    program.add_memory(BUFFER, BUFFER_LENGTH, true);
    for page in 0..PRESENT_PAGES {
        let tag = (page as u8).wrapping_mul(7).wrapping_add(1);
        program
            .poke(SOURCE + page * PAGE, &[tag; 16])
            .expect("it is there");
    }
    let mut run = Run {
        context: system.open(),
        program: &program,
        model: Model::default(),
    };
    for call in data.chunks_exact(5).take(CALLS) {
        let call: [u8; 5] = call.try_into().expect("five bytes");
        run.step(call);
        let pinned = system.pins(program.id()).pinned_pages;
        assert_eq!(pinned, run.model.pinned(), "pinned after {call:?}");
    }
    run.compare_mappings();
    drop(run);
    assert_eq!(
        system.pins(program.id()).pinned_pages,
        0,
        "nothing stays pinned"
    );
}

struct Run<'a> {
    context: Arc<Context>,
    program: &'a Program,
    model: Model,
}

impl Run<'_> {
    fn step(&mut self, [what, a, b, c, d]: [u8; 5]) {
        match what % 10 {
            0 => self.alloc(),
            1 => self.destroy(a),
            2 => self.map(a, Some(b), c, d),
            3 => self.map(a, None, c, d),
            4 => self.unmap(a, b, c),
            5 => self.copy(a, b, c, d),
            6 => self.allow(a, b, c, d),
            7 => self.reserve(a, b, c),
            8 => self.device(a),
            _ => self.ranges(a),
        }
    }

    /// The number of an object that may exist, mostly.
    fn id(&self, raw: u8) -> u32 {
        u32::from(raw % (self.model.highest() as u8 + 2))
    }

    fn alloc(&mut self) {
        let mut command = uapi::iommu_ioas_alloc {
            size: 12,
            ..Default::default()
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_ALLOC, &mut command);
        assert_eq!(found, Ok(0));
        assert_eq!(command.out_ioas_id, self.model.alloc());
    }

    fn destroy(&mut self, raw: u8) {
        let id = self.id(raw);
        let mut command = uapi::iommu_destroy { size: 8, id };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_DESTROY, &mut command);
        assert_eq!(found.map(|_| ()), self.model.destroy(id), "destroy {id}");
    }

    fn map(&mut self, raw: u8, iova: Option<u8>, source: u8, shape: u8) {
        let id = self.id(raw);
        let place = iova.map(|page| u64::from(page) % WINDOW);
        let source = u64::from(source) % SOURCE_PAGES;
        let length = u64::from(shape % 8).min(SOURCE_PAGES - source);
        let writable = shape & 0x10 == 0;
        let flags = 4 | if writable { 2 } else { 0 } | u32::from(place.is_some());
        let mut command = uapi::iommu_ioas_map {
            size: 40,
            flags,
            ioas_id: id,
            user_va: SOURCE + source * PAGE,
            length: length * PAGE,
            iova: place.map_or(0, address),
            ..Default::default()
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_MAP, &mut command);
        let found = found.map(|_| command.iova / PAGE);
        let wanted = place.map(|page| address(page) / PAGE);
        self.model
            .check_map(id, wanted, source, length, writable, found);
    }

    fn unmap(&mut self, raw: u8, page: u8, length: u8) {
        let id = self.id(raw);
        let all = length == 255;
        let (iova, bytes) = if all {
            (0, u64::MAX)
        } else {
            (
                address(u64::from(page) % WINDOW),
                u64::from(length % 24) * PAGE,
            )
        };
        let mut command = uapi::iommu_ioas_unmap {
            size: 24,
            ioas_id: id,
            iova,
            length: bytes,
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_UNMAP, &mut command);
        let found = found.map(|_| command.length / PAGE);
        let range = (!all).then_some((iova / PAGE, bytes / PAGE));
        assert_eq!(
            found,
            self.model.unmap(id, range),
            "unmap {range:?} of {id}"
        );
    }

    fn copy(&mut self, from: u8, to: u8, page: u8, shape: u8) {
        let (from, to) = (self.id(from), self.id(to));
        let source = address(u64::from(page) % WINDOW);
        let target = address(u64::from(shape) % WINDOW);
        let length = u64::from(shape % 6) + 1;
        let mut command = uapi::iommu_ioas_copy {
            size: 40,
            flags: 7,
            src_ioas_id: from,
            dst_ioas_id: to,
            length: length * PAGE,
            src_iova: source,
            dst_iova: target,
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_COPY, &mut command);
        let expected = self
            .model
            .copy((from, source / PAGE), (to, target / PAGE), length);
        assert_eq!(found.map(|_| ()), expected, "copy {command:?}");
    }

    fn allow(&mut self, raw: u8, first: u8, length: u8, second: u8) {
        let id = self.id(raw);
        let mut ranges = Vec::new();
        for (page, length) in [(first, length % 32), (second, length / 32)] {
            if length > 0 {
                let start = address(u64::from(page) % WINDOW);
                ranges.push((start, start + u64::from(length) * PAGE - 1));
            }
        }
        let structures = ranges
            .iter()
            .flat_map(|&(start, last)| uapi::iommu_iova_range { start, last }.to_bytes());
        let bytes: Vec<u8> = structures.collect();
        self.program.poke(BUFFER, &bytes).expect("it is there");
        let mut command = uapi::iommu_ioas_allow_iovas {
            size: 24,
            ioas_id: id,
            num_iovas: ranges.len() as u32,
            allowed_iovas: BUFFER,
            ..Default::default()
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_ALLOW_IOVAS, &mut command);
        let pages = ranges
            .iter()
            .map(|&(start, last)| Range::new(start, last))
            .collect();
        assert_eq!(
            found.map(|_| ()),
            self.model.allow(id, pages),
            "allow {ranges:?}"
        );
    }

    fn reserve(&mut self, raw: u8, page: u8, length: u8) {
        let id = self.id(raw);
        let start = address(u64::from(page) % WINDOW);
        let bytes = u64::from(length % 8) * PAGE;
        let mut command = test(Operation::AddReserved, id);
        command.set_long(0, start);
        command.set_long(8, bytes);
        let found = self
            .program
            .call(&self.context, IOMMU_TEST_CMD, &mut command);
        let expected = self.model.reserve(id, start, bytes);
        assert_eq!(found.map(|_| ()), expected, "reserve {start:#x} {bytes:#x}");
    }

    /// Makes a device that is attached to an address space.
    fn device(&mut self, raw: u8) {
        let id = self.id(raw);
        let mut command = test(Operation::MockDomain, id);
        let found = self
            .program
            .call(&self.context, IOMMU_TEST_CMD, &mut command);
        let numbers = (command.word(0), command.word(4), command.word(8));
        assert_eq!(
            found.map(|_| numbers),
            self.model.device(id),
            "a device on {id}"
        );
    }

    fn ranges(&mut self, raw: u8) {
        let id = self.id(raw);
        let mut command = uapi::iommu_ioas_iova_ranges {
            size: 32,
            ioas_id: id,
            num_iovas: 64,
            allowed_iovas: BUFFER,
            ..Default::default()
        };
        let found = self
            .program
            .call(&self.context, calls::IOMMU_IOAS_IOVA_RANGES, &mut command);
        let ranges = found.map(|_| {
            let mut bytes = vec![0; command.num_iovas as usize * 16];
            self.program.peek(BUFFER, &mut bytes).expect("it is there");
            let structures = bytes
                .chunks_exact(16)
                .map(uapi::iommu_iova_range::from_bytes);
            let ranges = structures.map(|range| (range.start, range.last)).collect();
            (ranges, command.out_iova_alignment)
        });
        assert_eq!(ranges, self.model.usable(id), "ranges of {id}");
    }

    /// Reads each page of each address space by an access.
    fn compare_mappings(&mut self) {
        for id in self.model.spaces() {
            let mut command = test(Operation::CreateAccess, id);
            let made = self
                .program
                .call(&self.context, IOMMU_TEST_CMD, &mut command);
            assert_eq!(made, Ok(0));
            let access = command.word(0);
            for page in 0..WINDOW {
                let mut command = test(Operation::AccessRw, access);
                command.set_long(0, address(page));
                command.set_long(8, 16);
                command.set_long(16, BUFFER);
                let found = self
                    .program
                    .call(&self.context, IOMMU_TEST_CMD, &mut command);
                let found = found.map(|_| {
                    let mut tag = [0; 16];
                    self.program.peek(BUFFER, &mut tag).expect("it is there");
                    tag[0]
                });
                let expected = match self.model.source(id, address(page) / PAGE) {
                    None => Err(Errno::ENOENT),
                    Some(source) if source >= PRESENT_PAGES => Err(Errno::EFAULT),
                    Some(source) => Ok((source as u8).wrapping_mul(7).wrapping_add(1)),
                };
                assert_eq!(found, expected, "page {page} of {id}");
            }
            self.program.close(access as i32);
        }
    }
}

/// The address of a page of the window.
fn address(page: u64) -> u64 {
    APERTURE_START + page * PAGE
}

fn test(operation: Operation, id: u32) -> TestCommand {
    TestCommand::new(operation, id)
}
