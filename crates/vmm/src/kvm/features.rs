//! CPUID features by name, and which of them need which.

use thiserror::Error;

/// A CPUID output register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where a feature's bit is: leaf, subleaf, register, bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    pub(super) leaf: u32,
    pub(super) subleaf: u32,
    pub(super) register: Register,
    pub(super) bit: u8,
    /// The features without which this one does not work, by name.
    pub(super) needs: &'static [&'static str],
}

/// A change of the CPUID that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// No feature of that name is known.
    #[error("no CPU feature is called {name:?}; they are named as in /proc/cpuinfo")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// KVM does not offer it.
    #[error("this KVM does not offer the CPU feature {name}; leave +{name} away")]
    Unsupported {
        /// The feature.
        name: &'static str,
    },
}

/// The names of all features that can be changed.
pub fn feature_names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().map(|feature| feature.name)
}

/// The feature called `name`.
pub(super) fn find(name: &str) -> Result<&'static Feature, FeatureError> {
    FEATURES
        .iter()
        .find(|feature| feature.name == name)
        .ok_or_else(|| FeatureError::Unknown {
            name: name.to_owned(),
        })
}

/// `feature` and everything that cannot work without it.
pub(super) fn dependents(feature: &'static Feature) -> Vec<&'static Feature> {
    closure(feature, |of| {
        FEATURES
            .iter()
            .filter(|other| other.needs.contains(&of.name))
            .collect()
    })
}

/// `feature` and everything that it cannot work without.
pub(super) fn requirements(feature: &'static Feature) -> Vec<&'static Feature> {
    closure(feature, |of| {
        FEATURES
            .iter()
            .filter(|other| of.needs.contains(&other.name))
            .collect()
    })
}

fn closure(
    start: &'static Feature,
    next: impl Fn(&Feature) -> Vec<&'static Feature>,
) -> Vec<&'static Feature> {
    let mut found = vec![start];
    let mut done = 0;
    while let Some(feature) = found.get(done) {
        for other in next(feature) {
            if !found.contains(&other) {
                found.push(other);
            }
        }
        done += 1;
    }
    found
}

const fn feature(
    name: &'static str,
    (leaf, subleaf): (u32, u32),
    register: Register,
    bit: u8,
    needs: &'static [&'static str],
) -> Feature {
    Feature {
        name,
        leaf,
        subleaf,
        register,
        bit,
        needs,
    }
}

const BASIC: (u32, u32) = (1, 0);
const STRUCTURED: (u32, u32) = (7, 0);
const STRUCTURED_1: (u32, u32) = (7, 1);
const XSTATE: (u32, u32) = (0xd, 1);
const EXTENDED: (u32, u32) = (0x8000_0001, 0);

