//! Ownership of DMA on a mock unit and on a VT-d unit behind its driver.

mod events;
mod fabric;
mod faults;
mod machine;
mod mock;
mod model;
mod property;
mod rules;
mod seam;
mod sweep;
mod tables;
mod threads;
mod vtd;
mod world;
