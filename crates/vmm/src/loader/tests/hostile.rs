//! Whatever a file holds, loading it ends with an entry in RAM or an error.

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::images::*;

fn load(image: &[u8]) {
    let memory: GuestMemoryMmap = memory(20);
    if let Ok(entry) = Files::new(image).module(b"module", "cmdline").load(&memory) {
        assert!(memory.address_in_range(entry.start));
        assert!(memory.address_in_range(GuestAddress(entry.info.0)));
    }
}

/// A well-formed image with a few bytes of its headers replaced.
fn damaged(image: Vec<u8>, header: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(0u8),
        Just(1),
        Just(0x7f),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    let runs = proptest::collection::vec((0..header, byte, 1..9usize), 1..6);
    (runs, 0..=image.len()).prop_map(move |(runs, cut)| {
        let mut image = image.clone();
        for (at, byte, count) in runs {
            image[at..(at + count).min(header)].fill(byte);
        }
        // Most images stay whole.
        if cut < image.len() / 4 {
            image.truncate(cut * 4);
        }
        image
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes(image in proptest::collection::vec(any::<u8>(), 0..2048)) {
        load(&image);
    }

    #[test]
    fn damaged_bzimages(image in damaged(bzimage(), 0x270)) {
        load(&image);
    }

    #[test]
    fn damaged_pvh_headers(image in damaged(pvh(), 64 + 2 * 56)) {
        load(&image);
    }

    #[test]
    fn damaged_pvh_notes(note in proptest::collection::vec(any::<u8>(), 20), length in 0..64u64) {
        let mut content = vec![0; 0x20];
        content.extend(note);
        let segments = [
            (1, 0x1000, 0, 0x20_0000, 0x20, 0x20),
            (4, 0x1020, 0, 0, length, length),
        ];
        load(&elf64(0, &segments, &content));
    }

    #[test]
    fn damaged_multiboot_headers(image in damaged(multiboot(), 52 + 32)) {
        load(&image);
    }

    #[test]
    fn arbitrary_multiboot_addresses(addresses in proptest::collection::vec(
        prop_oneof![0x10_0000..0x18_0000u32, any::<u32>(), Just(0)], 5),
    ) {
        let mut image = multiboot_header(1 << 16, &addresses);
        image.extend([0x90; 64]);
        load(&image);
    }
}
