//! What iommufd is to answer, by lists that are searched from end to end.

use std::collections::{BTreeMap, BTreeSet};

use vm_iommufd::Errno;
use vm_iommufd::selftest::{APERTURE_LAST, APERTURE_START, MOCK_PAGE_SIZE};

use super::{PAGE, PRESENT_PAGES};

/// The first and the last of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u64,
    last: u64,
}

impl Range {
    pub fn new(first: u64, last: u64) -> Self {
        Self { first, last }
    }

    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What there is.
#[derive(Default)]
pub struct Model {
    objects: BTreeMap<u32, Object>,
    /// How many calls mapped memory: each pins on its own.
    calls: u64,
}

enum Object {
    Space(Space),
    /// A table, on an address space; devices that are on it.
    Table {
        space: u32,
        devices: u32,
    },
    /// A mock device on a table.
    Mock {
        table: u32,
        bound: u32,
    },
    Bound,
}

#[derive(Default)]
struct Space {
    areas: Vec<Area>,
    allowed: Vec<Range>,
    reserved: Vec<Range>,
    table: Option<u32>,
}

#[derive(Clone)]
struct Area {
    /// In pages, as all of it.
    first: u64,
    length: u64,
    source: u64,
    call: u64,
    writable: bool,
}

impl Area {
    fn range(&self) -> Range {
        Range::new(self.first * PAGE, (self.first + self.length) * PAGE - 1)
    }
}

impl Space {
    /// All that is reserved.
    fn reserved(&self) -> Vec<Range> {
        let mut reserved = self.reserved.clone();
        if self.table.is_some() {
            reserved.push(Range::new(0, APERTURE_START - 1));
            reserved.push(Range::new(APERTURE_LAST + 1, u64::MAX));
        }
        reserved
    }

    /// Why an area cannot be at a place.
    fn refuse(&self, range: Range) -> Option<Errno> {
        if self.reserved().iter().any(|reserved| reserved.meets(range)) {
            Some(Errno::EINVAL)
        } else if self.areas.iter().any(|area| area.range().meets(range)) {
            Some(Errno::EEXIST)
        } else {
            None
        }
    }

    /// Whether memory that is mapped now must be there.
    fn needs_memory(&self) -> bool {
        self.table.is_some()
    }
}

impl Model {
    pub fn highest(&self) -> u32 {
        self.objects.last_key_value().map_or(0, |(id, _)| *id)
    }

    pub fn spaces(&self) -> Vec<u32> {
        let spaces = self
            .objects
            .iter()
            .filter(|(_, object)| matches!(object, Object::Space(_)));
        spaces.map(|(id, _)| *id).collect()
    }

    fn free(&self, taken: &[u32]) -> u32 {
        let free = (1..).find(|id| !self.objects.contains_key(id) && !taken.contains(id));
        free.expect("numbers do not end")
    }

    fn space(&mut self, id: u32) -> Result<&mut Space, Errno> {
        match self.objects.get_mut(&id) {
            Some(Object::Space(space)) => Ok(space),
            _ => Err(Errno::ENOENT),
        }
    }

    pub fn alloc(&mut self) -> u32 {
        let id = self.free(&[]);
        self.objects.insert(id, Object::Space(Space::default()));
        id
    }

    pub fn destroy(&mut self, id: u32) -> Result<(), Errno> {
        match self.objects.get(&id) {
            None => Err(Errno::ENOENT),
            Some(Object::Bound | Object::Table { .. }) => Err(Errno::EBUSY),
            Some(Object::Space(space)) if space.table.is_some() => Err(Errno::EBUSY),
            Some(Object::Space(_)) => {
                self.objects.remove(&id);
                Ok(())
            }
            Some(&Object::Mock { table, bound }) => {
                self.objects.remove(&id);
                self.objects.remove(&bound);
                let Some(Object::Table { space, devices }) = self.objects.get_mut(&table) else {
                    panic!("a device is on a table");
                };
                *devices -= 1;
                let (space, left) = (*space, *devices);
                if left == 0 {
                    self.objects.remove(&table);
                    self.space(space).expect("a table has a space").table = None;
                }
                Ok(())
            }
        }
    }

