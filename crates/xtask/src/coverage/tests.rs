use super::*;

const EXPORT: &str = r#"{"data":[{"files":[{"filename":"/w/crates/x/src/a/b.rs","summary":
    {"branches":{"count":0},"lines":{"count":40,"covered":39,"percent":97.5}}}],
    "totals":{"lines":{"count":40,"covered":39,"percent":97.5}}}],"type":"llvm.coverage.json.export"}"#;

#[test]
fn the_table_names_files_and_what_was_missed() {
    let data = parse(EXPORT).unwrap();
    let text = render(&data, Path::new("/w/crates/x/src"));
    let row = text.lines().find(|line| line.contains("a/b.rs")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["a/b.rs", "40", "1", "97.5", "%"]);
}

#[test]
fn nothing_counted_is_an_error() {
    assert!(parse(&EXPORT.replace("40", "0")).is_err());
    assert!(parse(r#"{"data":[]}"#).is_err());
    assert!(parse("no coverage").is_err());
}

#[test]
fn tests_are_not_among_the_sources() {
    let source = workspace::root().join("crates/xtask/src");
    let found = sources(&source).unwrap();
    assert!(found.contains(&source.join("coverage.rs")));
    assert!(found.contains(&source.join("test/cargo.rs")));
    assert!(!found.iter().any(|path| path.ends_with("tests.rs")));
    assert!(sources(&source.join("nowhere")).is_err());
}
