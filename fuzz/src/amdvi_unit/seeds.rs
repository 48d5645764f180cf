//! Inputs that lead on: units that a driver has set up in each way that there is.

use vm_iommu_spec::amd::command::raw;
use vm_iommu_spec::amd::{DeviceTableEntry, DmaWord, DomainWord, InterruptWord};

/// An input in the making.
struct Script(Vec<u8>);

/// Where things are in the guest's memory.
const DEVICE_TABLE: u64 = 0x1000;
const COMMANDS: u64 = 0x2000;
const EVENTS: u64 = 0x3000;
const HOST: [u64; 4] = [0x5000, 0x6000, 0x7000, 0x8000];
const GUEST: [u64; 4] = [0x9000, 0xa000, 0xb000, 0xc000];
const GUEST_CR3: u64 = 0xd000;
const INTERRUPTS: u64 = 0x1_0000;
const PAGE: u64 = 0x2_0000;
/// The device.
const DEVICE: u8 = 0x01;

impl Script {
    /// A unit with these three bytes of configuration.
    fn new(config: [u8; 3]) -> Self {
        Self(config.to_vec())
    }

    fn store(&mut self, place: u64, value: u64) {
        self.0.push(0);
        self.0.extend(((place / 8) as u16).to_le_bytes());
        self.word(value);
    }

    fn word(&mut self, value: u64) {
        self.0.push(0);
        self.0.extend(value.to_le_bytes());
    }

    /// Writes the register with this index in [`REGISTERS`](super::REGISTERS).
    fn register(&mut self, offset: u64, value: u64) {
        let index = super::REGISTERS.iter().position(|other| *other == offset);
        self.0.extend([0x14, index.unwrap_or(0) as u8]);
        self.word(value);
    }

    fn control(&mut self, value: u64) {
        self.0.push(6);
        self.0.extend(value.to_le_bytes());
    }

    fn request(&mut self, address: u64, write: bool) {
        self.0.extend([if write { 0x18 } else { 8 }, DEVICE]);
        self.word(address);
        self.0.extend(64_u16.to_le_bytes());
    }

    fn request_with_pasid(&mut self, address: u64, pasid: u16) {
        self.0.extend([10, DEVICE]);
        self.word(address);
        self.0.extend(pasid.to_le_bytes());
    }

    fn interrupt(&mut self, data: u32) {
        self.0.extend([11, DEVICE]);
        self.0.extend((u64::from(data) << 32).to_le_bytes());
    }

    fn device(&mut self, entry: DeviceTableEntry) {
        for (word, place) in entry.words().into_iter().zip((0..).step_by(8)) {
            self.store(DEVICE_TABLE + u64::from(DEVICE) * 32 + place, word);
        }
    }

    /// Tables, buffers, and the unit turned on.
    fn start(&mut self, control: u64) {
        self.register(0x00, DEVICE_TABLE);
        self.register(0x08, COMMANDS | 8 << 56);
        self.register(0x10, EVENTS | 8 << 56);
        self.control(control | 1 | 1 << 2 | 1 << 12);
    }

    fn commands(&mut self, commands: &[(u64, u64)]) {
        for ((low, high), place) in commands.iter().zip((COMMANDS..).step_by(16)) {
            self.store(place, *low);
            self.store(place + 8, *high);
        }
        self.register(super::COMMAND_TAIL, commands.len() as u64 * 16);
        self.0.push(13);
    }
}

/// Host tables that map page `0x1234_5678_9000`.
fn host_tables(script: &mut Script) {
    let address = 0x1234_5678_9000_u64;
    for (level, table) in (1..=4_u32).rev().zip(HOST) {
        let index = address >> (12 + 9 * (level - 1)) & 0x1ff;
        let below = HOST.get(5 - level as usize).copied().unwrap_or(PAGE);
        let next = u64::from(level - 1) << 9;
        script.store(table + index * 8, below | next | 1 | 3 << 61);
    }
}

fn guest_tables(script: &mut Script) {
    for (level, table) in (1..=4_usize).rev().zip(GUEST) {
        let below = GUEST.get(5 - level).copied().unwrap_or(PAGE);
        script.store(table, below | 7);
    }
    script.store(GUEST_CR3, GUEST[0] | 1);
}

fn entry(dma: DmaWord) -> DeviceTableEntry {
    DeviceTableEntry {
        dma: dma
            .with_valid(true)
            .with_translation_valid(true)
            .with_read(true)
            .with_write(true),
        domain: DomainWord::new().with_domain(5),
        ..DeviceTableEntry::default()
    }
}

/// The inputs that fuzzing starts from.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // With caches and without; few features, and all of them.
    for config in [
        [0x02, 0x00, 0x00],
        [0x5e, 0xbf, 0x00],
        [0x5e, 0x3f, 0x00],
        [0x7e, 0x7f, 0x32],
        [0x5e, 0x1f, 0x0c],
    ] {
        seeds.extend(seeds_of(config));
    }
    seeds
}

