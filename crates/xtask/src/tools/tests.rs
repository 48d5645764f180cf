use super::*;

#[test]
fn a_missing_tool_is_named_by_its_package() {
    let absent = Tool {
        name: "no-such-program-here",
        package: "some-package",
    };
    assert_eq!(missing_packages(&[absent, absent]), ["some-package"]);
    let error = require(absent).unwrap_err().to_string();
    assert!(error.contains("apt-get install some-package"), "{error}");
}

#[test]
fn programs_are_found_on_the_path() {
    assert!(find("sh").is_some());
    assert!(find("/bin/sh").is_some());
    assert!(find("/no/such/file").is_none());
}
