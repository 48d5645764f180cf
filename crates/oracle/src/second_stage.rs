//! VT-d second-stage translation: sections 3.7 ("Second-Stage Translation") and 9.8
//! ("Second-Stage Paging Entries").

use crate::page_walk::{Access, Entry, Memory, Refusal, Translation, Why, bit, bits, first_set};

/// The fields of registers and entries that second-stage translation depends on.
#[derive(Clone, Copy, Debug)]
pub struct SecondStage {
    /// 3, 4 or 5 levels of tables.
    pub levels: u32,
    /// The host address width.
    pub host_address_width: u32,
    /// 2-MiB pages are supported.
    pub pages_2m: bool,
    /// 1-GiB pages are supported.
    pub pages_1g: bool,
    /// Snoop control is supported.
    pub snoop_control: bool,
    /// The transient mapping field is supported.
    pub transient_mapping: bool,
    /// Execute permission is enabled.
    pub execute_enable: bool,
    /// Accessed and dirty flags are enabled.
    pub accessed_dirty_enable: bool,
}

impl SecondStage {
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
        // 1. An address with bits beyond the adjusted guest address width is refused: 39 bits
        //    for 3 levels, 48 for 4, 57 for 5.
        let width = match self.levels {
            3 => 39,
            4 => 48,
            _ => 57,
        };
        if bits(address, 63, width) != 0 {
            return Err(Refusal {
                level: 0,
                address: 0,
                why: Why::TooWide,
            });
        }

        let mut entries = Vec::new();
        let mut table = root;
        let mut level = self.levels;
        let page_shift = loop {
            // 2. Nine bits of the address select an entry of 8 bytes.
            let index = match level {
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

            // 3. The entry is read.
            let Some(entry) = memory.read(place) else {
                return refuse(Why::NoMemory);
            };
            entries.push(Entry {
                level,
                address: place,
                value: entry,
            });

            // 4. With R and W clear (and X, if execute permission is enabled) it is not present.
            let (r, w, x) = (bit(entry, 0), bit(entry, 1), bit(entry, 2));
            let present = r || w || x && self.execute_enable;
            if !present {
                return refuse(Why::NotPresent);
            }

            // 5. It maps a page at level 1, and where PS is set and such pages are supported.
            let ps = bit(entry, 7);
            let maps_page = match level {
                1 => true,
                2 => ps && self.pages_2m,
                3 => ps && self.pages_1g,
                _ => false,
            };

            // 6. Reserved fields are checked.
            let mut reserved: Vec<u32> = (self.host_address_width..=51).collect();
            if maps_page {
                match level {
                    2 => reserved.extend(12..=20),
                    3 => reserved.extend(12..=29),
                    _ => {}
                }
                if !self.snoop_control {
                    reserved.push(11);
                }
                if !self.transient_mapping {
                    reserved.push(62);
                }
            } else {
                reserved.extend([7, 11, 62]);
            }
            if let Some(position) = first_set(entry, &reserved) {
                return refuse(Why::ReservedBit(position));
            }

            // 7. A page ends the walk; otherwise bits 51:12 locate the next table.
            if maps_page {
                break match level {
                    3 => 30,
                    2 => 21,
                    _ => 12,
                };
            }
            table = bits(entry, 51, 12) * 4096;
            level -= 1;
        };

        // 8. Every entry used has to permit the access; the topmost that does not refuses.
        for entry in &entries {
            let refuse = |why| {
                Err(Refusal {
                    level: entry.level,
                    address: entry.address,
                    why,
                })
            };
            if access.write && !bit(entry.value, 1) {
                return refuse(Why::NoWrite);
            }
            if access.read && !bit(entry.value, 0) {
                return refuse(Why::NoRead);
            }
            if access.execute && self.execute_enable && !bit(entry.value, 2) {
                return refuse(Why::NoExecute);
            }
            // Execute permission that is not enabled goes with read permission.
            if access.execute && !self.execute_enable && !bit(entry.value, 0) {
                return refuse(Why::NoExecute);
            }
        }

        // 9. If enabled, A is set in every entry used and, for a write, D in the page's.
        if self.accessed_dirty_enable {
            for (i, entry) in entries.iter().enumerate() {
                memory.set(entry.address, 1 << 8);
                if access.write && i == entries.len() - 1 {
                    memory.set(entry.address, 1 << 9);
                }
            }
        }

        // 10. The page's address and the offset in it make the output.
        let page_entry = entries[entries.len() - 1].value;
        let output = match page_shift {
            30 => bits(page_entry, 51, 30) * 2u64.pow(30) + bits(address, 29, 0),
            21 => bits(page_entry, 51, 21) * 2u64.pow(21) + bits(address, 20, 0),
            _ => bits(page_entry, 51, 12) * 2u64.pow(12) + bits(address, 11, 0),
        };
        let all = |position| entries.iter().all(|entry| bit(entry.value, position));
        Ok(Translation {
            output,
            page_shift,
            read: all(0),
            write: all(1),
            execute: if self.execute_enable { all(2) } else { all(0) },
            page_entry,
            user: false,
            entries,
        })
    }
}
