//! The options of an AMD-Vi unit.

use super::ConfigError;
use super::options::Options;

/// What the AMD-Vi unit offers to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmdViOptions {
    /// `hats=4|5|6|none`: the most levels of host (v1) tables, if there are such tables.
    pub host_levels: Option<u8>,
    /// `had=on|off`: host tables with accessed and dirty flags.
    pub host_flags: bool,
    /// `gt=on|off`: guest (v2) tables, also for requests without PASID.
    pub guest_translation: bool,
    /// `gats=4|5`: the most levels of guest tables.
    pub guest_levels: u8,
    /// `pasid-bits=N`: width of PASIDs, 1 to 20; Linux stops at more than 16.
    pub pasid_bits: u8,
    /// `ga=on|off`: interrupt remapping entries of 128 bits, otherwise 32.
    pub guest_apic: bool,
    /// `xt=on|off`: interrupts with 32-bit destinations, which x2APIC mode needs.
    pub x2apic: bool,
    /// `irt=512|2048`: the most entries of an interrupt remapping table.
    pub interrupt_entries: u16,
    /// `ia=on|off`: the command that invalidates everything.
    pub invalidate_all: bool,
    /// `np-cache=on|off`: the guest must invalidate after it makes an entry present, too.
    pub np_cache: bool,
    /// `ats=on|off`: devices may have translation caches of their own, and issue page requests.
    pub ats: bool,
    /// `segments=1|2|4|8`: the most segments of the device table.
    pub segments: u8,
    /// `caches=on|off`: whether the unit keeps translations; a guest that invalidates correctly
    /// sees no difference but speed.
    pub caches: bool,
    /// `drain=on|off`: whether an invalidation waits for accesses in flight. Off, the unit
    /// enforces nothing; for measuring only.
    pub drain: bool,
    /// `ivhd=10|11|40`: the type, in hexadecimal, of the newest block that the ACPI table has for
    /// the unit. Those of lower types are there too.
    pub block: u8,
    /// `units=N`: how many such units there are, 1 to 4; each but the first has a root port.
    pub units: u8,
}

impl Default for AmdViOptions {
    fn default() -> Self {
        Self {
            host_levels: Some(6),
            host_flags: true,
            guest_translation: true,
            guest_levels: 5,
            pasid_bits: 16,
            guest_apic: true,
            x2apic: true,
            interrupt_entries: 2048,
            invalidate_all: true,
            np_cache: false,
            ats: false,
            segments: 8,
            caches: true,
            drain: true,
            block: 0x40,
            units: 1,
        }
    }
}

impl AmdViOptions {
    const KEYS: &'static [&'static str] = &[
        "hats",
        "had",
        "gt",
        "gats",
        "pasid-bits",
        "ga",
        "xt",
        "irt",
        "ia",
        "np-cache",
        "ats",
        "segments",
        "caches",
        "drain",
        "ivhd",
        "units",
    ];

    /// Whether remapped interrupts can carry 32-bit destinations. Guests do not look for that in
    /// blocks of type 10h.
    pub(super) fn extended_interrupts(&self) -> bool {
        self.x2apic && self.block > 0x10
    }

    pub(super) fn parse(words: Vec<String>) -> Result<Self, ConfigError> {
        let options = Options::new("amdvi", words, Self::KEYS)?;
        let default = Self::default();
        let one_of = |key, wanted, values: &[u64], default: u64| {
            let given = options.number(key, wanted, |value| values.contains(&value))?;
            Ok::<u64, ConfigError>(given.unwrap_or(default))
        };
        let refuse = |key, wanted| {
            Err(ConfigError::Value {
                what: "amdvi",
                key,
                value: options.text(key).unwrap_or("on").to_owned(),
                wanted,
            })
        };
        let host_levels = match options.text("hats") {
            Some("none") => None,
            _ => Some(one_of("hats", "4, 5, 6 or none", &[4, 5, 6], 6)? as u8),
        };
        let host_flags = options.switch("had", default.host_flags && host_levels.is_some())?;
        if host_flags && host_levels.is_none() {
            return refuse("had", "off when hats=none");
        }
        let guest_translation = options.switch("gt", default.guest_translation)?;
        if !guest_translation && host_levels.is_none() {
            return refuse("gt", "on when hats=none");
        }
        let guest_apic = options.switch("ga", default.guest_apic)?;
        let x2apic = options.switch("xt", default.x2apic && guest_apic)?;
        if x2apic && !guest_apic {
            return refuse("xt", "off when ga=off");
        }
        let block = match options.text("ivhd") {
            None => default.block,
            Some("10") => 0x10,
            Some("11") => 0x11,
            Some("40") => 0x40,
            Some(_) => return refuse("ivhd", "10, 11 or 40"),
        };
        Ok(Self {
            host_levels,
            host_flags,
            guest_translation,
            guest_levels: one_of("gats", "4 or 5", &[4, 5], default.guest_levels.into())? as u8,
            pasid_bits: options
                .number("pasid-bits", "1 to 20", |bits| (1..=20).contains(&bits))?
                .map_or(default.pasid_bits, |bits| bits as u8),
            guest_apic,
            x2apic,
            interrupt_entries: one_of(
                "irt",
                "512 or 2048",
                &[512, 2048],
                default.interrupt_entries.into(),
            )? as u16,
            invalidate_all: options.switch("ia", default.invalidate_all)?,
            np_cache: options.switch("np-cache", default.np_cache)?,
            ats: options.switch("ats", default.ats)?,
            segments: one_of(
                "segments",
                "1, 2, 4 or 8",
                &[1, 2, 4, 8],
                default.segments.into(),
            )? as u8,
            caches: options.switch("caches", default.caches)?,
            drain: options.switch("drain", default.drain)?,
            block,
            units: super::parse::units(&options)?,
        })
    }
}
