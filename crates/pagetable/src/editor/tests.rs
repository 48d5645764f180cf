//! The editor against a plain map, and named examples of each operation.

mod examples;
mod model;