    /// Compares the answer to a mapping, and takes it over.
    pub fn check_map(
        &mut self,
        id: u32,
        wanted: Option<u64>,
        source: u64,
        length: u64,
        writable: bool,
        found: Result<u64, Errno>,
    ) {
        let call = self.calls;
        let space = match self.space(id) {
            Ok(space) => space,
            Err(error) => return assert_eq!(found, Err(error)),
        };
        if length == 0 {
            return assert_eq!(found, Err(Errno::EINVAL));
        }
        let area = |first| Area {
            first,
            length,
            source,
            call,
            writable,
        };
        let missing = space.needs_memory() && source + length > PRESENT_PAGES;
        let first = match wanted {
            Some(first) => {
                let refused = space.refuse(area(first).range());
                let refused = refused.or(missing.then_some(Errno::EFAULT));
                assert_eq!(found, refused.map_or(Ok(first), Err), "map at {first:#x}");
                match found {
                    Ok(first) => first,
                    Err(_) => return,
                }
            }
            None => match found {
                Ok(first) => {
                    let range = area(first).range();
                    assert!(!missing, "memory that is not there was mapped");
                    assert_eq!(space.refuse(range), None, "placed at {first:#x}");
                    // Ranges that are next to each other are as one.
                    let is_allowed = |page: u64| {
                        let within =
                            |allowed: &Range| (allowed.first..=allowed.last).contains(&page);
                        space.allowed.is_empty() || space.allowed.iter().any(within)
                    };
                    let mut pages = (range.first..range.last).step_by(PAGE as usize);
                    assert!(pages.all(is_allowed), "placed outside at {first:#x}");
                    first
                }
                Err(Errno::EFAULT) => return assert!(missing, "memory is there"),
                // Without ranges that confine it there is always room.
                Err(error) => {
                    assert_eq!(error, Errno::ENOSPC);
                    return assert!(!space.allowed.is_empty(), "there is room");
                }
            },
        };
        space.areas.push(area(first));
        self.calls += 1;
    }

    pub fn unmap(&mut self, id: u32, pages: Option<(u64, u64)>) -> Result<u64, Errno> {
        let space = self.space(id)?;
        let Some((first, length)) = pages else {
            let all = space.areas.drain(..).map(|area| area.length).sum();
            return Ok(all);
        };
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let range = Range::new(first * PAGE, (first + length) * PAGE - 1);
        let mut concerned: Vec<_> = space
            .areas
            .iter()
            .filter(|area| area.range().meets(range))
            .cloned()
            .collect();
        concerned.sort_by_key(|area| area.first);
        let mut sum = 0;
        for area in concerned {
            if area.range().first < range.first || area.range().last > range.last {
                // What was unmapped before stays so.
                return Err(Errno::ENOENT);
            }
            sum += area.length;
            space.areas.retain(|other| other.first != area.first);
        }
        if sum == 0 {
            Err(Errno::ENOENT)
        } else {
            Ok(sum)
        }
    }

    pub fn copy(
        &mut self,
        (from, source): (u32, u64),
        (to, target): (u32, u64),
        length: u64,
    ) -> Result<(), Errno> {
        let mut pieces = Vec::new();
        let space = self.space(from)?;
        let mut at = source;
        while at < source + length {
            let covers = |area: &&Area| area.first <= at && at < area.first + area.length;
            let area = space.areas.iter().find(covers).ok_or(Errno::ENOENT)?;
            let end = (area.first + area.length).min(source + length);
            pieces.push(Area {
                first: target + (at - source),
                length: end - at,
                source: area.source + (at - area.first),
                ..area.clone()
            });
            at = end;
        }
        let pinned = self.pinned_pages();
        let space = self.space(to)?;
        let range = Range::new(target * PAGE, (target + length) * PAGE - 1);
        if let Some(refused) = space.refuse(range) {
            return Err(refused);
        }
        if pieces.iter().any(|piece| !piece.writable) {
            return Err(Errno::EPERM);
        }
        let missing = |piece: &Area| {
            (piece.source..piece.source + piece.length)
                .any(|page| page >= PRESENT_PAGES && !pinned.contains(&(piece.call, page)))
        };
        if space.needs_memory() && pieces.iter().any(missing) {
            return Err(Errno::EFAULT);
        }
        space.areas.extend(pieces);
        Ok(())
    }