fn seeds_of(config: [u8; 3]) -> [Vec<u8>; 6] {
    let host = entry(DmaWord::new().with_mode(4)).words();
    let host = DeviceTableEntry::from_words(host);
    let host = DeviceTableEntry {
        dma: host.dma.with_host_tables(vm_iommu_spec::PhysAddr(HOST[0])),
        ..host
    };
    let guest = entry(
        DmaWord::new()
            .with_guest_valid(true)
            .with_guest_io_valid(true),
    )
    .with_guest_cr3_table(vm_iommu_spec::PhysAddr(GUEST_CR3));
    let all_pages = 0x7fff_ffff_ffff_f003;
    let invalidations = [
        (u64::from(raw::INVALIDATE_DEVTAB_ENTRY) << 60 | 1, 0),
        (
            u64::from(raw::INVALIDATE_IOMMU_PAGES) << 60 | 5 << 32,
            all_pages,
        ),
        (u64::from(raw::INVALIDATE_INTERRUPT_TABLE) << 60 | 1, 0),
        (u64::from(raw::INVALIDATE_IOMMU_ALL) << 60, 0),
        (u64::from(raw::COMPLETION_WAIT) << 60 | 0xe000 | 3, 0x1234),
        (0xf << 60, 0),
    ];

    let mut with_host = Script::new(config);
    host_tables(&mut with_host);
    with_host.device(host);
    with_host.start(0);
    with_host.request(0x1234_5678_9010, true);
    with_host.request(0x1234_5678_b000, false);
    with_host.commands(&invalidations);
    with_host.request(0x1234_5678_9010, false);

    let mut with_guest = Script::new(config);
    guest_tables(&mut with_guest);
    with_guest.device(guest);
    with_guest.start(1 << 16);
    with_guest.request(0x10, true);
    with_guest.request_with_pasid(0x10, 0);
    with_guest.request_with_pasid(0x10, 3);
    with_guest.commands(&invalidations);

    let mut with_interrupts = Script::new(config);
    let word = InterruptWord::new()
        .with_valid(true)
        .with_control(2)
        .with_table_length(9)
        .with_table_address(vm_iommu_spec::PhysAddr(INTERRUPTS));
    with_interrupts.device(DeviceTableEntry {
        interrupt: word,
        ..host
    });
    for index in 0..4 {
        with_interrupts.store(INTERRUPTS + index * 8, 0x41_0001 | 0x41_0001 << 32);
    }
    for control in [0, 1 << 17, 1 << 17 | 1 << 50] {
        with_interrupts.start(control);
        for data in [0, 1, 2, 0x1ff, 0x400, 0x500, 0x700] {
            with_interrupts.interrupt(data);
        }
        with_interrupts.commands(&invalidations);
        with_interrupts.control(0);
    }

    // Guest tables at addresses that host tables map one to one.
    let mut nested = Script::new(config);
    guest_tables(&mut nested);
    nested.store(HOST[0], HOST[1] | 3 << 9 | 1 | 3 << 61);
    nested.store(HOST[1], 3 << 61 | 1);
    nested.device(DeviceTableEntry {
        dma: guest
            .dma
            .with_mode(4)
            .with_host_tables(vm_iommu_spec::PhysAddr(HOST[0])),
        ..guest
    });
    nested.start(1 << 16);
    nested.request(0x10, true);
    nested.request_with_pasid(0x20, 0);
    nested.commands(&invalidations);
    nested.request(0x10, false);

    // The special ranges, by each of the device table entry's fields that rule them; SMIs by a
    // filter; interrupts that are a guest's.
    let mut special = Script::new(config);
    host_tables(&mut special);
    special.start(0);
    for rule in 0..4 {
        special.device(DeviceTableEntry {
            domain: host
                .domain
                .with_exclusion(rule & 1 != 0)
                .with_io_control(rule % 3)
                .with_system_management(rule),
            ..host
        });
        special.register(0x20, 0x3000 | 1 | u64::from(rule & 2));
        special.register(0x28, 0x4000);
        for address in [
            0x2ff8,
            0x3000,
            0x4ff8,
            0x5000,
            0xfee0_1002,
            0xfd_f800_0000,
            0xfd_f910_0000,
            0xfd_fc00_0000,
            0xfe_0000_0000,
        ] {
            special.request(address, true);
        }
        special.commands(&invalidations);
    }
    special.device(DeviceTableEntry {
        interrupt: word,
        ..host
    });
    special.store(INTERRUPTS, 0x4181);
    special.store(INTERRUPTS + 8, 0x1234_5041);
    special.register(0x60, 1 << 16 | u64::from(DEVICE));
    for control in [1 << 17 | 1 << 25, 1 << 17 | 1 << 25 | 1 << 22] {
        special.start(control);
        special.interrupt(0);
        special.interrupt(0x200);
        special.register(0x60, 0);
        special.commands(&invalidations);
    }
    // Faults that are not to be logged: SE, SA, IG and SupIOPF, with a legal Mode and without.
    let mut unlogged = Script::new(config);
    host_tables(&mut unlogged);
    unlogged.store(INTERRUPTS, 0);
    unlogged.store(INTERRUPTS + 8, 2 | 2 << 32);
    unlogged.start(0);
    for rule in 0..8_u8 {
        unlogged.device(DeviceTableEntry {
            dma: host.dma.with_mode(if rule & 4 == 0 { 4 } else { 7 }),
            domain: host
                .domain
                .with_suppress_repeated(rule & 1 != 0)
                .with_suppress_all(rule & 2 != 0),
            interrupt: word.with_ignore_unmapped(rule & 1 != 0),
            ..host
        });
        unlogged.request(0x5000, true);
        unlogged.request(0x5000, false);
        unlogged.request_with_pasid(0x5000, 0);
        for data in [0, 2, 0x500] {
            unlogged.interrupt(data);
        }
        unlogged.commands(&invalidations);
        unlogged.control(0);
        unlogged.start(0);
    }
    [
        with_host.0,
        with_guest.0,
        with_interrupts.0,
        nested.0,
        special.0,
        unlogged.0,
    ]
}
