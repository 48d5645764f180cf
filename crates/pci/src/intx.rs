//! INTx: the four wired lines of a segment (PCIe Base 5.0, section 2.2.8.1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::topology::Topology;

/// Where the segment's four interrupt lines lead.
pub trait IntxSink: Send + Sync {
    /// A line, 0 for INTA to 3 for INTD as seen at the host bridge, changes its level. Any number
    /// of functions share a line; it is asserted while one of them asserts it. Called in order.
    fn set(&self, line: u8, asserted: bool);
}

/// The segment's lines: how many functions assert each.
#[derive(Default)]
pub(crate) struct IntxLines(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    asserted: [usize; 4],
    sink: Option<Arc<dyn IntxSink>>,
    /// What software is to read in Interrupt Line, by line.
    numbers: Option<[u8; 4]>,
}

impl IntxLines {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connect(&self, sink: Arc<dyn IntxSink>, numbers: [u8; 4]) {
        let mut lines = self.lines();
        for (line, count) in lines.asserted.iter().enumerate() {
            if *count > 0 {
                sink.set(line as u8, true);
            }
        }
        lines.sink = Some(sink);
        lines.numbers = Some(numbers);
    }

    /// The Interrupt Line value for a line; 0xff is "no connection".
    pub(crate) fn number(&self, line: u8) -> u8 {
        let numbers = self.lines().numbers;
        numbers.map_or(0xff, |numbers| numbers[usize::from(line & 3)])
    }

    fn drive(&self, line: u8, asserted: bool) {
        let mut lines = self.lines();
        let count = &mut lines.asserted[usize::from(line & 3)];
        let before = *count > 0;
        *count = if asserted {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        let after = *count > 0;
        if before != after
            && let Some(sink) = &lines.sink
        {
            sink.set(line & 3, after);
        }
    }
}

/// One function's pin.
#[derive(Default)]
pub(crate) struct IntxPin(Mutex<Pin>);

#[derive(Default)]
struct Pin {
    /// The device asks for service.
    asserted: bool,
    /// Neither Interrupt Disable nor MSI nor MSI-X stands against it.
    enabled: bool,
    /// What the line was last told.
    driven: bool,
    line: Option<(Arc<IntxLines>, u8)>,
}

impl Pin {
    fn apply(&mut self) {
        let target = self.asserted && self.enabled;
        if target != self.driven
            && let Some((lines, line)) = &self.line
        {
            self.driven = target;
            lines.drive(*line, target);
        }
    }
}

impl IntxPin {
    fn pin(&self) -> MutexGuard<'_, Pin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connect(&self, lines: &Arc<IntxLines>, line: u8) {
        let mut pin = self.pin();
        pin.line = Some((Arc::clone(lines), line));
        pin.apply();
    }

    pub(crate) fn assert(&self, asserted: bool) {
        let mut pin = self.pin();
        pin.asserted = asserted;
        pin.apply();
    }

    pub(crate) fn enable(&self, enabled: bool) {
        let mut pin = self.pin();
        pin.enabled = enabled;
        pin.apply();
    }

    pub(crate) fn is_asserted(&self) -> bool {
        self.pin().asserted
    }
}

/// The line at the host bridge that a function's pin (1 to 4) leads to: each bridge on the way
/// rotates by the device number.
pub(crate) fn line_of(topology: &Topology, node: usize, pin: u8) -> u8 {
    let devices = [node].into_iter().chain(topology.bridges_above(node));
    let turn: u32 = devices
        .map(|node| u32::from(topology.nodes[node].devfn.device()))
        .sum();
    ((turn + u32::from(pin) + 3) % 4) as u8
}
