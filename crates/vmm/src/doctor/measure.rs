//! The measurement: instructions a second in ring 0 of a guest in long mode, which is where a
//! kernel spends its start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use serde::Serialize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::boot::{self, BootError, Entry, Protocol};
use crate::kvm::{KickSignal, KvmError, Vm};
use crate::layout;

/// How KVM runs a guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvmKind {
    /// The processor runs it: a stock kernel boots in seconds.
    Hardware,
    /// KVM interprets it, instruction by instruction: payloads run, stock kernels do not.
    Interpreted,
}

impl fmt::Display for KvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::Interpreted => "interpreted",
        })
    }
}

/// A loop that was run, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// Instructions that the guest executed.
    pub instructions: u64,
    /// The time that they took.
    pub elapsed: Duration,
}

impl Measurement {
    /// Below this many instructions a second, KVM interprets. Interpreters reach a few million;
    /// processors, even emulated ones, some hundred million and up.
    pub const INTERPRETED_BELOW: u64 = 50_000_000;

    /// Instructions a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let rate = self.instructions as f64 / self.elapsed.as_secs_f64().max(1e-9);
        rate as u64
    }

    /// What the rate tells about KVM.
    #[must_use]
    pub fn kind(&self) -> KvmKind {
        if self.per_second() < Self::INTERPRETED_BELOW {
            KvmKind::Interpreted
        } else {
            KvmKind::Hardware
        }
    }
}

/// Why KVM could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// KVM is missing, forbidden, or refused a call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest's tables could not be written.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The guest left the loop in another way than by its end.
    #[error("KVM does not run a loop of three instructions ({exit}); try another host")]
    Unexpected {
        /// The exit, in KVM's words.
        exit: String,
    },
    /// The guest did not come back.
    #[error("KVM did not finish a short loop within {} s; try another host", limit.as_secs())]
    Stuck {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The measuring thread ended without a result.
    #[error("the measurement broke off")]
    BrokenOff,
}

