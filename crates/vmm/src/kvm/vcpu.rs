//! One processor: its state before it starts, and the loop that runs it.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, Msrs, kvm_msr_entry, kvm_regs,
    kvm_run, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{ExitCounters, ExitKind, KvmError, Vm};

/// What a processor's exits reach.
pub trait ExitHandler: Send + Sync {
    /// Reads a port; `data` is 1, 2 or 4 bytes.
    fn read_port(&self, port: u16, data: &mut [u8]);
    /// Writes a port; `data` is 1, 2 or 4 bytes.
    fn write_port(&self, port: u16, data: &[u8]);
    /// Reads at an address without memory; `data` is 1 to 8 bytes.
    fn read_memory(&self, address: u64, data: &mut [u8]);
    /// Writes at an address without memory; `data` is 1 to 8 bytes.
    fn write_memory(&self, address: u64, data: &[u8]);
    /// A processor ended the interrupt with this vector, which a reserved route names.
    fn end_of_interrupt(&self, vector: u8);
    /// Whether processors are to leave the guest for good.
    fn is_stopping(&self) -> bool;
}

/// Why a processor stopped running.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Leave {
    /// It was told to ([`ExitHandler::is_stopping`]).
    Stopped,
    /// The processor shut down: a fault within the handling of a double fault.
    TripleFault,
    /// The guest asked KVM for a reset.
    Reset,
    /// The guest asked KVM to power off.
    PowerOff,
    /// KVM cannot go on.
    Crashed(Box<Crash>),
}

/// A processor that KVM cannot run on.
#[derive(Clone, Debug, PartialEq)]
pub struct Crash {
    /// The processor's number.
    pub cpu: u16,
    /// What KVM said.
    pub cause: String,
    /// The general registers, if they could be read.
    pub regs: Option<kvm_regs>,
    /// CR0, CR3, CR4 and EFER, if they could be read.
    pub control: Option<[u64; 4]>,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}: {}", self.cpu, self.cause)?;
        if let Some(regs) = &self.regs {
            write!(
                f,
                "; rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} \
                 rsi={:#x} rdi={:#x}",
                regs.rip,
                regs.rsp,
                regs.rflags,
                regs.rax,
                regs.rbx,
                regs.rcx,
                regs.rdx,
                regs.rsi,
                regs.rdi
            )?;
        }
        if let Some([cr0, cr3, cr4, efer]) = self.control {
            write!(f, " cr0={cr0:#x} cr3={cr3:#x} cr4={cr4:#x} efer={efer:#x}")?;
        }
        Ok(())
    }
}

/// One processor. All but the first wait, once run, until another starts them (INIT and SIPI).
pub struct Vcpu {
    fd: VcpuFd,
    index: u16,
    counters: Arc<ExitCounters>,
    /// Keeps the guest's memory mapped while the processor may run.
    _vm: Arc<Vm>,
}

impl Vcpu {
    /// Processor `index` of `vm`, with APIC ID `index`.
    ///
    /// # Errors
    /// KVM refuses it.
    pub fn new(vm: &Arc<Vm>, index: u16, cpuid: &CpuId) -> Result<Self, KvmError> {
        let fd = vm
            .fd()
            .create_vcpu(index.into())
            .map_err(KvmError::call("create a CPU"))?;
        fd.set_cpuid2(cpuid)
            .map_err(KvmError::call("set a CPU's CPUID"))?;
        Ok(Self {
            fd,
            index,
            counters: Arc::default(),
            _vm: Arc::clone(vm),
        })
    }

    /// The processor's number and APIC ID.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The counts of its exits.
    pub fn counters(&self) -> &Arc<ExitCounters> {
        &self.counters
    }

