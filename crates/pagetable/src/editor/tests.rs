//! The editor against a plain map, named examples of each operation, and its troubles.

mod examples;
mod model;
mod restless;