/// Memory of the measured guest: enough for the boot CPU's tables and the loop.
const MEMORY: usize = 0x2_0000;
/// Where the loop is.
const CODE: GuestAddress = GuestAddress(0x1_0000);
/// `1: dec rcx; jnz 1b; out EXIT_DEVICE, al`
const LOOP: [u8; 7] = [
    0x48,
    0xff,
    0xc9,
    0x75,
    0xfb,
    0xe6,
    layout::EXIT_DEVICE as u8,
];
/// Instructions of one round of the loop.
const INSTRUCTIONS: u64 = 2;
/// Runs that do not count: they bring the guest's pages in and fill the caches on the way.
const WARM_UP: usize = 3;
/// Rounds of the first run that counts; each following one has four times as many.
const FIRST_ROUNDS: u64 = 1000;
/// A fast run of this length is proof of a processor: an exit's cost no longer matters.
const ENOUGH: Duration = Duration::from_millis(10);
/// Runs of this length together, none of them fast, are proof of an interpreter; one of them may
/// have been slow because the host was busy.
const PATIENCE: Duration = Duration::from_millis(300);
/// All runs together take less than this on anything that works.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs a counted loop in a guest, for less than a second, and says how fast it was.
///
/// # Errors
///
/// KVM is missing or forbidden, or it cannot run the loop. The call ends within seconds even if
/// the guest does not.
pub fn measure() -> Result<Measurement, MeasureError> {
    let signal = KickSignal::install()?;
    let guest = Guest::new(&Vm::open()?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let worker = thread::Builder::new()
        .name("measure".to_owned())
        .spawn(move || guest.measure(&told))
        .map_err(KvmError::host("start a thread"))?;
    let deadline = Instant::now() + LIMIT;
    while !worker.is_finished() {
        if Instant::now() >= deadline {
            stop.store(true, Ordering::Relaxed);
            signal.kick(&worker);
        }
        thread::sleep(Duration::from_millis(1));
    }
    worker.join().unwrap_or(Err(MeasureError::BrokenOff))
}

/// A machine with one CPU and nothing else.
struct Guest {
    vcpu: VcpuFd,
    // Declared after the CPU and before the memory, for the order in which they are dropped.
    _vm: VmFd,
    _memory: GuestMemoryMmap,
}

impl Guest {
    fn new(kvm: &Kvm) -> Result<Self, MeasureError> {
        let no_memory = |source| KvmError::Memory {
            bytes: MEMORY as u64,
            source,
        };
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).map_err(no_memory)?;
        memory
            .write_slice(&LOOP, CODE)
            .map_err(|source| BootError::NoMemory {
                what: "the measured loop",
                address: CODE,
                source,
            })?;
        let entry = Entry {
            protocol: Protocol::Linux64,
            start: CODE,
            info: GuestAddress(0),
        };
        let state = boot::initial_state(&memory, &entry)?;
        let vm = kvm
            .create_vm()
            .map_err(KvmError::call("create a virtual machine"))?;
        map(&vm, &memory)?;
        let vcpu = vm.create_vcpu(0).map_err(KvmError::call("create a CPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("tell the CPUID it supports"))?;
        vcpu.set_cpuid2(&cpuid)
            .map_err(KvmError::call("set a CPU's CPUID"))?;
        let reset = vcpu
            .get_sregs()
            .map_err(KvmError::call("read a CPU's special registers"))?;
        vcpu.set_sregs(&state.sregs(reset))
            .map_err(KvmError::call("set a CPU's special registers"))?;
        vcpu.set_regs(&state.regs())
            .map_err(KvmError::call("set a CPU's registers"))?;
        Ok(Self {
            vcpu,
            _vm: vm,
            _memory: memory,
        })
    }

    /// Runs longer and longer loops until they tell, and gives the fastest.
    fn measure(mut self, stop: &AtomicBool) -> Result<Measurement, MeasureError> {
        for _ in 0..WARM_UP {
            self.run(1, stop)?;
        }
        let mut fastest: Option<Measurement> = None;
        let mut total = Duration::ZERO;
        let mut rounds = FIRST_ROUNDS;
        loop {
            let measured = Measurement {
                instructions: rounds.saturating_mul(INSTRUCTIONS),
                elapsed: self.run(rounds, stop)?,
            };
            total += measured.elapsed;
            let best = match fastest {
                Some(best) if best.per_second() > measured.per_second() => best,
                _ => measured,
            };
            let proof = measured.elapsed >= ENOUGH && measured.kind() == KvmKind::Hardware;
            if proof || total >= PATIENCE {
                return Ok(best);
            }
            fastest = Some(best);
            rounds = rounds.saturating_mul(4);
        }
    }

    /// Runs the loop once, from its start.
    fn run(&mut self, rounds: u64, stop: &AtomicBool) -> Result<Duration, MeasureError> {
        let mut regs = self
            .vcpu
            .get_regs()
            .map_err(KvmError::call("read a CPU's registers"))?;
        regs.rip = CODE.0;
        regs.rcx = rounds;
        self.vcpu
            .set_regs(&regs)
            .map_err(KvmError::call("set a CPU's registers"))?;
        let start = Instant::now();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(MeasureError::Stuck { limit: LIMIT });
            }
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(layout::EXIT_DEVICE, _)) => return Ok(start.elapsed()),
                Ok(exit) => {
                    return Err(MeasureError::Unexpected {
                        exit: format!("{exit:?}"),
                    });
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Err(KvmError::call("run a CPU")(error).into()),
            }
        }
    }
}

fn map(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), MeasureError> {
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| KvmError::Host {
            action: "find guest memory in this process",
            source: std::io::Error::other(error),
        })?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host as u64,
    };
    // SAFETY: the region is mapped as long as `memory` lives, which `Guest` drops after the
    // machine.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(KvmError::call("map guest memory"))
        .map_err(MeasureError::from)
}
