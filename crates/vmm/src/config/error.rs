//! What can be wrong with an option.

use crate::config::options::KeyList;

/// An option that cannot be used, in words that say how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The option's first word names nothing known.
    #[error("no {what} is called {name:?}; there are: {}", KeyList(known))]
    UnknownKind {
        /// What was to be named.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// The names there are.
        known: &'static [&'static str],
    },
    /// A key that the thing does not have.
    #[error("{what} has no option {key:?}; it has: {}", KeyList(known))]
    UnknownKey {
        /// What was configured.
        what: &'static str,
        /// The key that was given.
        key: String,
        /// The keys there are.
        known: &'static [&'static str],
    },
    /// A key that was given twice.
    #[error("{what}: {key} is given twice; give it once")]
    Duplicate {
        /// What was configured.
        what: &'static str,
        /// The key.
        key: String,
    },
    /// A key that must be there.
    #[error("{what} needs {key}=…")]
    Missing {
        /// What was configured.
        what: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A word where `key=value` belongs.
    #[error("{what}: {word:?} is not of the form option=value")]
    NotAPair {
        /// What was configured.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A value that does not fit its key.
    #[error("{what}: {key}={value} is not usable; {key} is {wanted}")]
    Value {
        /// What was configured.
        what: &'static str,
        /// The key.
        key: &'static str,
        /// The value that was given.
        value: String,
        /// What would have been right.
        wanted: &'static str,
    },
    /// An amount of memory that is not a number with a unit.
    #[error("{text:?} is not an amount of memory; write a number of MiB, or one with K, M or G")]
    MemorySyntax {
        /// What was given.
        text: String,
    },
    /// An amount of memory out of bounds.
    #[error("{} of memory is out of bounds; give {} to {}", Mib(*given), Mib(*least), Mib(*most))]
    MemoryBounds {
        /// Bytes given.
        given: u64,
        /// The least, in bytes.
        least: u64,
        /// The most, in bytes.
        most: u64,
    },
    /// An amount of memory that is not whole mebibytes.
    #[error("{given} bytes of memory are not whole MiB; round it")]
    MemoryGranularity {
        /// Bytes given.
        given: u64,
    },
    /// A path that is empty.
    #[error("{what} needs a path")]
    EmptyPath {
        /// What was configured.
        what: &'static str,
    },
    /// A feature change without its sign, or with an impossible name.
    #[error("{text:?} is not a CPU feature change; write +NAME or -NAME, as in -xsave")]
    FeatureSyntax {
        /// What was given.
        text: String,
    },
    /// A number of CPUs out of bounds.
    #[error("{given} CPUs are out of bounds; give 1 to {most}")]
    Cpus {
        /// How many were asked for.
        given: u16,
        /// The most there can be.
        most: u16,
    },
    /// More CPUs than interrupts can name.
    #[error(
        "{given} CPUs need interrupts with 32-bit destinations; give at most {most}, or --iommu vtd,eim=on or amdvi,xt=on"
    )]
    CpusNeedEim {
        /// How many were asked for.
        given: u16,
        /// The most there can be without.
        most: u16,
    },
    /// A device behind a root port that is not there.
    #[error("there is no root port {port}; give --iommu …,units={} or more", port + 1)]
    NoPort {
        /// The port asked for.
        port: u8,
    },
    /// Two devices behind one root port.
    #[error("root port {port} has a device already; a link has one")]
    PortTaken {
        /// The port asked for.
        port: u8,
    },
    /// More devices than the bus has places.
    #[error("{given} devices are too many for one bus; give at most {most}")]
    TooManyDevices {
        /// How many were asked for.
        given: usize,
        /// The most there can be.
        most: usize,
    },
}

/// Bytes, shown in MiB as far as they are whole.
struct Mib(u64);

impl std::fmt::Display for Mib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_multiple_of(1 << 20) {
            write!(f, "{} MiB", self.0 >> 20)
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}
