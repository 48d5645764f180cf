//! The table of `cargo xtask bench guest`, and what must be true of it.

use super::Way;
use crate::hypervisor::Vmm;
use crate::ui::table;
use serde::Serialize;
use serde_json::{Value, json};

/// What one boot measured.
#[derive(Debug)]
pub struct Reading {
    pub way: Way,
    pub vmm: Vmm,
    /// Reads a second, by window.
    pub rates: Vec<f64>,
    /// How often our VMM's processors left the guest, and its threads' processor time, of the
    /// whole boot; null for QEMU.
    pub exits: Value,
    pub threads_ms: Value,
}

/// The least that ours may be, as a part of something else in the same run.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    found: f64,
    least: f64,
}

impl Target {
    fn met(&self) -> bool {
        self.found >= self.least
    }
}

/// The fastest window of each way and VMM, and the targets that can be judged from them.
#[derive(Debug)]
pub struct Table {
    rows: Vec<(Way, Option<f64>, Option<f64>)>,
    targets: Vec<Target>,
}

impl Table {
    pub fn new(readings: &[Reading]) -> Self {
        let best = |way, vmm| {
            readings
                .iter()
                .filter(|reading| reading.way == way && reading.vmm == vmm)
                .flat_map(|reading| reading.rates.iter().copied())
                .reduce(f64::max)
        };
        let rows: Vec<_> = Way::ALL
            .into_iter()
            .map(|way| (way, best(way, Vmm::VmIommu), best(way, Vmm::Qemu)))
            .filter(|(_, ours, theirs)| ours.or(*theirs).is_some())
            .collect();
        let ours = |way| best(way, Vmm::VmIommu);
        let mut targets = Vec::new();
        let mut part = |what: &str, of: Option<f64>, whole: Option<f64>, least| {
            if let (Some(of), Some(whole)) = (of, whole) {
                targets.push(Target {
                    what: what.to_owned(),
                    found: of / whole,
                    least,
                });
            }
        };
        part("lazy of none", ours(Way::Lazy), ours(Way::None), 0.9);
        part("strict of floor", ours(Way::Strict), ours(Way::Floor), 0.9);
        for (way, ours, theirs) in &rows {
            part(&format!("{} of QEMU's", way.label()), *ours, *theirs, 1.0);
        }
        Self { rows, targets }
    }

    /// Whether all targets are met; one that could not be judged is not held against it.
    pub fn met(&self) -> bool {
        self.targets.iter().all(Target::met)
    }

    pub fn document(&self, kernel: &str, qemu: &str, readings: &[Reading]) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(way, ours, theirs)| {
                json!({ "way": way.label(), "vm_iommu": ours, "qemu": theirs })
            })
            .collect();
        let windows: Vec<Value> = readings
            .iter()
            .map(|reading| {
                json!({
                    "way": reading.way.label(),
                    "vmm": reading.vmm.label(),
                    "reads_per_second": reading.rates,
                    "exits": reading.exits,
                    "threads_ms": reading.threads_ms,
                })
            })
            .collect();
        json!({
            "kernel": kernel,
            "qemu": qemu,
            "reads_per_second": rows,
            "targets": self.targets,
            "targets_met": self.met(),
            "windows": windows,
        })
    }

    pub fn print(&self) {
        let ratio = |of: Option<f64>, whole: Option<f64>| match (of, whole) {
            (Some(of), Some(whole)) => format!("{:.2}", of / whole),
            _ => String::new(),
        };
        let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
        let none = self.rows.iter().find(|(way, ..)| *way == Way::None);
        let (_, our_none, their_none) = none.copied().unwrap_or((Way::None, None, None));
        let head = [
            "reads a second",
            "vm-iommu",
            "of its none",
            "qemu",
            "of its none",
            "vm-iommu of qemu",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for &(way, ours, theirs) in &self.rows {
            lines.push(vec![
                way.label().to_owned(),
                rate(ours),
                ratio(ours, our_none),
                rate(theirs),
                ratio(theirs, their_none),
                ratio(ours, theirs),
            ]);
        }
        println!("\n{}", table(&lines));
        let head = ["target", "found", "at least", ""];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for target in &self.targets {
            lines.push(vec![
                target.what.clone(),
                format!("{:.2}", target.found),
                format!("{:.2}", target.least),
                if target.met() { "met" } else { "MISSED" }.to_owned(),
            ]);
        }
        println!("{}", table(&lines));
        println!(
            "the fastest window of each; floor is our unit with drain=off, which enforces nothing"
        );
    }
}

#[cfg(test)]
mod tests;
