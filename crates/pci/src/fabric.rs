//! One PCI segment.

mod access;
mod settle;

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use thiserror::Error;
use vm_iommu_dma::Upstream;
use vm_iommu_spec::RequesterId;

use crate::intx::{IntxLines, IntxSink, line_of};
use crate::registers::{HEADER_TYPE, INTERRUPT_PIN};
use crate::routes::Routes;
use crate::topology::Topology;
use crate::{
    AcsFlags, Bridge, BuildError, BusId, DevFn, FabricObserver, FunctionId, PciFunction, PortKind,
    Windows,
};
use settle::Settling;

/// Why a function cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddError {
    /// No such bus in this fabric.
    #[error("{bus:?} is not in this fabric")]
    NoBus {
        /// The bus asked for.
        bus: BusId,
    },
    /// The place is taken.
    #[error("{devfn} is taken on {bus:?}")]
    Taken {
        /// The bus asked for.
        bus: BusId,
        /// The place asked for.
        devfn: DevFn,
    },
    /// A link has one device at its end, number 0.
    #[error("{devfn} cannot be behind a port: a link has only device 0")]
    NotOnLink {
        /// The place asked for.
        devfn: DevFn,
    },
    /// Root ports are on the root bus only.
    #[error("a root port can only be on the root bus")]
    RootPortBelowRoot,
    /// No bus number would be left for another bridge.
    #[error("the fabric has 256 buses already")]
    TooManyBuses,
    /// The bridge's config space could not be laid out.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A segment: a host bridge at 00:00.0, and the tree of functions that the embedder adds.
///
/// Config writes route accesses anew at once. Accesses clone what they need from a published
/// snapshot, so that no lock is held while a function is called. Nothing here may be called from
/// inside a DMA epoch: disabling a function waits for the epochs to end.
pub struct Fabric {
    segment: u16,
    upstream: Upstream,
    windows: Windows,
    view: RwLock<Arc<View>>,
    settling: Settling,
    pub(crate) intx: Arc<IntxLines>,
    observers: Mutex<Vec<Arc<dyn FabricObserver>>>,
    /// The configuration address register, port CF8h.
    config_address: AtomicU32,
}

/// What accesses go by.
pub(crate) struct View {
    pub(crate) segment: u16,
    pub(crate) topology: Arc<Topology>,
    pub(crate) routes: Routes,
}

impl View {
    pub(crate) fn address(&self, index: usize) -> Option<RequesterId> {
        let node = self.topology.nodes.get(index)?;
        let number = (*self.routes.numbers.get(node.bus)?)?;
        let segment = self.segment;
        Some(RequesterId::from_devfn(segment, number, node.devfn.raw()))
    }
}

impl Fabric {
    /// A segment with nothing but its host bridge, which forwards `windows`. Bridges issue
    /// requests of their own, if ever, to `upstream`.
    ///
    /// # Errors
    /// Those of [`add`](Self::add); none in practice.
    pub fn new(segment: u16, windows: Windows, upstream: Upstream) -> Result<Arc<Self>, AddError> {
        let host = Arc::new(Bridge::host(upstream.clone())?);
        let fabric = Self {
            segment,
            upstream,
            windows,
            view: RwLock::new(Arc::new(View {
                segment,
                topology: Arc::new(Topology::new()),
                routes: Routes::empty(),
            })),
            settling: Settling::default(),
            intx: Arc::default(),
            observers: Mutex::default(),
            config_address: AtomicU32::new(0),
        };
        fabric.add(BusId::ROOT, DevFn::from_raw(0), host)?;
        Ok(Arc::new(fabric))
    }

    /// Adds a function. Functions of one device become a multifunction device; an endpoint on the
    /// root bus becomes an integrated one.
    ///
    /// # Errors
    /// [`AddError`], if no function can be there.
    pub fn add(
        &self,
        bus: BusId,
        devfn: DevFn,
        function: Arc<dyn PciFunction>,
    ) -> Result<FunctionId, AddError> {
        let id = self.settling.exclusively(|| {
            let view = self.view();
            let mut topology = Topology::clone(&view.topology);
            check_place(&topology, bus, devfn, &*function)?;
            if bus == BusId::ROOT {
                integrate(&*function);
            }
            let index = topology.insert(bus.0, devfn, function);
            mark_multifunction(&topology, index);
            self.wire(&topology, index);
            self.publish(View {
                segment: self.segment,
                topology: Arc::new(topology),
                routes: view.routes.clone(),
            });
            self.reroute();
            Ok::<_, AddError>(FunctionId(index))
        })?;
        self.settle();
        Ok(id)
    }

