//! AMD host translation: 48882 section 2.2.3 ("I/O Page Tables for Host Translations").

use crate::page_walk::{Access, Entry, Memory, Refusal, Translation, Why, bit, bits, first_set};

/// The fields of registers and the device table entry that the translation depends on.
#[derive(Clone, Copy, Debug)]
pub struct AmdV1 {
    /// The paging mode, 1 to 6: the level of the root table.
    pub mode: u32,
    /// The width of physical addresses.
    pub physical_address_width: u32,
    /// Accessed flags are set.
    pub accessed_enable: bool,
    /// Dirty flags are set.
    pub dirty_enable: bool,
}

impl AmdV1 {
    /// Translates `address` with the tables at `root`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn translate(
        &self,
        memory: &mut dyn Memory,
        root: u64,
        address: u64,
        access: Access,
    ) -> Result<Translation, Refusal> {
        // 1. A table of level n translates address bits up to 12 + 9n - 1; those above have to
        //    be zero. Level 6 translates all that are left, bits 63:57.
        let width = 12 + 9 * self.mode;
        if width < 64 && bits(address, 63, width) != 0 {
            return Err(Refusal {
                level: 0,
                address: 0,
                why: Why::TooWide,
            });
        }

        let mut entries = Vec::new();
        let mut table = root;
        let mut level = self.mode;
        let page_shift = loop {
            // 2. Nine bits of the address, seven at level 6, select an entry of 8 bytes.
            let index = match level {
                6 => bits(address, 63, 57),
                5 => bits(address, 56, 48),
                4 => bits(address, 47, 39),
                3 => bits(address, 38, 30),
                2 => bits(address, 29, 21),
                _ => bits(address, 20, 12),
            };
            let place = table.wrapping_add(index * 8);
            let refuse = |why| {
                Err(Refusal {
                    level,
                    address: place,
                    why,
                })
            };
            let Some(entry) = memory.read(place) else {
                return refuse(Why::NoMemory);
            };
            entries.push(Entry {
                level,
                address: place,
                value: entry,
            });

            // 3. PR clear: not present.
            if !bit(entry, 0) {
                return refuse(Why::NotPresent);
            }

            // 4. Next Level 0 or 7 makes it a page translation entry, in which bits 58:52 are
            //    reserved; otherwise it is a page directory entry, with 60:52 reserved.
            let next_level = bits(entry, 11, 9) as u32;
            let maps_page = next_level == 0 || next_level == 7;
            let mut reserved: Vec<u32> = (self.physical_address_width..=51).collect();
            reserved.extend(if maps_page { 52..=58 } else { 52..=60 });
            if let Some(position) = first_set(entry, &reserved) {
                return refuse(Why::ReservedBit(position));
            }

            // 5. The top level, 6, has no page translation entries.
            if maps_page && level == 6 {
                return refuse(Why::NextLevel(next_level));
            }

            // 6. Next Level 0: the page has the default size of the level.
            let default_shift = 12 + 9 * (level - 1);
            if next_level == 0 {
                break default_shift;
            }

            // 7. Next Level 7: the lowest clear bit of the page address, bits 63:12 with zeroes
            //    above bit 51, gives the size; twice that bit's weight. It has to be larger than
            //    the default size of the level and smaller than that of the next.
            if next_level == 7 {
                let page_address = bits(entry, 51, 12) * 4096;
                let mut lowest_clear = 12;
                while bit(page_address, lowest_clear) {
                    lowest_clear += 1;
                }
                let shift = lowest_clear + 1;
                if shift <= default_shift || shift >= default_shift + 9 {
                    return refuse(Why::PageSize(shift));
                }
                break shift;
            }

            // 8. The next level has to be below this one.
            if next_level >= level {
                return refuse(Why::NextLevel(next_level));
            }

            // 9. The address bits of the levels that are skipped have to be zero.
            for skipped in next_level + 1..level {
                let low = 12 + 9 * (skipped - 1);
                if bits(address, low + 8, low) != 0 {
                    return refuse(Why::SkippedBits);
                }
            }
            table = bits(entry, 51, 12) * 4096;
            level = next_level;
        };

        // 10. Every entry used has to permit the access (IR bit 61, IW bit 62); the topmost that
        //     does not refuses. Fetching instructions goes with reading.
        for entry in &entries {
            let refuse = |why| {
                Err(Refusal {
                    level: entry.level,
                    address: entry.address,
                    why,
                })
            };
            if access.write && !bit(entry.value, 62) {
                return refuse(Why::NoWrite);
            }
            if access.read && !bit(entry.value, 61) {
                return refuse(Why::NoRead);
            }
            if access.execute && !bit(entry.value, 61) {
                return refuse(Why::NoExecute);
            }
        }

        // 11. Flags, as enabled: A (bit 5) in every entry used, D (bit 6) in the page's for a
        //     write.
        for (i, entry) in entries.iter().enumerate() {
            if self.accessed_enable {
                memory.set(entry.address, 1 << 5);
            }
            if self.dirty_enable && access.write && i == entries.len() - 1 {
                memory.set(entry.address, 1 << 6);
            }
        }

        // 12. The page's address, without the bits within the page, and the offset in it.
        let page_entry = entries[entries.len() - 1].value;
        let page = if page_shift > 51 {
            0
        } else {
            bits(page_entry, 51, page_shift) * 2u64.pow(page_shift)
        };
        let all = |position| entries.iter().all(|entry| bit(entry.value, position));
        Ok(Translation {
            output: page + bits(address, page_shift - 1, 0),
            page_shift,
            read: all(61),
            write: all(62),
            execute: all(61),
            page_entry,
            user: false,
            entries,
        })
    }
}