    pub fn allow(&mut self, id: u32, ranges: Vec<Range>) -> Result<(), Errno> {
        let space = self.space(id)?;
        for (index, range) in ranges.iter().enumerate() {
            if ranges[..index].iter().any(|other| other.meets(*range)) {
                return Err(Errno::EINVAL);
            }
        }
        if ranges
            .iter()
            .any(|range| space.reserved().iter().any(|other| other.meets(*range)))
        {
            return Err(Errno::EADDRINUSE);
        }
        space.allowed = ranges;
        Ok(())
    }

    pub fn reserve(&mut self, id: u32, start: u64, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        let range = Range::new(start, start + length - 1);
        let space = self.space(id)?;
        let mapped = space.areas.iter().any(|area| area.range().meets(range));
        if mapped || space.allowed.iter().any(|allowed| allowed.meets(range)) {
            return Err(Errno::EADDRINUSE);
        }
        space.reserved.push(range);
        Ok(())
    }

    /// The numbers of a new mock device, its table and its bound device.
    pub fn device(&mut self, on: u32) -> Result<(u32, u32, u32), Errno> {
        let mock = self.free(&[]);
        let bound = self.free(&[mock]);
        let (space, table) = match self.objects.get(&on) {
            // The device itself has its number by then.
            None if on == bound => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
            Some(Object::Space(space)) => (on, space.table),
            Some(Object::Table { space, .. }) => (*space, Some(on)),
            Some(_) => return Err(Errno::EINVAL),
        };
        let table = match table {
            Some(table) => table,
            None => {
                let object = self.space(space)?;
                let aperture = Range::new(APERTURE_START, APERTURE_LAST);
                let outside =
                    |range: Range| range.first < aperture.first || range.last > aperture.last;
                if object.areas.iter().any(|area| outside(area.range()))
                    || object.allowed.iter().any(|allowed| outside(*allowed))
                {
                    return Err(Errno::EADDRINUSE);
                }
                let missing = |area: &Area| area.source + area.length > PRESENT_PAGES;
                if object.areas.iter().any(missing) {
                    return Err(Errno::EFAULT);
                }
                let table = self.free(&[mock, bound]);
                self.space(space)?.table = Some(table);
                self.objects
                    .insert(table, Object::Table { space, devices: 0 });
                table
            }
        };
        if let Some(Object::Table { devices, .. }) = self.objects.get_mut(&table) {
            *devices += 1;
        }
        self.objects.insert(mock, Object::Mock { table, bound });
        self.objects.insert(bound, Object::Bound);
        Ok((mock, table, bound))
    }

    /// What is not reserved, and the alignment.
    pub fn usable(&mut self, id: u32) -> Result<(Vec<(u64, u64)>, u64), Errno> {
        let space = self.space(id)?;
        let mut reserved = space.reserved();
        reserved.sort_by_key(|range| range.first);
        let mut usable = Vec::new();
        let mut at = Some(0);
        for range in reserved {
            let Some(start) = at else { break };
            if range.first > start {
                usable.push((start, range.first - 1));
            }
            at = range.last.checked_add(1).map(|next| next.max(start));
        }
        usable.extend(at.map(|start| (start, u64::MAX)));
        Ok((
            usable,
            if space.table.is_some() {
                MOCK_PAGE_SIZE
            } else {
                1
            },
        ))
    }

    /// The program's page at a page of an address space.
    pub fn source(&self, id: u32, page: u64) -> Option<u64> {
        let Some(Object::Space(space)) = self.objects.get(&id) else {
            return None;
        };
        let mut areas = space.areas.iter();
        let area = areas.find(|area| area.first <= page && page < area.first + area.length)?;
        Some(area.source + (page - area.first))
    }

    /// How many pages are pinned: those of each mapping call once.
    pub fn pinned(&self) -> u64 {
        self.pinned_pages().len() as u64
    }

    fn pinned_pages(&self) -> BTreeSet<(u64, u64)> {
        let mut pages = BTreeSet::new();
        for object in self.objects.values() {
            if let Object::Space(space) = object
                && space.table.is_some()
            {
                for area in &space.areas {
                    let source = area.source..area.source + area.length;
                    pages.extend(source.map(|page| (area.call, page)));
                }
            }
        }
        pages
    }
}