    /// Adds a bridge of `kind`, with these Access Control Services, and yields the bus behind it.
    ///
    /// # Errors
    /// Those of [`add`](Self::add) and of [`Bridge::new`].
    pub fn add_bridge(
        &self,
        bus: BusId,
        devfn: DevFn,
        kind: PortKind,
        acs: AcsFlags,
    ) -> Result<BusId, AddError> {
        let bridge = Arc::new(Bridge::new(kind, acs, self.upstream.clone())?);
        let id = self.add(bus, devfn, bridge)?;
        self.behind(id)
            .ok_or(AddError::Build(BuildError::Port { kind }))
    }

    /// The bus behind a bridge; `None` for other functions.
    pub fn behind(&self, id: FunctionId) -> Option<BusId> {
        self.view().topology.nodes.get(id.0)?.secondary.map(BusId)
    }

    /// A function, and where it is.
    pub fn function(&self, id: FunctionId) -> Option<(Arc<dyn PciFunction>, BusId, DevFn)> {
        let view = self.view();
        let node = view.topology.nodes.get(id.0)?;
        Some((Arc::clone(&node.function), BusId(node.bus), node.devfn))
    }

    /// Who the function's requests say they are from now; `None` while they reach nobody.
    pub fn requester(&self, id: FunctionId) -> Option<RequesterId> {
        *self.view().routes.requesters.get(id.0)?
    }

    /// Where config accesses reach the function now, as software names it; `None` if nowhere.
    /// The same as [`requester`](Self::requester) but behind bridges to conventional PCI.
    pub fn address(&self, id: FunctionId) -> Option<RequesterId> {
        self.view().address(id.0)
    }

    /// The number that software gave to a bus, if config accesses reach it.
    pub fn bus_number(&self, bus: BusId) -> Option<u8> {
        *self.view().routes.numbers.get(bus.0)?
    }

    /// The segment number.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// What the host bridge forwards.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Tells `observer` of every BAR that is mapped now, and of each change from now on.
    pub fn observe(&self, observer: Arc<dyn FabricObserver>) {
        self.settling.welcome(observer);
        self.settle();
    }

    /// Connects the four interrupt lines. `numbers` is what [`assign`](Self::assign) puts into
    /// Interrupt Line for each: the input of the interrupt controller that the line leads to.
    pub fn connect_intx(&self, sink: Arc<dyn IntxSink>, numbers: [u8; 4]) {
        self.intx.connect(sink, numbers);
    }

    fn wire(&self, topology: &Topology, index: usize) {
        let config = topology.nodes[index].function.config();
        let pin = config.read_u8(INTERRUPT_PIN);
        if pin != 0 {
            let line = line_of(topology, index, pin);
            config.interrupts().pin.connect(&self.intx, line);
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

fn check_place(
    topology: &Topology,
    bus: BusId,
    devfn: DevFn,
    function: &dyn PciFunction,
) -> Result<(), AddError> {
    let place = topology.buses.get(bus.0).ok_or(AddError::NoBus { bus })?;
    if place.functions.contains_key(&devfn.raw()) {
        return Err(AddError::Taken { bus, devfn });
    }
    let config = function.config();
    if config.port_kind() == Some(PortKind::RootPort) && bus != BusId::ROOT {
        return Err(AddError::RootPortBelowRoot);
    }
    if config.bridge().is_some() && topology.buses.len() >= 256 {
        return Err(AddError::TooManyBuses);
    }
    let upstream = place
        .bridge
        .and_then(|bridge| topology.nodes[bridge].function.config().port_kind());
    if matches!(
        upstream,
        Some(PortKind::RootPort | PortKind::DownstreamPort)
    ) && devfn.device() != 0
    {
        return Err(AddError::NotOnLink { devfn });
    }
    Ok(())
}

/// On the root bus there is no link: the endpoint is part of the root complex.
fn integrate(function: &dyn PciFunction) {
    let config = function.config();
    if config.port_kind() == Some(PortKind::Endpoint)
        && let Some(pcie) = config.pcie_capability()
    {
        config.place(pcie + 2, 0xf0, (PortKind::IntegratedEndpoint as u8) << 4);
        // Link capabilities and status do not exist without a link.
        config.place(pcie + 0x0c, 0xff, 0);
        config.place(pcie + 0x12, 0xff, 0);
    }
}

fn mark_multifunction(topology: &Topology, index: usize) {
    let mut siblings = topology.siblings(index).peekable();
    if siblings.peek().is_some() {
        for function in siblings.chain([index]) {
            let config = topology.nodes[function].function.config();
            config.place(HEADER_TYPE, 0x80, 0x80);
        }
    }
}
