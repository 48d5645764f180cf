//! The program as a user meets it: what it prints, and how it exits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// 32-bit code that prints the text at ESI and writes the word at EBX + `count` to the exit
/// device, where `string` and `count` are the offsets of these two in the structure at EBX.
fn print_and_exit(string: u8, count: u8) -> Vec<u8> {
    let mut code = vec![0x8b, 0x73, string]; // mov esi, [ebx + string]
    code.extend([
        0xac, // 1: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x07, // jz 2f
        0x66, 0xba, 0xf8, 0x03, // mov dx, COM1
        0xee, // out dx, al
        0xeb, 0xf4, // jmp 1b
        0x8b, 0x43, count, // 2: mov eax, [ebx + count]
        0xe7, 0xf4, // out EXIT_DEVICE, eax
        0xf4, // hlt
    ]);
    code
}

/// 32-bit code that writes `value` to `port` and halts.
fn write_port(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    // mov dx, port; mov al, value; out dx, al; hlt
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee, 0xf4]
}

/// A multiboot image at 1 MiB that runs `code`.
fn multiboot(code: &[u8]) -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    const HEADER: u32 = 32;
    let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
    let mut image = Vec::new();
    for word in [
        magic,
        flags,
        0u32.wrapping_sub(magic).wrapping_sub(flags),
        LOAD,
        LOAD,
        0,
        0,
        LOAD + HEADER,
    ] {
        image.extend(word.to_le_bytes());
    }
    image.extend(code);
    image
}

