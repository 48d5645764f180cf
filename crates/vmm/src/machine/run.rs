//! Running the machine to its end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::processors::Exits;
use super::thread_times::{self, ThreadTimes};
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
        let mut thread_times = thread_times::of_all();
        thread_times.extend(join(threads, self.kick));
        drop(input);
        drop(raw_mode);
        if let Some(error) = failure {
            return Err(error.into());
        }
        let counters = counters.iter().map(AsRef::as_ref);
        let report = Report::new(&self, &ending, counters, thread_times);
        Ok(Outcome { ending, report })
    }

    /// A CPU's thread; it ends with the processor time that it took.
    fn start(&self, mut vcpu: Vcpu) -> Result<VcpuThread, KvmError> {
        let exits = Exits {
            bus: Arc::clone(&self.bus),
            ioapic: Arc::clone(&self.ioapic),
            stop: self.stop.clone(),
        };
        Builder::new()
            .name(format!("vcpu{}", vcpu.index()))
            .spawn(move || {
                let ending = match vcpu.run(&exits) {
                    Leave::Stopped => None,
                    Leave::TripleFault => Some(Ending::TripleFault),
                    Leave::Reset => Some(Ending::Reset),
                    Leave::PowerOff => Some(Ending::PowerOff),
                    Leave::Crashed(crash) => Some(Ending::Crashed(crash)),
                };
                if let Some(ending) = ending {
                    exits.stop.stop(ending);
                }
                thread_times::of_this()
            })
            .map_err(KvmError::host("start a CPU's thread"))
    }
}

type VcpuThread = JoinHandle<Option<(String, f64)>>;

/// Takes all threads out of the guest until each has noticed that the machine stops.
fn join(threads: Vec<VcpuThread>, kick: KickSignal) -> ThreadTimes {
    let mut times = ThreadTimes::new();
    for thread in threads {
        while !thread.is_finished() {
            kick.kick(&thread);
            std::thread::sleep(Duration::from_micros(200));
        }
        match thread.join() {
            Ok(time) => times.extend(time),
            Err(_) => log::error!("a CPU's thread panicked"),
        }
    }
    times
}
