//! Guest memory, tables in it, and a remapper that walks them: what every measurement runs on.

use std::sync::Arc;

use vm_iommu_dma::{
    DiscardMsi, DmaHandle, DmaPort, DmaRemapper, Epochs, GuestRam, Iotlb, IotlbConfig, Space,
    Translation, Upstream, WalkCache, WalkCacheConfig,
};
use vm_iommu_pagetable::{Levels, Reason, SecondStage, SecondStageConfig, TableMemory, Walker};
use vm_iommu_spec::{Access, DmaRequest, DomainId, Fault, Iova, PhysAddr};

use crate::pages::{TARGETS, memory, target};

/// Where tables begin, above the pages that are mapped.
const TABLES: u64 = 0xc00_0000;
const PRESENT: u64 = 3;

/// A remapper with one four-level table for everybody.
pub struct Remapper {
    ram: GuestRam,
    format: SecondStage,
    space: Arc<Space>,
    iotlb: Arc<Iotlb>,
    walk_cache: Option<Arc<WalkCache>>,
}

/// What is mapped, and what caches it.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Mapped 4-KiB pages from input address 0.
    pub pages: u64,
    /// The pages that they lead to, a power of two: fewer, and their bytes stay near.
    pub targets: u64,
    /// Sets of the IOTLB.
    pub sets: usize,
    /// Whether tables are cached.
    pub walk_cache: bool,
}

pub struct Machine {
    pub ram: GuestRam,
    pub remapper: Arc<Remapper>,
    pub port: Arc<DmaPort>,
}

impl Machine {
    /// `pages` pages, each mapped to one of its own, and a cache of `sets` sets.
    pub fn new(pages: u64, sets: usize) -> Self {
        Self::with(Layout {
            pages,
            targets: TARGETS,
            sets,
            walk_cache: false,
        })
    }

    pub fn with(layout: Layout) -> Self {
        let Layout { sets, .. } = layout;
        let ram = GuestRam::new(memory());
        for page in 0..TARGETS {
            ram.store(target(page), page).expect("targets are memory");
        }
        map(&ram, &layout);
        let iotlb = Iotlb::new(IotlbConfig { sets });
        let remapper = Arc::new(Remapper {
            ram: ram.clone(),
            format: SecondStage::new(SecondStageConfig::new(Levels::Four)),
            space: Space::new(DomainId(1), iotlb.tag(), ()),
            iotlb,
            walk_cache: layout
                .walk_cache
                .then(|| WalkCache::new(WalkCacheConfig::default())),
        });
        let port = DmaPort::new(Upstream {
            output: Arc::new(ram.clone()),
            remapper: Some(remapper.clone()),
            epochs: Arc::new(Epochs::default()),
            msi: Arc::new(DiscardMsi),
        });
        port.set_bus_master(true);
        Self {
            ram,
            remapper,
            port,
        }
    }

    /// A handle that accessed every one of `pages` once.
    pub fn warm(&self, pages: u64) -> DmaHandle {
        let handle = self.port.handle();
        for page in 0..pages {
            handle
                .read(Iova(page << 12), &mut [0; 8])
                .expect("the page is mapped");
        }
        handle
    }
}

impl Remapper {
    pub fn walk(&self, request: &DmaRequest) -> Result<Translation, Fault> {
        let (root, address) = (PhysAddr(TABLES), request.address);
        let walk = self
            .ram
            .tables(|tables| self.format.translate(tables, root, address, request.access))
            .map_err(|fault| refusal(request, fault.reason))?;
        Ok(translation(&walk))
    }

    /// As a unit walks: from the lowest table that is cached.
    fn walk_cached(&self, cache: &WalkCache, request: &DmaRequest) -> Result<Translation, Fault> {
        let (root, address, access) = (PhysAddr(TABLES), request.address, request.access);
        let (cached, token) = cache.lookup(self.space.tag(), address);
        if let Some(cached) = cached
            && cached.level() == 1
        {
            let walk = self.ram.tables(|tables| {
                self.format
                    .translate_from(tables, cached, root, address, access)
            });
            let walk = walk.map_err(|fault| refusal(request, fault.reason))?;
            return Ok(translation(&walk));
        }
        let start = cached.unwrap_or(self.format.root(root));
        let walk = self
            .ram
            .tables(|tables| self.format.walk_from(tables, start, root, address, access))
            .map_err(|fault| refusal(request, fault.reason))?;
        let positions = self.format.positions(start, address, &walk.visited);
        cache.insert(token, address, positions);
        Ok(translation(&walk.translation))
    }

    pub fn drop_range(&self, first: Iova, last: Iova) {
        self.iotlb.invalidate_range(self.space.tag(), first, last);
    }
}

impl DmaRemapper for Remapper {
    fn bind(&self, _request: &DmaRequest) -> Result<Arc<Space>, Fault> {
        Ok(Arc::clone(&self.space))
    }

    fn translate(&self, _space: &Space, request: &DmaRequest) -> Result<Translation, Fault> {
        match &self.walk_cache {
            None => self.walk(request),
            Some(cache) => self.walk_cached(cache, request),
        }
    }

    fn iotlb(&self) -> &Arc<Iotlb> {
        &self.iotlb
    }
}

fn translation(walk: &vm_iommu_pagetable::Translation) -> Translation {
    Translation {
        output: walk.page(),
        page_shift: walk.page_shift,
        permissions: walk.cacheable,
        attributes: walk.attributes,
    }
}

fn refusal(request: &DmaRequest, reason: Reason) -> Fault {
    request.fault(SecondStage::legacy_fault(reason, request.access))
}

/// Builds four levels of tables by hand: at most 1 GiB of input addresses.
fn map(ram: &GuestRam, layout: &Layout) {
    let store = |table: u64, index: u64, entry: u64| {
        ram.store(PhysAddr(table + index * 8), entry | PRESENT)
            .expect("tables are memory");
    };
    store(TABLES, 0, TABLES + 0x1000);
    store(TABLES + 0x1000, 0, TABLES + 0x2000);
    for page in 0..layout.pages {
        let leaf = TABLES + 0x3000 + ((page >> 9) << 12);
        store(TABLES + 0x2000, page >> 9, leaf);
        store(leaf, page & 511, target(page % layout.targets).0);
    }
}

pub fn read_request(address: Iova) -> DmaRequest {
    let requester = vm_iommu_spec::RequesterId::from_raw(0);
    DmaRequest::new(requester, address, Access::READ)
}
