//! What must be true of a guest that has run: its report is compared with what the machine is,
//! and its disk's image with what it should hold.

#[cfg(test)]
mod tests;
mod words;

use crate::disk;
use crate::hypervisor::Machine;
use crate::job::JobResult;
use crate::testbed;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use words::Words;

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What is asked.
    pub name: &'static str,
    /// Whether it is so.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

impl Check {
    fn new(name: &'static str, passed: bool, found: impl Into<String>) -> Self {
        Check {
            name,
            passed,
            found: found.into(),
        }
    }
}

/// The isolation groups that a VMM says its fabric has: each a set of `SSSS:BB:DD.F` names.
pub type Groups = Vec<BTreeSet<String>>;

/// Judges a finished run. `groups` are the fabric's own, if the VMM tells them.
pub fn judge(
    machine: &Machine,
    result: &JobResult,
    image: &Path,
    groups: Option<&Groups>,
) -> Vec<Check> {
    let mut checks = vec![boots(result), processors(machine, result)];
    if machine.has_iommu() {
        checks.push(translation(machine, result));
        checks.push(remapping(machine, result));
        if machine.has_x2apic() {
            checks.push(x2apic(result));
        }
        checks.push(isolation(result, groups));
        checks.push(disk_domain(machine, result));
    } else {
        checks.push(no_unit(result));
    }
    let queues = queue_numbers(result);
    checks.push(every_queue(machine, result, &queues));
    checks.push(hashes(
        "disk read, 64 KiB requests",
        "queue_read",
        result,
        &queues,
        disk::REGION,
    ));
    checks.push(hashes(
        "disk read, 512-byte requests",
        "queue_small",
        result,
        &queues,
        65536,
    ));
    checks.push(hashes(
        "disk written and read back",
        "queue_back",
        result,
        &queues,
        disk::REGION,
    ));
    checks.push(image_content(image, queues.len() as u64));
    checks.push(interrupts_remapped(machine, result));
    checks.push(quiet(result));
    if machine.edu {
        checks.push(edu_registers(result));
        if machine.has_iommu() {
            checks.push(edu_dma(machine, result));
        }
    }
    checks
}

fn boots(result: &JobResult) -> Check {
    let found = match result.time_of("userspace") {
        Some(at) => format!(
            "Linux {}: user space after {:.1} s, power-off after {:.1} s, {}",
            result.value("kernel").unwrap_or("?"),
            at / 1e3,
            result.wall_ms / 1e3,
            result.ending
        ),
        None => format!("no user space; the VMM: {}", result.ending),
    };
    Check::new("boots and powers off", testbed::powered_off(result), found)
}

fn processors(machine: &Machine, result: &JobResult) -> Check {
    let found = result.value("cpus").unwrap_or("none");
    let passed = found == machine.cpus.to_string();
    let found = format!("{found} of {}", machine.cpus);
    Check::new("processors online", passed, found)
}

fn dmesg_line<'a>(result: &'a JobResult, parts: &[&str]) -> Option<&'a str> {
    result
        .values("dmesg")
        .find(|line| parts.iter().all(|part| line.contains(part)))
        .map(without_timestamp)
}

fn without_timestamp(line: &str) -> &str {
    match line.split_once("] ") {
        Some((stamp, rest)) if stamp.starts_with('[') => rest,
        _ => line,
    }
}

fn translation(machine: &Machine, result: &JobResult) -> Check {
    let (line, unit) = Words::of(machine).translation(machine, result);
    Check::new("unit found, translation on", line.is_some(), unit)
}

fn remapping(machine: &Machine, result: &JobResult) -> Check {
    let line = dmesg_line(result, &[Words::of(machine).remapping]);
    if machine.remaps_interrupts() {
        let found = line.unwrap_or("the guest's log has no line that says so");
        Check::new("interrupt remapping on", line.is_some(), found)
    } else {
        let found = line.unwrap_or("as asked for");
        Check::new("interrupt remapping off", line.is_none(), found)
    }
}

/// Only AMD's driver says so in a line of its own; in Intel's it is part of the line above.
fn x2apic(result: &JobResult) -> Check {
    let line = dmesg_line(result, &[words::X2APIC]);
    let found = line.unwrap_or("the guest's log has no line that says so");
    Check::new("32-bit destinations", line.is_some(), found)
}

