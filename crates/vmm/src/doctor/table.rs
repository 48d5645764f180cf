//! The findings as a table for a person.

use std::fmt;

use super::report::{Report, Verdict};

/// Width of the first column.
const NAME: usize = 28;
/// Width of the second column.
const ANSWER: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "KVM: {}", headline(self))?;
        if let Some(problem) = &self.problem {
            writeln!(f, "     {problem}")?;
        }
        writeln!(f)?;
        if let Some(rate) = self.instructions_per_second {
            row(f, "guest kernel speed", &speed(rate), "measured in ring 0")?;
        }
        if let Some(cpu) = &self.cpu {
            row(f, "guest CPU", &cpu.vendor, &cpu.model)?;
            row(f, "x2APIC for guests", yes(cpu.x2apic), "")?;
        }
        if let Some(version) = self.api_version {
            row(f, "KVM interface", &format!("version {version}"), "")?;
        }
        if let Some(cpus) = self.max_cpus {
            row(f, "most CPUs", &cpus.to_string(), "")?;
        }
        for capability in &self.capabilities {
            let answer = match (capability.present, capability.needed) {
                (true, _) => "yes",
                (false, true) => "NO",
                (false, false) => "no (optional)",
            };
            row(f, capability.name, answer, capability.purpose)?;
        }
        writeln!(f, "\nWhat runs where:")?;
        for workload in &self.workloads {
            let place = workload.place.to_string();
            row(f, workload.name, &place, workload.command)?;
        }
        Ok(())
    }
}

fn headline(report: &Report) -> &'static str {
    match report.kvm {
        Verdict::Hardware => "hardware: the processor runs guests, stock kernels included",
        Verdict::Interpreted => {
            "interpreted: instruction by instruction, good for payloads, too slow for stock kernels"
        }
        Verdict::Unusable => "unusable",
    }
}

fn speed(rate: u64) -> String {
    match rate {
        0..1_000_000 => format!("{} k/s", rate / 1_000),
        1_000_000..10_000_000 => format!("{:.1} M/s", rate as f64 / 1e6),
        _ => format!("{} M/s", rate / 1_000_000),
    }
}

fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, answer: &str, note: &str) -> fmt::Result {
    let line = format!("  {name:NAME$} {answer:ANSWER$} {note}");
    writeln!(f, "{}", line.trim_end())
}
