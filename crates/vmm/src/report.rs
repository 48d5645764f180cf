//! The account of a run, for `--report`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use vm_iommu_pci::FabricState;

use crate::interrupt::InterruptCounters;
use crate::io::BusCounters;
use crate::kvm::ExitCounters;
use crate::machine::{Ending, Machine, Unit, UnitInspection};

/// The account of a run. It serializes to JSON; durations are in milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Why the machine stopped, in a word.
    pub ending: &'static str,
    /// The same in a sentence.
    pub reason: String,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// When things happened, in milliseconds since the machine was begun.
    times_ms: crate::machine::Milliseconds,
    /// How often processors left the guest for this process, by kind.
    pub exits: BTreeMap<&'static str, u64>,
    /// How much processor time each thread took, in milliseconds by its name. A CPU's includes the
    /// guest's.
    pub threads_ms: BTreeMap<String, f64>,
    /// Interrupts.
    pub interrupts: InterruptCounters,
    /// Accesses that no device answered.
    pub bus: BusCounters,
    /// The isolation groups of the functions that the unit serves.
    pub groups: Vec<Vec<String>>,
    /// The PCI segment as it stood at the end.
    pub fabric: FabricState,
    /// The remapping unit of the root bus as it stood at the end, under the name of its kind.
    #[serde(flatten)]
    pub unit: Option<UnitInspection>,
    /// Those of root ports, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further_units: Vec<UnitInspection>,
}

impl Report {
    pub(crate) fn new<'a>(
        machine: &Machine,
        ending: &Ending,
        exits: impl IntoIterator<Item = &'a ExitCounters>,
        threads_ms: BTreeMap<String, f64>,
    ) -> Self {
        Self {
            ending: ending.name(),
            reason: ending.to_string(),
            exit_code: ending.exit_code(),
            times_ms: machine.milliseconds(),
            exits: ExitCounters::total(exits),
            threads_ms,
            interrupts: machine.router().counters(),
            bus: machine.bus().counters(),
            groups: machine.isolation_groups(),
            fabric: machine.fabric().inspect(),
            unit: machine.unit().map(Unit::inspect),
            further_units: machine.units().iter().skip(1).map(Unit::inspect).collect(),
        }
    }

    /// Writes the account as JSON to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.flush()
    }
}
