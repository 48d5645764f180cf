use super::*;

#[test]
fn the_scripts_use_no_command_that_is_not_put_in() {
    // Words at the start of a command, as far as a look at the text can tell.
    let commands = [
        "mount",
        "dmesg",
        "insmod",
        "taskset",
        "sha256sum",
        "poweroff",
        "awk",
    ];
    for command in commands {
        assert!(GUEST_INIT.contains(command), "{command} is no longer used");
        assert!(APPLETS.contains(&command), "{command} is missing");
    }
}

#[test]
fn both_scripts_are_valid_shell() {
    for script in [GUEST_INIT, BOX_INIT] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, script).unwrap();
        let mut check = std::process::Command::new("sh");
        check.arg("-n").arg(&path);
        crate::proc::capture(&mut check, std::time::Duration::from_secs(10)).unwrap();
    }
}
