use super::*;

#[test]
fn columns_line_up() {
    let rows = [vec!["a", "bb"], vec!["ccc", "d"]];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(table(&rows), "  a    bb\n  ---  --\n  ccc  d\n");
}

#[test]
fn a_tail_longer_than_the_text_is_the_text() {
    assert_eq!(tail("one\ntwo\r\n", 9), "    | one\n    | two\n");
    assert_eq!(tail("one\ntwo\nthree", 1), "    | three\n");
}
