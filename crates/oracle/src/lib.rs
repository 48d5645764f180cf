//! Literal, slow, step-numbered models of the specification's algorithms, for tests and fuzzing.
//!
//! Each model is written from the specification's text alone: nothing is precomputed, nothing is
//! shared with what it checks, layouts included, and little among the models. Where it and the
//! code under test differ, one of them misread the specification.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod amd_v1;
mod amd_vi;
mod nested;
mod page_walk;
mod second_stage;
mod vtd_legacy;
mod x86_64;

pub use amd_v1::AmdV1;
pub use amd_vi::{
    AmdViAddress, AmdViCapabilities, AmdViDelivery, AmdViInterrupt, AmdViLogging, AmdViRefusal,
    AmdViRegisters, amd_vi_interrupt, amd_vi_request,
};
pub use nested::{NestedRefusal, Stage, nested};
pub use page_walk::{Access, Entry, Memory, Refusal, Translation, Why};
pub use second_stage::SecondStage;
pub use vtd_legacy::{VtdCapabilities, VtdInterrupt, VtdRegisters, vtd_interrupt, vtd_request};
pub use x86_64::X86_64;
