use super::*;

fn job(script: &str, limit_ms: u64) -> Job {
    Job {
        name: "j".to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        limit_ms,
        local: Vec::new(),
    }
}

#[test]
fn marks_are_taken_from_the_console_with_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo noise; printf '[ 1.0] @@VMI cpus=4\\r\\n'; sleep 0.2; echo '@@VMI a=b=c'";
    let result = run(&job(script, 20_000), dir.path(), |_| {}).unwrap();
    assert!(result.ending.is_success());
    assert_eq!(result.value("cpus"), Some("4"));
    assert_eq!(result.value("a"), Some("b=c"));
    assert!(result.time_of("a").unwrap() >= result.time_of("cpus").unwrap() + 150.0);
    let console = std::fs::read_to_string(console_path(dir.path(), "j")).unwrap();
    assert!(console.starts_with("noise\n"));
}

#[test]
fn a_job_past_its_bound_is_stopped_and_its_console_kept() {
    let dir = tempfile::tempdir().unwrap();
    let result = run(&job("echo last words; sleep 600", 300), dir.path(), |_| {}).unwrap();
    assert_eq!(result.ending, Ending::TimedOut);
    let console = std::fs::read_to_string(console_path(dir.path(), "j")).unwrap();
    assert_eq!(console, "last words\n");
}

#[test]
fn the_harness_leaves_a_result_for_each_job() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = [job("exit 3", 20_000)];
    std::fs::write(
        dir.path().join("jobs.json"),
        serde_json::to_vec(&jobs).unwrap(),
    )
    .unwrap();
    run_all(dir.path()).unwrap();
    let result = std::fs::read(result_path(dir.path(), "j")).unwrap();
    let result: JobResult = serde_json::from_slice(&result).unwrap();
    assert_eq!(result.ending, Ending::Exited(3));
}

#[test]
fn local_files_are_copied_once() {
    let dir = tempfile::tempdir().unwrap();
    let near = tempfile::tempdir().unwrap();
    let local = near.path().join("local");
    let mut job = job("true", 20_000);
    job.local = vec!["kernel".to_owned()];
    assert!(copy_local(&job, dir.path(), &local).is_err());
    for content in ["first", "second"] {
        std::fs::write(dir.path().join("kernel"), content).unwrap();
        copy_local(&job, dir.path(), &local).unwrap();
        let copied = std::fs::read_to_string(local.join("kernel")).unwrap();
        assert_eq!(copied, "first");
    }
}
