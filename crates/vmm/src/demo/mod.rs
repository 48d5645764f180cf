pub mod engine;
mod recorder;
