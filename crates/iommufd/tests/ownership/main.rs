//! Ownership of DMA on a mock unit, and on a VT-d and an AMD-Vi unit behind their drivers.

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
mod unit;
mod world;
