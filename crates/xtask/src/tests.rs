//! The page on the commands is in step with them.

use crate::Cli;
use crate::test::Step;
use clap::{CommandFactory, ValueEnum};
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../docs/xtask.md");

fn names(command: &clap::Command) -> BTreeSet<String> {
    let shown = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// The text from the heading to the next one.
fn section(heading: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(heading).expect("the heading");
    rest.split_once("\n## ")
        .map_or(rest, |(section, _)| section)
}

/// The first word in code after `start`, wherever a line begins with that.
fn words_after(text: &str, start: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(start))
        .filter_map(|rest| rest.split(['`', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_its_section() {
    let documented = words_after(PAGE, "## cargo xtask ");
    assert_eq!(documented, names(&Cli::command()));
}

#[test]
fn every_bench_has_its_paragraph() {
    let cli = Cli::command();
    let bench = cli.find_subcommand("bench").expect("it is a command");
    let documented = words_after(section("## cargo xtask bench\n"), "`cargo xtask bench ");
    assert_eq!(documented, names(bench));
}

#[test]
fn every_step_has_its_row() {
    let documented = words_after(section("## cargo xtask test\n"), "| `");
    let steps = Step::value_variants().iter();
    let steps: BTreeSet<String> = steps
        .filter_map(|step| Some(step.to_possible_value()?.get_name().to_owned()))
        .collect();
    assert_eq!(documented, steps);
}

#[test]
fn every_option_of_a_documented_call_exists() {
    let known: BTreeSet<String> = Cli::command()
        .get_subcommands()
        .flat_map(|command| command.get_subcommands().chain([command]))
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .chain(["help".to_owned()])
        .collect();
    let words = PAGE.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    for option in words.filter_map(|word| word.strip_prefix("--")) {
        // The rules of the tables are dashes too.
        let is_rule = option.chars().all(|c| c == '-');
        assert!(is_rule || known.contains(option), "--{option}");
    }
}
