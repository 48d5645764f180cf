//! From the text of an option to its meaning.

use std::path::PathBuf;
use std::str::FromStr;

use super::options::{Options, split_head};
use super::{
    AmdViOptions, ConfigError, DeviceConfig, EduConfig, FeatureChange, IommuConfig, MemorySize,
    Module, VirtioBlkConfig, VtdOptions,
};

impl FromStr for MemorySize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 20),
        };
        let number = digits
            .parse::<u64>()
            .ok()
            .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| ConfigError::MemorySyntax {
                text: text.to_owned(),
            })?;
        Self::from_bytes(number.saturating_mul(1 << shift))
    }
}

impl FromStr for Module {
    type Err = ConfigError;

    /// `PATH[,cmdline=TEXT]`: the command line is everything to the end, commas and all.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (path, cmdline) = text.split_once(",cmdline=").unwrap_or((text, ""));
        if path.is_empty() {
            return Err(ConfigError::EmptyPath { what: "--initrd" });
        }
        Ok(Self {
            path: PathBuf::from(path),
            cmdline: cmdline.to_owned(),
        })
    }
}

impl FromStr for IommuConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (kind, words) = split_head(text);
        match kind.as_str() {
            "none" => Options::new("the machine without a unit", words, &[]).map(|_| Self::None),
            "vtd" => vtd(words).map(Self::Vtd),
            "amdvi" => AmdViOptions::parse(words).map(Self::AmdVi),
            _ => Err(ConfigError::UnknownKind {
                what: "remapping unit",
                name: kind,
                known: &["vtd", "amdvi", "none"],
            }),
        }
    }
}

fn vtd(words: Vec<String>) -> Result<VtdOptions, ConfigError> {
    let options = Options::new(
        "vtd",
        words,
        &[
            "aw",
            "intremap",
            "eim",
            "caching-mode",
            "pass-through",
            "caches",
            "drain",
            "fault-records",
            "ioapic-source",
            "units",
        ],
    )?;
    let default = VtdOptions::default();
    let address_width = options
        .number("aw", "39, 48 or 57", |bits| matches!(bits, 39 | 48 | 57))?
        .map_or(default.address_width, |bits| bits as u8);
    let intremap = options.switch("intremap", default.intremap)?;
    // Without interrupt remapping there is nothing to extend, unless it is asked for by name.
    let eim = options.switch("eim", default.eim && intremap)?;
    if eim && !intremap {
        return Err(ConfigError::Value {
            what: "vtd",
            key: "eim",
            value: "on".to_owned(),
            wanted: "off when intremap=off",
        });
    }
    Ok(VtdOptions {
        address_width,
        intremap,
        eim,
        caching_mode: options.switch("caching-mode", default.caching_mode)?,
        pass_through: options.switch("pass-through", default.pass_through)?,
        caches: options.switch("caches", default.caches)?,
        drain: options.switch("drain", default.drain)?,
        fault_records: options
            .number("fault-records", "1 to 256", |n| (1..=256).contains(&n))?
            .map_or(default.fault_records, |n| n as u16),
        ioapic_source: options
            .number("ioapic-source", "a 16-bit source id", |id| id <= 0xffff)?
            .map_or(default.ioapic_source, |id| id as u16),
        units: units(&options)?,
    })
}

/// How many units there are.
pub(super) fn units(options: &Options) -> Result<u8, ConfigError> {
    let most = IommuConfig::MAX_UNITS.into();
    let units = options.number("units", "1 to 4", |n| (1..=most).contains(&n))?;
    Ok(units.map_or(1, |n| n as u8))
}

/// Behind which root port a device is.
fn port(options: &Options) -> Result<u8, ConfigError> {
    let most = IommuConfig::MAX_UNITS.into();
    let port = options.number("port", "0 to 3", |n| n < most)?;
    Ok(port.map_or(0, |n| n as u8))
}

impl FromStr for DeviceConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (kind, words) = split_head(text);
        match kind.as_str() {
            "virtio-blk" => virtio_blk(words).map(Self::VirtioBlk),
            "edu" => edu(words).map(Self::Edu),
            _ => Err(ConfigError::UnknownKind {
                what: "device",
                name: kind,
                known: &["virtio-blk", "edu"],
            }),
        }
    }
}

fn virtio_blk(words: Vec<String>) -> Result<VirtioBlkConfig, ConfigError> {
    let options = Options::new(
        "virtio-blk",
        words,
        &["path", "iommu", "readonly", "queues", "indirect", "port"],
    )?;
    Ok(VirtioBlkConfig {
        path: options.path("path")?,
        iommu: options.switch("iommu", true)?,
        read_only: options.switch("readonly", false)?,
        queues: options
            .number("queues", "1 to 256", |n| {
                (1..=u64::from(VirtioBlkConfig::MAX_QUEUES)).contains(&n)
            })?
            .map(|n| n as u16),
        indirect: options.optional_switch("indirect")?,
        port: port(&options)?,
    })
}

fn edu(words: Vec<String>) -> Result<EduConfig, ConfigError> {
    let options = Options::new("edu", words, &["iommu", "dma-mask", "port"])?;
    let default = EduConfig::default();
    Ok(EduConfig {
        iommu: options.switch("iommu", default.iommu)?,
        dma_mask: options
            .number("dma-mask", "a mask of address bits from bit 0 up", |mask| {
                mask != 0 && mask & mask.wrapping_add(1) == 0
            })?
            .unwrap_or(default.dma_mask),
        port: port(&options)?,
    })
}

impl FromStr for FeatureChange {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (enable, name) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => (false, ""),
        };
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !named {
            return Err(ConfigError::FeatureSyntax {
                text: text.to_owned(),
            });
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            enable,
        })
    }
}
