//! A guest that programs the unit itself, told step by step.
//!
//! The guest's program comes with this binary: a list of operations that the driver of
//! `vm-iommu-driver` wrote when it believed to talk to a unit. It sets the unit up, has a device
//! move data through a 4-level table, takes a remapped interrupt, has a request refused and reads
//! the record of that.

mod edu;
mod engine;
mod facts;
mod failure;
mod function;
mod recorder;
mod story;
mod telling;
#[cfg(test)]
mod tests;

pub use failure::{DemoError, Failure};
pub use story::StoryError;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use self::engine::{Image, State, Width};
use self::facts::Facts;
use self::story::{MEMORY, Step, Story};
use self::telling::Telling;
use crate::config::{DeviceConfig, EduConfig, IommuConfig, MachineConfig, MemorySize};
use crate::io::Console;
use crate::kvm::KvmError;
use crate::machine::{Ending, Machine, StopSwitch};

/// How the demo is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// The unit.
    pub iommu: IommuConfig,
    /// One JSON object instead of lines for a person.
    pub json: bool,
    /// How long the guest may take.
    pub limit: Duration,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            iommu: IommuConfig::default(),
            json: false,
            limit: Duration::from_secs(20),
        }
    }
}

/// How often the guest's progress is looked at.
const GLANCE: Duration = Duration::from_millis(1);

/// Runs the demo and tells it to `output`; `Some` if the guest did not come to the end.
///
/// # Errors
/// [`DemoError`] if it cannot be run here.
pub fn run(options: DemoOptions, output: &mut dyn Write) -> Result<Option<Failure>, DemoError> {
    let start = Instant::now();
    let config = machine_config(options.iommu)?;
    let machine = Machine::new(config, Console::writer(std::io::sink()))?;
    let unit = machine.unit().cloned().ok_or(StoryError::NoUnit)?;
    let story = Story::new(&options.iommu, &|address, width| {
        look(&machine, address, width)
    })?;
    let ram = machine.vm().ram().clone();
    let image = Image::load(&ram, story.placement, story.program.iter().copied())?;
    let cpu = machine.boot_cpu().ok_or(DemoError::Missing("processor"))?;
    let mut system = cpu.system_registers()?;
    story.placement.set_system_registers(&mut system);
    cpu.set_registers(&story.placement.registers(), &system)?;

    let mut telling = Telling::new(output, options.json);
    telling.begin(unit.name())?;
    let stop = machine.stop_switch().clone();
    let runner = thread::Builder::new()
        .name("machine".to_owned())
        .spawn(move || machine.run())
        .map_err(KvmError::host("start the machine's thread"))?;
    let mut remaining = Step::ALL.into_iter().peekable();
    let deadline = start + options.limit;
    loop {
        let ended = runner.is_finished();
        let state = image.state()?;
        while let Some(step) = remaining.next_if(|step| story.is_past(*step, state)) {
            telling.tell(step.name(), &Facts::gather(step, &story, &image)?)?;
        }
        if ended {
            break;
        }
        stop_if_late(&stop, deadline);
        thread::sleep(GLANCE);
    }
    let outcome = runner.join().map_err(|_| DemoError::Panicked)??;
    let state = image.state()?;
    let failure = if state == State::Finished && remaining.peek().is_none() {
        telling.tell("walk", &Facts::of_walk(&unit, &story))?;
        None
    } else {
        Some(Failure::new(&story, state, &outcome.ending, options.limit))
    };
    telling.end(failure.as_ref(), start.elapsed())?;
    Ok(failure)
}

fn machine_config(iommu: IommuConfig) -> Result<MachineConfig, DemoError> {
    Ok(MachineConfig {
        memory: MemorySize::from_bytes(MEMORY).map_err(crate::machine::MachineError::from)?,
        iommu,
        devices: vec![DeviceConfig::Edu(EduConfig {
            iommu: true,
            dma_mask: (1 << 48) - 1,
            port: 0,
        })],
        ..MachineConfig::default()
    })
}

/// What the guest will find at `address`.
fn look(machine: &Machine, address: u64, width: Width) -> u64 {
    let mut data = [0; 8];
    let size = width as usize;
    machine.bus().read_memory(address, &mut data[..size]);
    u64::from_le_bytes(data)
}

fn stop_if_late(stop: &StopSwitch, deadline: Instant) {
    if Instant::now() > deadline {
        stop.stop(Ending::Interrupted);
    }
}
