//! One run of a VMM: started, watched, bounded, recorded. The same code runs on the host and,
//! as the box's harness, in the box.

use crate::proc::{Bounded, Ending};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a guest's report lines begin with.
pub const MARKER: &str = "@@VMI ";

/// The folder in the box's memory for copies of files that jobs name as local.
pub const LOCAL: &str = "/tmp/local";

/// The longest console line that is read as one, in bytes.
const LINE_LIMIT: u64 = 64 << 10;
/// How much console output is kept; a guest that floods its console cannot fill the disk.
const CONSOLE_LIMIT: usize = 64 << 20;

/// A VMM to run. Relative paths in it are below the run's folder, which is its working folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Names the job and its files.
    pub name: String,
    /// The program and its arguments; the guest's console is its standard output.
    pub argv: Vec<String>,
    /// How long it may run, in milliseconds.
    pub limit_ms: u64,
    /// Files of the run's folder that are copied to [`LOCAL`], once, before the job's clock
    /// starts: in the box, the run's folder is shared with the host and slow to read.
    #[serde(default)]
    pub local: Vec<String>,
}

/// A report line of a guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    /// When it arrived, in milliseconds from the VMM's start.
    pub at_ms: f64,
    /// What came before the equals sign.
    pub key: String,
    /// What came after it.
    pub value: String,
}

/// How a job went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobResult {
    /// The job's name.
    pub name: String,
    /// How its VMM ended.
    pub ending: Ending,
    /// From the VMM's start to its end, in milliseconds.
    pub wall_ms: f64,
    /// The guest's report.
    pub marks: Vec<Mark>,
}

impl JobResult {
    /// The values reported under `key`, in order.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let marks = self.marks.iter().filter(move |mark| mark.key == key);
        marks.map(|mark| mark.value.as_str())
    }

    /// The first value reported under `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.marks
            .iter()
            .find(|mark| mark.key == key)
            .map(|mark| mark.value.as_str())
    }

    /// When `key` was first reported, in milliseconds from the VMM's start.
    pub fn time_of(&self, key: &str) -> Option<f64> {
        let mark = self.marks.iter().find(|mark| mark.key == key)?;
        Some(mark.at_ms)
    }
}

/// The file of a job's console output.
pub fn console_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.console.log"))
}

/// The file of what a job's VMM itself said.
pub fn stderr_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.stderr.log"))
}

/// The file of a job's result.
pub fn result_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.result.json"))
}

/// Runs a job in `folder` to its end or its bound; `progress` sees each console line.
pub fn run(
    job: &Job,
    folder: &Path,
    progress: impl Fn(&str) + Send + 'static,
) -> Result<JobResult> {
    let create = |path: PathBuf| {
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    };
    let mut console = create(console_path(folder, &job.name))?;
    let stderr = create(stderr_path(folder, &job.name))?;
    let (program, arguments) = job.argv.split_first().context("a job without a program")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    let started = Instant::now();
    let elapsed_ms = move || started.elapsed().as_secs_f64() * 1e3;
    let mut running = Bounded::spawn(&mut command, Duration::from_millis(job.limit_ms))
        .with_context(|| format!("cannot start {program}"))?;
    let stdout = running
        .child()
        .stdout
        .take()
        .context("the VMM has no output pipe")?;
    let marks = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let marks = Arc::clone(&marks);
        move || {
            let mut input = BufReader::new(stdout);
            let mut line = Vec::new();
            let mut kept = 0;
            let mut next = |line: &mut Vec<u8>| {
                line.clear();
                let read = input.by_ref().take(LINE_LIMIT).read_until(b'\n', line);
                read.is_ok_and(|read| read > 0)
            };
            while next(&mut line) {
                let at_ms = elapsed_ms();
                kept += line.len();
                if kept > CONSOLE_LIMIT {
                    continue;
                }
                let _ = console.write_all(&line);
                let text = String::from_utf8_lossy(&line);
                progress(text.trim());
                if let (Some(mark), Ok(mut marks)) = (parse_mark(&text, at_ms), marks.lock()) {
                    marks.push(mark);
                }
            }
        }
    });
    // A coarse poll would blur the time that the bench compares.
    let ending = loop {
        if let Some(ending) = running.poll()? {
            break ending;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall_ms = elapsed_ms();
    // All writers of the pipe are dead, so the reader ends.
    let _ = reader.join();
    let marks = marks.lock().map(|marks| marks.clone()).unwrap_or_default();
    Ok(JobResult {
        name: job.name.clone(),
        ending,
        wall_ms,
        marks,
    })
}

/// Reads a line such as `@@VMI key=value`, which may follow other text on its line.
fn parse_mark(line: &str, at_ms: f64) -> Option<Mark> {
    let at = line.find(MARKER)?;
    let (key, value) = line.get(at + MARKER.len()..)?.trim_end().split_once('=')?;
    Some(Mark {
        at_ms,
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// Copies what `job` wants to have near from `folder` to `local`, unless it is there.
fn copy_local(job: &Job, folder: &Path, local: &Path) -> Result<()> {
    for name in &job.local {
        let to = local.join(name);
        if to.exists() {
            continue;
        }
        std::fs::create_dir_all(local)
            .and_then(|()| std::fs::copy(folder.join(name), &to))
            .with_context(|| format!("cannot copy {name} to {}", local.display()))?;
    }
    Ok(())
}

/// The harness of the box: runs the jobs that `jobs.json` in `folder` lists, one after another,
/// and leaves each one's result beside it.
pub fn run_all(folder: &Path) -> Result<()> {
    let list = folder.join("jobs.json");
    let list = std::fs::read(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let jobs: Vec<Job> = serde_json::from_slice(&list).context("jobs.json is malformed")?;
    for job in &jobs {
        println!("{MARKER}job={}", job.name);
        copy_local(job, folder, Path::new(LOCAL))?;
        let result = run(job, folder, |_| {})?;
        let path = result_path(folder, &job.name);
        // Written whole before it appears, since the host polls for it.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(&result)?)
            .and_then(|()| std::fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
