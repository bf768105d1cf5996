//! `config/image.toml` as a type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Doing, LabError, Result};

/// What the image is made of and how large it may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// Sizes that the build checks.
    pub(super) budget: Budget,
    /// Kernel modules that the image carries, by subject.
    pub(super) modules: BTreeMap<String, Vec<String>>,
}

/// Largest sizes, in bytes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// Of the appliance's binary.
    pub(super) binary: u64,
    /// Of the ISO.
    pub(super) iso: u64,
}

impl Recipe {
    /// The recipe's file in this source tree.
    pub(super) fn file(source: &Path) -> PathBuf {
        source.join("config/image.toml")
    }

    /// Reads the recipe.
    pub(super) fn read(source: &Path) -> Result<Self> {
        let path = Self::file(source);
        let text = fs::read_to_string(&path).at("reading", &path)?;
        toml::from_str(&text).map_err(|error| LabError::Input(format!("{}: {error}", path.display())))
    }

    /// All module names.
    pub(super) fn module_names(&self) -> impl Iterator<Item = &str> {
        self.modules.values().flatten().map(String::as_str)
    }
}