/// A 64-bit ELF at 2 MiB that runs `code` by its PVH note.
fn pvh(code: &[u8]) -> Vec<u8> {
    const LOAD: u64 = 0x20_0000;
    let note_at = 64 + 2 * 56;
    let code_at = note_at + 20;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    for half in [2u16, 62] {
        image.extend(half.to_le_bytes());
    }
    image.extend(1u32.to_le_bytes());
    for long in [LOAD, 64, 0] {
        image.extend(long.to_le_bytes());
    }
    image.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let size = code.len() as u64;
    for (kind, offset, address, size) in [(1u32, code_at, LOAD, size), (4, note_at, 0, 20)] {
        image.extend(kind.to_le_bytes());
        image.extend(5u32.to_le_bytes());
        for long in [offset, address, address, size, size, 4] {
            image.extend(long.to_le_bytes());
        }
    }
    for word in [4u32, 4, 18] {
        image.extend(word.to_le_bytes());
    }
    image.extend(b"Xen\0");
    image.extend((LOAD as u32).to_le_bytes());
    image.extend(code);
    image
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vm-iommu"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether machines run here; if not, a run must say so in one line.
fn machines_run() -> bool {
    program(&["doctor", "--json"]).status.code() == Some(0)
}

/// Runs a kernel and returns what it printed and the exit code, or nothing where no machine runs.
fn run(kernel: &Path, arguments: &[&str]) -> Option<(String, i32)> {
    let kernel = kernel.to_str().expect("a path");
    let output = program(&[&["run", "--kernel", kernel, "--memory", "32"], arguments].concat());
    let code = output.status.code().expect("an exit code");
    if !machines_run() {
        assert_eq!(code, 2);
        assert_eq!(text(&output.stderr).lines().count(), 1);
        return None;
    }
    Some((text(&output.stdout), code))
}

#[test]
fn a_multiboot_kernel_sees_its_command_line_and_modules() {
    let folder = Folder::new();
    // The command line and the number of modules, as multiboot places them.
    let kernel = folder.file("kernel", &multiboot(&print_and_exit(16, 20)));
    let module = folder.file("module", b"content");
    let module = module.to_str().expect("a path");
    let initrds = ["--initrd", module, "--initrd", module, "--cmdline", "a b"];
    if let Some((printed, code)) = run(&kernel, &initrds) {
        assert_eq!(printed, format!("{} a b", kernel.display()));
        assert_eq!(code, 2 << 1 | 1);
    }
}

#[test]
fn a_pvh_kernel_sees_its_command_line_and_modules() {
    let folder = Folder::new();
    let kernel = folder.file("kernel", &pvh(&print_and_exit(24, 12)));
    let module = folder.file("module", b"content");
    let module = format!("{},cmdline=x", module.display());
    if let Some((printed, code)) = run(&kernel, &["--initrd", &module, "--cmdline", "a b"]) {
        assert_eq!(printed, "a b");
        assert_eq!(code, 1 << 1 | 1);
    }
}

#[test]
fn the_exit_code_tells_how_a_guest_ended() {
    let folder = Folder::new();
    for (name, code, expected) in [
        ("power-off", write_port(0x600, 5 << 2 | 1 << 5), 0),
        ("reset", write_port(0x602, 1), 4),
        ("exit device", write_port(0xf4, 0), 1),
        ("wide exit device", write_port(0xf4, 0xff), 0xff),
        // An undefined instruction, with an interrupt table of zeros.
        ("triple fault", vec![0x0f, 0x0b], 6),
    ] {
        let kernel = folder.file(name, &multiboot(&code));
        if let Some((_, code)) = run(&kernel, &[]) {
            assert_eq!(code, expected, "{name}");
        }
    }
}

#[test]
fn what_cannot_start_says_why_in_one_line_and_exits_with_2() {
    let folder = Folder::new();
    let kernel = folder.file("kernel", &multiboot(&[0xf4]));
    let kernel = kernel.to_str().expect("a path");
    let junk = folder.file("junk", b"no kernel");
    let junk = junk.to_str().expect("a path");
    for (arguments, words) in [
        (&["fly"][..], "unrecognized subcommand 'fly'"),
        (&["run"], "--kernel <FILE>"),
        (&["run", "--kernel", "/no/such"], "no such file"),
        (&["run", "--kernel", junk], "this is no kernel"),
        (
            &["run", "--kernel", kernel, "--iommu", "x"],
            "no remapping unit is called",
        ),
        (
            &["run", "--kernel", kernel, "--device", "x"],
            "no device is called",
        ),
        (
            &["run", "--kernel", kernel, "--initrd", "/no/such"],
            "no such file",
        ),
        (
            &["run", "--kernel", kernel, "--memory", "1"],
            "out of bounds",
        ),
        (
            &["run", "--kernel", kernel, "--report", "/no/such/file"],
            "--report",
        ),
        (
            &[
                "run", "--kernel", kernel, "--cpus", "300", "--iommu", "none",
            ],
            "--iommu vtd,eim=on",
        ),
    ] {
        let output = program(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(complaint.starts_with("vm-iommu: "), "{complaint}");
        // Without KVM, that is what is said of a machine that is otherwise sound.
        assert!(
            complaint.contains(words) || complaint.contains("/dev/kvm"),
            "{arguments:?}: {complaint}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_and_version_are_no_failures() {
    for (argument, words) in [
        ("--help", "Exit codes:"),
        ("-h", "vm-iommu help COMMAND"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = program(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(words), "{argument}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn the_doctor_prints_json_and_exits_by_what_it_found() {
    let output = program(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let kind = report["kvm"].as_str().expect("a verdict");
    let expected = match kind {
        "hardware" | "interpreted" => 0,
        "unusable" => 2,
        other => panic!("{other}"),
    };
    assert_eq!(output.status.code(), Some(expected));
    assert_eq!(expected == 2, report["problem"].is_string());
    assert!(text(&program(&["doctor"]).stdout).starts_with(&format!("KVM: {kind}")));
}

#[test]
fn the_demo_comes_to_its_end_on_any_kvm() {
    let output = program(&["demo", "--json"]);
    let told = text(&output.stdout);
    if !machines_run() {
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stderr).lines().count(), 1);
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{told}");
    let story: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(story["ok"], true, "{told}");
}