/// Names as in `/proc/cpuinfo`; bits from the Intel SDM, vol. 2A, "CPUID", and the AMD APM,
/// vol. 3, appendix E; needs from the instruction descriptions.
#[rustfmt::skip]
const FEATURES: &[Feature] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    &[
        feature("sse3", BASIC, Ecx, 0, &[]),
        feature("pclmulqdq", BASIC, Ecx, 1, &[]),
        feature("ssse3", BASIC, Ecx, 9, &[]),
        feature("fma", BASIC, Ecx, 12, &["avx"]),
        feature("cx16", BASIC, Ecx, 13, &[]),
        feature("pcid", BASIC, Ecx, 17, &[]),
        feature("sse4_1", BASIC, Ecx, 19, &[]),
        feature("sse4_2", BASIC, Ecx, 20, &[]),
        feature("x2apic", BASIC, Ecx, 21, &[]),
        feature("movbe", BASIC, Ecx, 22, &[]),
        feature("popcnt", BASIC, Ecx, 23, &[]),
        feature("tsc_deadline_timer", BASIC, Ecx, 24, &[]),
        feature("aes", BASIC, Ecx, 25, &[]),
        feature("xsave", BASIC, Ecx, 26, &[]),
        feature("avx", BASIC, Ecx, 28, &["xsave"]),
        feature("f16c", BASIC, Ecx, 29, &["avx"]),
        feature("rdrand", BASIC, Ecx, 30, &[]),
        feature("hypervisor", BASIC, Ecx, 31, &[]),
        feature("mtrr", BASIC, Edx, 12, &[]),
        feature("pat", BASIC, Edx, 16, &[]),
        feature("fsgsbase", STRUCTURED, Ebx, 0, &[]),
        feature("bmi1", STRUCTURED, Ebx, 3, &[]),
        feature("hle", STRUCTURED, Ebx, 4, &[]),
        feature("avx2", STRUCTURED, Ebx, 5, &["avx"]),
        feature("smep", STRUCTURED, Ebx, 7, &[]),
        feature("bmi2", STRUCTURED, Ebx, 8, &[]),
        feature("erms", STRUCTURED, Ebx, 9, &[]),
        feature("invpcid", STRUCTURED, Ebx, 10, &["pcid"]),
        feature("rtm", STRUCTURED, Ebx, 11, &[]),
        feature("mpx", STRUCTURED, Ebx, 14, &["xsave"]),
        feature("avx512f", STRUCTURED, Ebx, 16, &["avx2"]),
        feature("avx512dq", STRUCTURED, Ebx, 17, &["avx512f"]),
        feature("rdseed", STRUCTURED, Ebx, 18, &[]),
        feature("adx", STRUCTURED, Ebx, 19, &[]),
        feature("smap", STRUCTURED, Ebx, 20, &[]),
        feature("avx512ifma", STRUCTURED, Ebx, 21, &["avx512f"]),
        feature("avx512pf", STRUCTURED, Ebx, 26, &["avx512f"]),
        feature("avx512er", STRUCTURED, Ebx, 27, &["avx512f"]),
        feature("avx512cd", STRUCTURED, Ebx, 28, &["avx512f"]),
        feature("sha_ni", STRUCTURED, Ebx, 29, &[]),
        feature("avx512bw", STRUCTURED, Ebx, 30, &["avx512f"]),
        feature("avx512vl", STRUCTURED, Ebx, 31, &["avx512f"]),
        feature("avx512vbmi", STRUCTURED, Ecx, 1, &["avx512bw"]),
        feature("umip", STRUCTURED, Ecx, 2, &[]),
        feature("pku", STRUCTURED, Ecx, 3, &["xsave"]),
        feature("waitpkg", STRUCTURED, Ecx, 5, &[]),
        feature("avx512_vbmi2", STRUCTURED, Ecx, 6, &["avx512bw"]),
        feature("shstk", STRUCTURED, Ecx, 7, &["xsaves"]),
        feature("gfni", STRUCTURED, Ecx, 8, &[]),
        feature("vaes", STRUCTURED, Ecx, 9, &["avx", "aes"]),
        feature("vpclmulqdq", STRUCTURED, Ecx, 10, &["avx", "pclmulqdq"]),
        feature("avx512_vnni", STRUCTURED, Ecx, 11, &["avx512f"]),
        feature("avx512_bitalg", STRUCTURED, Ecx, 12, &["avx512bw"]),
        feature("avx512_vpopcntdq", STRUCTURED, Ecx, 14, &["avx512f"]),
        feature("la57", STRUCTURED, Ecx, 16, &[]),
        feature("rdpid", STRUCTURED, Ecx, 22, &[]),
        feature("movdiri", STRUCTURED, Ecx, 27, &[]),
        feature("movdir64b", STRUCTURED, Ecx, 28, &[]),
        feature("avx512_4vnniw", STRUCTURED, Edx, 2, &["avx512f"]),
        feature("avx512_4fmaps", STRUCTURED, Edx, 3, &["avx512f"]),
        feature("fsrm", STRUCTURED, Edx, 4, &[]),
        feature("avx512_vp2intersect", STRUCTURED, Edx, 8, &["avx512f"]),
        feature("ibt", STRUCTURED, Edx, 20, &["xsaves"]),
        feature("amx_bf16", STRUCTURED, Edx, 22, &["amx_tile"]),
        feature("avx512_fp16", STRUCTURED, Edx, 23, &["avx512bw"]),
        feature("amx_tile", STRUCTURED, Edx, 24, &["xsave"]),
        feature("amx_int8", STRUCTURED, Edx, 25, &["amx_tile"]),
        feature("avx_vnni", STRUCTURED_1, Eax, 4, &["avx2"]),
        feature("avx512_bf16", STRUCTURED_1, Eax, 5, &["avx512bw"]),
        feature("amx_fp16", STRUCTURED_1, Eax, 21, &["amx_tile"]),
        feature("avx_ifma", STRUCTURED_1, Eax, 23, &["avx2"]),
        feature("avx_vnni_int8", STRUCTURED_1, Edx, 4, &["avx2"]),
        feature("avx_ne_convert", STRUCTURED_1, Edx, 5, &["avx2"]),
        feature("amx_complex", STRUCTURED_1, Edx, 8, &["amx_tile"]),
        feature("avx_vnni_int16", STRUCTURED_1, Edx, 10, &["avx2"]),
        feature("avx10", STRUCTURED_1, Edx, 19, &["avx512f"]),
        feature("sha512", STRUCTURED_1, Eax, 0, &["avx2"]),
        feature("sm3", STRUCTURED_1, Eax, 1, &["avx"]),
        feature("sm4", STRUCTURED_1, Eax, 2, &["avx2"]),
        feature("xsaveopt", XSTATE, Eax, 0, &["xsave"]),
        feature("xsavec", XSTATE, Eax, 1, &["xsave"]),
        feature("xgetbv1", XSTATE, Eax, 2, &["xsave"]),
        feature("xsaves", XSTATE, Eax, 3, &["xsavec"]),
        feature("xfd", XSTATE, Eax, 4, &["xsave"]),
        feature("svm", EXTENDED, Ecx, 2, &[]),
        feature("vmx", BASIC, Ecx, 5, &[]),
        feature("xop", EXTENDED, Ecx, 11, &["avx"]),
        feature("lwp", EXTENDED, Ecx, 15, &["xsave"]),
        feature("fma4", EXTENDED, Ecx, 16, &["avx"]),
        feature("topoext", EXTENDED, Ecx, 22, &[]),
        feature("nx", EXTENDED, Edx, 20, &[]),
        feature("pdpe1gb", EXTENDED, Edx, 26, &[]),
        feature("rdtscp", EXTENDED, Edx, 27, &[]),
    ]
};

/// State components of XSAVE (bit in XCR0 or IA32_XSS) and the features that each belongs to;
/// a component goes when none of them is left.
pub(super) const STATE_COMPONENTS: &[(u32, &[&str])] = &[
    (2, &["avx"]),
    (3, &["mpx"]),
    (4, &["mpx"]),
    (5, &["avx512f"]),
    (6, &["avx512f"]),
    (7, &["avx512f"]),
    (9, &["pku"]),
    (11, &["shstk", "ibt"]),
    (12, &["shstk", "ibt"]),
    (17, &["amx_tile"]),
    (18, &["amx_tile"]),
];