    /// Sets model-specific registers, given as (index, value). Those that KVM does not know are
    /// skipped.
    ///
    /// # Errors
    /// KVM refuses the call itself.
    pub fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        for &(index, data) in values {
            let entry = kvm_msr_entry {
                index,
                data,
                ..Default::default()
            };
            let msrs = Msrs::from_entries(&[entry]).map_err(|error| KvmError::Host {
                action: "describe a model-specific register",
                source: std::io::Error::other(format!("{error:?}")),
            })?;
            let set = self
                .fd
                .set_msrs(&msrs)
                .map_err(KvmError::call("set a CPU's model-specific registers"))?;
            if set == 0 {
                log::debug!("KVM does not set MSR {index:#x}");
            }
        }
        Ok(())
    }

    /// The system registers, as after a reset if the processor has not run.
    ///
    /// # Errors
    /// KVM refuses to say.
    pub fn system_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd
            .get_sregs()
            .map_err(KvmError::call("read a CPU's system registers"))
    }

    /// Sets where and in which mode the processor starts.
    ///
    /// # Errors
    /// KVM refuses the values.
    pub fn set_registers(&self, regs: &kvm_regs, sregs: &kvm_sregs) -> Result<(), KvmError> {
        self.fd
            .set_sregs(sregs)
            .map_err(KvmError::call("set a CPU's system registers"))?;
        self.fd
            .set_regs(regs)
            .map_err(KvmError::call("set a CPU's registers"))
    }

    /// Runs the processor until it stops for good.
    pub fn run(&mut self, handler: &dyn ExitHandler) -> Leave {
        let shared = NonNull::from(self.fd.get_kvm_run());
        while !handler.is_stopping() {
            if let Some(leave) = self.step(handler, shared) {
                return leave;
            }
        }
        Leave::Stopped
    }

    fn step(&mut self, handler: &dyn ExitHandler, shared: NonNull<kvm_run>) -> Option<Leave> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => return self.interrupted(error),
        };
        let counters = &self.counters;
        match exit {
            VcpuExit::IoOut(port, data) => {
                counters.count(ExitKind::PortWrite);
                let size = port_access_size(shared);
                data.chunks(size)
                    .for_each(|item| handler.write_port(port, item));
                None
            }
            VcpuExit::IoIn(port, data) => {
                counters.count(ExitKind::PortRead);
                let size = port_access_size(shared);
                data.chunks_mut(size)
                    .for_each(|item| handler.read_port(port, item));
                None
            }
            VcpuExit::MmioRead(address, data) => {
                counters.count(ExitKind::MmioRead);
                handler.read_memory(address, data);
                None
            }
            VcpuExit::MmioWrite(address, data) => {
                counters.count(ExitKind::MmioWrite);
                handler.write_memory(address, data);
                None
            }
            VcpuExit::IoapicEoi(vector) => {
                counters.count(ExitKind::EndOfInterrupt);
                handler.end_of_interrupt(vector);
                None
            }
            VcpuExit::Intr => {
                counters.count(ExitKind::Signal);
                None
            }
            other => {
                counters.count(ExitKind::Other);
                match other {
                    VcpuExit::Shutdown => Some(Leave::TripleFault),
                    VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(Leave::PowerOff),
                    VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Some(Leave::Reset),
                    VcpuExit::FailEntry(reason, _) => Some(self.crash(format!(
                        "the processor refused to enter the guest, hardware reason {reason:#x}"
                    ))),
                    VcpuExit::InternalError => {
                        let cause = internal_error(shared);
                        Some(self.crash(cause))
                    }
                    other => {
                        let cause = format!("KVM gave up with {other:?}");
                        Some(self.crash(cause))
                    }
                }
            }
        }
    }

    fn interrupted(&self, error: kvm_ioctls::Error) -> Option<Leave> {
        match error.errno() {
            libc::EINTR | libc::EAGAIN => {
                self.counters.count(ExitKind::Signal);
                None
            }
            _ => Some(self.crash(format!("KVM_RUN failed: {error}"))),
        }
    }

    fn crash(&self, cause: String) -> Leave {
        let control = self.fd.get_sregs().ok();
        Leave::Crashed(Box::new(Crash {
            cpu: self.index,
            cause,
            regs: self.fd.get_regs().ok(),
            control: control.map(|sregs| [sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer]),
        }))
    }
}

/// The size of one access of a string instruction, which hands over several at once.
fn port_access_size(shared: NonNull<kvm_run>) -> usize {
    // SAFETY: the page is mapped while the processor lives; it last left with KVM_EXIT_IO, so
    // this member of the union is the valid one. Nothing refers to it; the data that the exit
    // refers to lies elsewhere in the mapping.
    let size = unsafe { (*shared.as_ptr()).__bindgen_anon_1.io.size };
    usize::from(size).max(1)
}

fn internal_error(shared: NonNull<kvm_run>) -> String {
    // SAFETY: as in `port_access_size`, with KVM_EXIT_INTERNAL_ERROR.
    let internal = unsafe { (*shared.as_ptr()).__bindgen_anon_1.internal };
    let what = match internal.suberror {
        1 => "an instruction that its emulator does not know",
        2 => "an exception during the delivery of another",
        3 => "an event during the delivery of an exception",
        4 => "an unexpected exit of the processor",
        _ => "an internal error",
    };
    let count = (internal.ndata as usize).min(internal.data.len());
    let data = internal.data.get(..count).unwrap_or_default();
    format!(
        "KVM met {what} (suberror {}, data {data:x?})",
        internal.suberror
    )
}
