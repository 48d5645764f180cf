use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::server::{ProgramError, check_program};

fn interpreter(name: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 256];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 3;
    elf[72] = 160;
    elf[96] = name.len() as u8 + 1;
    elf[160..160 + name.len()].copy_from_slice(name);
    elf
}

fn checked(path: &Path, content: &[u8]) -> Result<(), ProgramError> {
    fs::write(path, content).unwrap();
    check_program(path)
}

#[test]
fn a_dynamic_program_and_a_script_of_one_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    checked(&program, &interpreter(b"/lib64/ld-linux-x86-64.so.2")).unwrap();
    let script = folder.path().join("script");
    checked(&script, format!("#! {} -x\n", program.display()).as_bytes()).unwrap();
    // This test is one itself.
    check_program(&std::env::current_exe().unwrap()).unwrap();
}

#[test]
fn others_are_refused_in_one_line_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    let mut none = interpreter(b"");
    none[64] = 1;
    let mut narrow = interpreter(b"/lib/ld-linux.so.2");
    narrow[4] = 1;
    for (content, reason) in [
        (none, "it is static"),
        (narrow, "not a program for the GNU C library"),
        (
            interpreter(b"/lib/ld-musl-x86_64.so.1"),
            "not a program for the GNU C library",
        ),
        (b"\x7fELF".to_vec(), "not a program"),
        (Vec::new(), "not a program"),
        (
            format!("#!{}\n", path.display()).into_bytes(),
            "not a program",
        ),
        (
            b"#!/nonexistent/x\n".to_vec(),
            "/nonexistent/x: it cannot be read",
        ),
    ] {
        let line = checked(&path, &content).unwrap_err().to_string();
        assert!(line.contains(reason), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_program_that_changes_its_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    fs::write(&path, interpreter(b"/lib64/ld-linux-x86-64.so.2")).unwrap();
    for mode in [0o4755, 0o2755] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = check_program(&path).unwrap_err();
        assert!(matches!(error, ProgramError::SetId { .. }), "{error}");
    }
}

#[test]
fn a_program_whose_file_has_capabilities_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    checked(&path, &interpreter(b"/lib64/ld-linux-x86-64.so.2")).unwrap();
    // Revision 2 with the effective flag: CAP_NET_RAW is permitted.
    let mut capabilities = [0; 20];
    capabilities[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    capabilities[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
    let name = "security.capability";
    let set = rustix::fs::setxattr(&path, name, &capabilities, XattrFlags::empty());
    if let Err(error) = set {
        // It takes CAP_SETFCAP, and a file system that keeps them.
        eprintln!("skipped: a file cannot be given capabilities here: {error}");
        return;
    }
    let error = check_program(&path).unwrap_err();
    assert!(
        matches!(error, ProgramError::FileCapabilities { .. }),
        "{error}"
    );
    rustix::fs::removexattr(&path, name).unwrap();
    check_program(&path).unwrap();
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    for (at, value) in [(32, 0xff), (72, 0xff), (39, 0xff), (103, 0xff)] {
        let mut lie = interpreter(b"/lib64/ld-linux-x86-64.so.2");
        lie[at] = value;
        assert!(checked(&path, &lie).is_err(), "{at}");
    }
}
