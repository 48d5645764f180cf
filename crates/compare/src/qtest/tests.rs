use std::process::Command;

use super::*;

#[test]
fn answers_carry_a_value_or_none() {
    assert_eq!(value_of("writeq 0 0", "OK").unwrap(), 0);
    assert_eq!(value_of("readq 0", "OK 0x00000000000000ff").unwrap(), 0xff);
    assert_eq!(value_of("clock_step", "OK 101").unwrap(), 101);
    for answer in ["FAIL Unknown command", "", "OK 0xzz", "IRQ raise 1"] {
        assert!(matches!(
            value_of("readq 0", answer),
            Err(QtestError::Refused { .. })
        ));
    }
}

#[test]
fn a_program_that_ends_instead_of_connecting_is_reported_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo 'no such machine' >&2; exit 1"]);
    match Qtest::start(&mut command, folder.path()) {
        Err(QtestError::Ended { said }) => assert_eq!(said, "no such machine"),
        other => panic!("{other:?}"),
    }
}