fn no_unit(result: &JobResult) -> Check {
    let line = words::any_driver(result);
    Check::new("no unit", line.is_none(), line.unwrap_or("as asked for"))
}

/// A PCI function as the guest sees it.
struct Function<'a> {
    name: &'a str,
    group: &'a str,
    kind: &'a str,
}

fn functions(result: &JobResult) -> Vec<Function<'_>> {
    result
        .values("pci")
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let class = words.clone().nth(2)?;
            if words::is_unit(class) {
                return None;
            }
            let find = |prefix: &str| words.clone().find_map(|word| word.strip_prefix(prefix));
            Some(Function {
                name,
                group: find("group=")?,
                kind: find("type=")?,
            })
        })
        .collect()
}

fn isolation(result: &JobResult, fabric: Option<&Groups>) -> Check {
    const NAME: &str = "IOMMU groups are the fabric's";
    let functions = functions(result);
    let mut guest: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for function in functions.iter().filter(|f| f.group != "none") {
        let members = guest.entry(function.group).or_default();
        members.insert(function.name.to_owned());
    }
    let summary = format!("{} functions in {} groups", functions.len(), guest.len());
    let alone = functions.iter().filter(|f| f.group == "none").count();
    if alone > 0 || functions.is_empty() {
        return Check::new(NAME, false, format!("{summary}, {alone} in none"));
    }
    let Some(fabric) = fabric else {
        let found = format!("{summary} (this VMM does not tell its own)");
        return Check::new(NAME, true, found);
    };
    let guest: BTreeSet<&BTreeSet<String>> = guest.values().collect();
    let fabric: BTreeSet<&BTreeSet<String>> = fabric.iter().collect();
    match guest.symmetric_difference(&fabric).next() {
        None => Check::new(NAME, true, summary),
        Some(group) => {
            let owner = if guest.contains(group) {
                "the guest"
            } else {
                "the fabric"
            };
            let members: Vec<&str> = group.iter().map(String::as_str).collect();
            let found = format!("only {owner} has the group {{{}}}", members.join(", "));
            Check::new(NAME, false, found)
        }
    }
}

fn disk_domain(machine: &Machine, result: &JobResult) -> Check {
    let device = result.value("disk_device").unwrap_or("none");
    // The disk's name is that of the virtio device's parent, the PCI function.
    let functions = functions(result);
    let disk = functions.iter().find(|function| function.name == device);
    let kind = disk.map_or("none", |function| function.kind);
    let wanted = words::domain_type(machine);
    let name = if machine.passes_through() {
        "the disk passes through"
    } else {
        "the disk's domain translates"
    };
    let mut found = format!(
        "{device}, group {}, type {kind}",
        disk.map_or("none", |f| f.group)
    );
    if kind != wanted {
        found.push_str(&format!(", not {wanted}"));
    }
    Check::new(name, kind == wanted, found)
}

