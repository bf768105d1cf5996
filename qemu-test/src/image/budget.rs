//! Sizes: printed at every build, and a build that is over its budget fails.

use std::fs;
use std::path::Path;

use crate::error::{Doing, LabError, Result};

/// Checks one file against its budget in bytes.
pub(super) fn check(what: &str, path: &Path, budget: u64) -> Result<()> {
    let actual = size(path)?;
    println!("image: {what}: {:.1} MiB of {:.0} MiB", mebibytes(actual), mebibytes(budget));
    if actual > budget {
        return Err(LabError::OverBudget { what: what.into(), actual, budget });
    }
    Ok(())
}

/// Prints one file's size.
pub(super) fn show(what: &str, path: &Path) -> Result<()> {
    println!("image: {what}: {:.1} MiB", mebibytes(size(path)?));
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).at("reading", path)?.len())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_its_budget_fails_the_build() {
        let path = std::env::temp_dir().join(format!("godwit-budget-{}", std::process::id()));
        fs::write(&path, [0; 100]).unwrap();
        assert!(check("it", &path, 100).is_ok());
        let error = check("it", &path, 99).unwrap_err();
        assert!(matches!(error, LabError::OverBudget { actual: 100, budget: 99, .. }), "{error}");
        fs::remove_file(&path).unwrap();
    }
}
