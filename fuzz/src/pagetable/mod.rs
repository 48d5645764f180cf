//! Walkers against the oracle: bytes become table memory, a configuration and requests.

mod amd_v1;
mod case;
mod compare;
mod nested;
mod second_stage;
mod seeds;
mod x86_64;

pub use amd_v1::amd_v1;
pub use case::{Builder, MEMORY_SIZE};
pub use nested::nested;
pub use second_stage::second_stage;
pub use seeds::seeds;
pub use x86_64::x86_64;