fn queue_numbers(result: &JobResult) -> Vec<u64> {
    result
        .values("queue")
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

fn every_queue(machine: &Machine, result: &JobResult, queues: &[u64]) -> Check {
    let deltas = interrupt_deltas(result);
    let counts: Vec<u64> = queues
        .iter()
        .map(|queue| {
            let name = format!("-req.{queue}");
            let lines = deltas.iter().filter(|(text, _)| text.ends_with(&name));
            lines.map(|(_, count)| *count).sum()
        })
        .collect();
    let expected = machine.queues();
    let passed = queues.len() as u64 == expected && counts.iter().all(|count| *count > 0);
    let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
    Check::new(
        "every queue works and interrupts",
        passed,
        format!(
            "{} of {expected} queues, interrupts {}",
            queues.len(),
            counts.join(" ")
        ),
    )
}

/// How often each interrupt line came between the guest's two looks.
fn interrupt_deltas(result: &JobResult) -> Vec<(String, u64)> {
    let parse = |line: &str| -> Option<(String, u64, String)> {
        let mut words = line.splitn(3, ' ');
        let number = words.next()?.to_owned();
        let count = words.next()?.parse().ok()?;
        Some((number, count, words.next()?.to_owned()))
    };
    let before: BTreeMap<String, u64> = result
        .values("irq_before")
        .filter_map(parse)
        .map(|(number, count, _)| (number, count))
        .collect();
    result
        .values("irq_after")
        .filter_map(parse)
        .map(|(number, count, text)| {
            let delta = count.saturating_sub(before.get(&number).copied().unwrap_or(0));
            (text, delta)
        })
        .collect()
}

fn hashes(
    name: &'static str,
    key: &'static str,
    result: &JobResult,
    queues: &[u64],
    length: u64,
) -> Check {
    let reported: BTreeMap<u64, &str> = result
        .values(key)
        .filter_map(|line| {
            let (queue, hash) = line.split_once(' ')?;
            Some((queue.parse().ok()?, hash.trim()))
        })
        .collect();
    let wrong: Vec<String> = queues
        .iter()
        .filter(|queue| {
            let right = disk::hash(*queue * disk::REGION, length);
            reported.get(queue) != Some(&right.as_str())
        })
        .map(ToString::to_string)
        .collect();
    let passed = wrong.is_empty() && !queues.is_empty();
    let found = if queues.is_empty() {
        "no queue".to_owned()
    } else if passed {
        format!(
            "right on {} queue(s), {} KiB each",
            queues.len(),
            length >> 10
        )
    } else {
        format!("wrong on queue {}", wrong.join(", "))
    };
    Check::new(name, passed, found)
}

fn image_content(image: &Path, queues: u64) -> Check {
    const NAME: &str = "image on the host";
    if queues == 0 {
        return Check::new(NAME, false, "no queue wrote to it");
    }
    match disk::verify(image, queues) {
        Ok(()) => {
            let found = format!("all {} MiB as expected", disk::SIZE >> 20);
            Check::new(NAME, true, found)
        }
        Err(error) => Check::new(NAME, false, format!("{error:#}")),
    }
}

fn interrupts_remapped(machine: &Machine, result: &JobResult) -> Check {
    let lines: Vec<&str> = result
        .values("irq_after")
        .filter_map(|line| line.splitn(3, ' ').nth(2))
        .filter(|line| line.contains("PCI-MSI"))
        .collect();
    let remapped = lines
        .iter()
        .filter(|line| line.starts_with("IR-PCI-MSI"))
        .count();
    let (name, passed) = if machine.remaps_interrupts() {
        (
            "interrupts arrive remapped",
            !lines.is_empty() && remapped == lines.len(),
        )
    } else {
        ("interrupts arrive", !lines.is_empty() && remapped == 0)
    };
    let example = lines.first().copied().unwrap_or("no MSI at all");
    let found = format!("{remapped} of {} MSIs remapped, as {example}", lines.len());
    Check::new(name, passed, found)
}

fn quiet(result: &JobResult) -> Check {
    let lines: Vec<&str> = ["fault", "trouble", "insmod_failed", "queue_write_failed"]
        .into_iter()
        .flat_map(|key| result.values(key))
        .collect();
    let reported = result.value("done").is_some();
    let found = match lines.first() {
        None if reported => "none in the guest's log".to_owned(),
        None => "the guest did not get that far".to_owned(),
        Some(first) => format!(
            "{} lines, the first: {}",
            lines.len(),
            without_timestamp(first)
        ),
    };
    let passed = lines.is_empty() && reported;
    Check::new("no fault, no warning", passed, found)
}

fn edu_registers(result: &JobResult) -> Check {
    let id = result.value("edu_id").unwrap_or("none");
    let factorial = result.value("edu_factorial").unwrap_or("none");
    // The low byte of the identification is 0xed, and 6! is 720.
    let passed = id.to_ascii_lowercase().ends_with("ed") && parse_hex(factorial) == Some(720);
    let found = format!("id {id}, 6! = {factorial}");
    Check::new("edu answers", passed, found)
}

fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn edu_dma(machine: &Machine, result: &JobResult) -> Check {
    if machine.passes_through() {
        let line = result.value("edu_fault");
        let found = line.map_or("no fault", without_timestamp);
        return Check::new("edu passes through", line.is_none(), found);
    }
    let device = result.value("edu_device").unwrap_or("none");
    let function = device.split_once(':').map_or(device, |(_, rest)| rest);
    let line = result
        .values("edu_fault")
        .find(|line| Words::of(machine).is_refusal(line, function));
    let found = line.map_or("the guest's log has no such fault", without_timestamp);
    Check::new("a stray DMA is refused and reported", line.is_some(), found)
}
