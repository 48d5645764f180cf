//! x86-64 paging as units do it: VT-d sections 3.6 ("First-Stage Translation") and 9.7
//! ("First-Stage Paging Entries"), AMD 48882 section 2.2.6.

use crate::page_walk::{Access, Entry, Memory, Refusal, Translation, Why, bit, bits, first_set};

/// The fields of registers and entries that the translation depends on.
#[derive(Clone, Copy, Debug)]
pub struct X86_64 {
    /// 4 or 5 levels of tables (3 for tests).
    pub levels: u32,
    /// The host address width.
    pub host_address_width: u32,
    /// 1-GiB pages are supported.
    pub pages_1g: bool,
    /// The execute-disable field is supported.
    pub execute_disable: bool,
    /// Supervisor request enable.
    pub supervisor_enable: bool,
    /// Write protect enable.
    pub write_protect_enable: bool,
    /// Accessed and dirty flags are set.
    pub accessed_dirty_enable: bool,
    /// Extended accessed flag enable.
    pub extended_accessed_enable: bool,
}

impl X86_64 {
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
        let mut through = |_: u32, place: u64, new: Option<u64>| {
            Ok::<_, Refusal>(match new {
                None => memory.read(place),
                Some(mask) => memory.set(place, mask).map(|()| mask),
            })
        };
        self.translate_through(&mut through, root, address, access)
    }

    /// As [`translate`](Self::translate), over memory that may itself refuse: `memory` reads the
    /// entry of a level at an address, or sets the bits of a mask in it.
    pub(crate) fn translate_through<E: From<Refusal>>(
        &self,
        memory: &mut dyn FnMut(u32, u64, Option<u64>) -> Result<Option<u64>, E>,
        root: u64,
        address: u64,
        access: Access,
    ) -> Result<Translation, E> {
        // 1. The address has to be canonical: all bits from the uppermost translated one on are
        //    the same.
        let sign = match self.levels {
            3 => 38,
            4 => 47,
            _ => 56,
        };
        let upper = bits(address, 63, sign);
        let ones = 2u64.pow(64 - sign) - 1;
        if upper != 0 && upper != ones {
            return Err(Refusal {
                level: 0,
                address: 0,
                why: Why::NotCanonical,
            }
            .into());
        }

        // 2. A request with supervisor privilege needs supervisor requests enabled.
        if access.privileged && !self.supervisor_enable {
            return Err(Refusal {
                level: 0,
                address: 0,
                why: Why::NoSupervisor,
            }
            .into());
        }

        let mut entries = Vec::new();
        let mut table = root;
        let mut level = self.levels;
        let page_shift = loop {
            // 3. Nine bits of the address select an entry of 8 bytes, which is read.
            let low = 12 + 9 * (level - 1);
            let place = table.wrapping_add(bits(address, low + 8, low) * 8);
            let refusal = |why| Refusal {
                level,
                address: place,
                why,
            };
            let Some(entry) = memory(level, place, None)? else {
                return Err(refusal(Why::NoMemory).into());
            };
            entries.push(Entry {
                level,
                address: place,
                value: entry,
            });

            // 4. P clear: not present, and nothing else in it matters.
            if !bit(entry, 0) {
                return Err(refusal(Why::NotPresent).into());
            }

            // 5. Level 1 maps 4-KiB pages; PS at level 2 a 2-MiB page, at level 3, if
            //    supported, a 1-GiB page.
            let ps = bit(entry, 7);
            let maps_page = level == 1 || level == 2 && ps || level == 3 && ps && self.pages_1g;

            // 6. Reserved: address bits beyond the host's, XD if not supported; in a large
            //    page's entry the address bits below its size, but for PAT in bit 12; in a
            //    pointer to a table, PS.
            let mut reserved: Vec<u32> = (self.host_address_width..=51).collect();
            if !self.execute_disable {
                reserved.push(63);
            }
            match (maps_page, level) {
                (true, 2) => reserved.extend(13..=20),
                (true, 3) => reserved.extend(13..=29),
                (true, _) => {}
                (false, _) => reserved.push(7),
            }
            if let Some(position) = first_set(entry, &reserved) {
                return Err(refusal(Why::ReservedBit(position)).into());
            }

            // 7. A page ends the walk.
            if maps_page {
                break low;
            }
            table = bits(entry, 51, 12) * 4096;
            level -= 1;
        };

        // 8. Permissions, at the topmost entry that lacks one: user privilege needs U/S in all
        //    entries; a write needs R/W in all, unless it has supervisor privilege and write
        //    protection is off; a fetch needs XD clear in all.
        for entry in &entries {
            let refuse = |why| {
                Err(Refusal {
                    level: entry.level,
                    address: entry.address,
                    why,
                }
                .into())
            };
            if !access.privileged && !bit(entry.value, 2) {
                return refuse(Why::NoUser);
            }
            let ignores_protection = access.privileged && !self.write_protect_enable;
            if access.write && !bit(entry.value, 1) && !ignores_protection {
                return refuse(Why::NoWrite);
            }
            if access.execute && bit(entry.value, 63) {
                return refuse(Why::NoExecute);
            }
        }

        // 9. A is set in every entry used, D in the page's for a write, and EA, if enabled, in
        //    every entry used.
        for (i, entry) in entries.iter().enumerate() {
            let mut flags = 0;
            if self.accessed_dirty_enable {
                flags |= 1 << 5;
                if access.write && i == entries.len() - 1 {
                    flags |= 1 << 6;
                }
            }
            if self.extended_accessed_enable {
                flags |= 1 << 10;
            }
            let missing = flags & !entry.value;
            if missing != 0 && memory(entry.level, entry.address, Some(missing))?.is_none() {
                let Entry { level, address, .. } = *entry;
                return Err(Refusal {
                    level,
                    address,
                    why: Why::NoMemory,
                }
                .into());
            }
        }

        // 10. The page's address and the offset in it make the output.
        let page_entry = entries[entries.len() - 1].value;
        let output = bits(page_entry, 51, page_shift) * 2u64.pow(page_shift)
            + bits(address, page_shift - 1, 0);
        let all = |position| entries.iter().all(|entry| bit(entry.value, position));
        let user = all(2);
        let reaches = user || access.privileged;
        let writable = all(1) || access.privileged && !self.write_protect_enable;
        Ok(Translation {
            output,
            page_shift,
            read: reaches,
            write: reaches && writable,
            execute: reaches && entries.iter().all(|entry| !bit(entry.value, 63)),
            page_entry,
            user,
            entries,
        })
    }
}
