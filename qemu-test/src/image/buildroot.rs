//! Tests: `buildroot/external/`, which builds kernel and binary from source, fits the rest of the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::source_tree;
use crate::image::recipe::Recipe;

/// What stands before the name of a module that is not its symbol's in small letters.
const NAMED: &str = "# module ";

fn read(path: &str) -> String {
    fs::read_to_string(source_tree().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The modules that a kernel fragment switches on, by name in small letters, with the line that does it.
fn modules_of(fragment: &str) -> BTreeMap<String, &str> {
    let mut modules = BTreeMap::new();
    let mut name = None;
    for line in fragment.lines() {
        if let Some((symbol, "m" | "y")) = line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')) {
            modules.insert(name.take().unwrap_or(symbol).to_lowercase(), line);
        }
        name = line.strip_prefix(NAMED);
    }
    modules
}

#[test]
fn the_kernel_fragment_switches_on_every_module_of_the_image() {
    let fragment = read("config/kernel.fragment");
    let built = modules_of(&fragment);
    let recipe = Recipe::read(&source_tree()).unwrap();
    let wanted: BTreeSet<String> = recipe.module_names().map(str::to_lowercase).collect();
    let missing: Vec<_> = wanted.iter().filter(|name| !built.contains_key(*name)).collect();
    assert!(missing.is_empty(), "config/kernel.fragment does not build {missing:?}");
    let named = fragment.lines().filter_map(|line| line.strip_prefix(NAMED));
    let unknown: Vec<_> = named.filter(|name| !wanted.contains(&name.to_lowercase())).collect();
    assert!(unknown.is_empty(), "config/kernel.fragment names what config/image.toml does not: {unknown:?}");
}

#[test]
fn every_file_that_the_tree_for_buildroot_names_exists() {
    let external = source_tree().join("buildroot/external");
    let mut named = 0;
    for file in files_below(&external) {
        let text = fs::read_to_string(&file).unwrap();
        for start in ["$(BR2_EXTERNAL_GODWIT_PATH)", "$BR2_EXTERNAL_GODWIT_PATH"] {
            for (at, _) in text.match_indices(start) {
                let rest = &text[at + start.len()..];
                let end = rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len());
                let path = external.join(rest[..end].trim_start_matches('/'));
                assert!(path.exists(), "{} names {}", file.display(), path.display());
                named += 1;
            }
        }
    }
    assert!(named >= 5, "only {named} names were found: are they written differently now?");
}

#[test]
fn the_checksum_of_the_pinned_kernel_is_known() {
    let defconfig = read("buildroot/external/configs/godwit_defconfig");
    let version = defconfig.lines().find_map(|line| line.strip_prefix("BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="));
    let archive = format!("linux-{}.tar.xz", version.expect("a pinned kernel").trim_matches('"'));
    // The kernel and its headers are two packages of Buildroot, from one archive.
    for package in ["linux", "linux-headers"] {
        let hashes = read(&format!("buildroot/external/hashes/{package}/{package}.hash"));
        assert!(hashes.lines().any(|line| line.split_whitespace().last() == Some(&archive)), "{package}: {archive}");
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
