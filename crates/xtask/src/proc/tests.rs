use super::*;

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn an_exit_code_is_reported() {
    let mut child = Bounded::spawn(&mut shell("exit 7"), Duration::from_secs(10)).unwrap();
    assert_eq!(child.wait(|| {}).unwrap(), Ending::Exited(7));
}

#[test]
fn the_whole_group_dies_at_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
    let started = Instant::now();
    let mut child = Bounded::spawn(&mut shell(&script), Duration::from_millis(500)).unwrap();
    assert_eq!(child.wait(|| {}).unwrap(), Ending::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(20));
    let grandchild: i32 = std::fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let gone = || {
        // A killed orphan may stay a zombie until init reaps it, so ask for its state.
        std::fs::read_to_string(format!("/proc/{grandchild}/stat"))
            .map(|stat| stat.contains(") Z "))
            .unwrap_or(true)
    };
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        gone()
    }));
}

#[test]
fn a_child_past_its_bound_may_say_where_it_stood() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("said");
    let script = format!(
        "trap 'echo here > {}; exit 0' TERM; while :; do sleep 0.05; done",
        file.display()
    );
    let mut child = Bounded::spawn(&mut shell(&script), Duration::from_millis(500)).unwrap();
    assert_eq!(child.wait(|| {}).unwrap(), Ending::TimedOut);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "here\n");
}

#[test]
fn one_that_does_not_care_is_killed() {
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    let started = Instant::now();
    let mut child = Bounded::spawn(&mut shell(script), Duration::from_millis(200)).unwrap();
    assert_eq!(child.wait(|| {}).unwrap(), Ending::TimedOut);
    assert!(started.elapsed() >= GRACE);
}

#[test]
fn a_failed_tool_is_quoted() {
    let error = capture(
        &mut shell("echo oh no >&2; exit 3"),
        Duration::from_secs(10),
    );
    let text = format!("{:#}", error.unwrap_err());
    assert!(
        text.contains("exit code 3") && text.contains("oh no"),
        "{text}"
    );
}
