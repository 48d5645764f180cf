//! Running the machine to its end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::processors::Exits;
use super::{Ending, Machine, MachineError};
use crate::io::{ConsoleInput, InputThread, RawMode};
use crate::kvm::{ExitCounters, KickSignal, KvmError, Leave, Vcpu};
use crate::report::Report;

/// How a run ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Why the machine stopped.
    pub ending: Ending,
    /// An account of the run.
    pub report: Report,
}

impl Machine {
    /// Runs the machine until it stops. All threads have ended when this returns.
    ///
    /// # Errors
    /// The host has no threads or descriptors left.
    pub fn run(mut self) -> Result<Outcome, MachineError> {
        let vcpus = std::mem::take(&mut self.vcpus);
        let counters: Vec<Arc<ExitCounters>> = vcpus
            .iter()
            .map(|vcpu| Arc::clone(vcpu.counters()))
            .collect();
        let raw_mode = match self.input {
            ConsoleInput::Stdin => RawMode::stdin(),
            ConsoleInput::None => None,
        };
        let input = match self.input {
            ConsoleInput::Stdin => Some(InputThread::start(
                Arc::clone(&self.serial),
                self.stop.clone(),
                raw_mode.is_some(),
            )?),
            ConsoleInput::None => None,
        };
        self.times.running();
        let mut threads = Vec::with_capacity(vcpus.len());
        let mut failure = None;
        for vcpu in vcpus {
            match self.start(vcpu) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    failure = Some(error);
                    self.stop.stop(Ending::Interrupted);
                    break;
                }
            }
        }
        let ending = self.stop.wait();
        join(threads, self.kick);
        drop(input);
        drop(raw_mode);
        if let Some(error) = failure {
            return Err(error.into());
        }
        let report = Report::new(&self, &ending, counters.iter().map(AsRef::as_ref));
        Ok(Outcome { ending, report })
    }

    fn start(&self, mut vcpu: Vcpu) -> Result<JoinHandle<()>, KvmError> {
        let exits = Exits {
            bus: Arc::clone(&self.bus),
            ioapic: Arc::clone(&self.ioapic),
            stop: self.stop.clone(),
        };
        Builder::new()
            .name(format!("vcpu{}", vcpu.index()))
            .spawn(move || {
                let ending = match vcpu.run(&exits) {
                    Leave::Stopped => return,
                    Leave::TripleFault => Ending::TripleFault,
                    Leave::Reset => Ending::Reset,
                    Leave::PowerOff => Ending::PowerOff,
                    Leave::Crashed(crash) => Ending::Crashed(crash),
                };
                exits.stop.stop(ending);
            })
            .map_err(KvmError::host("start a CPU's thread"))
    }
}

/// Takes all threads out of the guest until each has noticed that the machine stops.
fn join(threads: Vec<JoinHandle<()>>, kick: KickSignal) {
    for thread in threads {
        while !thread.is_finished() {
            kick.kick(&thread);
            std::thread::sleep(Duration::from_micros(200));
        }
        if thread.join().is_err() {
            log::error!("a CPU's thread panicked");
        }
    }
}
