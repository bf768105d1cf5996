//! Turns `config/limits.toml` into constants, so that every bound is written in one place.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let source = Path::new("../../config/limits.toml");
    println!("cargo::rerun-if-changed={}", source.display());
    let text = std::fs::read_to_string(source).expect("config/limits.toml is readable");
    let table: toml::Table = text.parse().expect("config/limits.toml is TOML");
    let mut code = String::new();
    for (section, entries) in &table {
        let entries = entries.as_table().unwrap_or_else(|| panic!("[{section}] is a table"));
        for (key, entry) in entries {
            let name = format!("{section}_{key}").to_uppercase();
            let value = entry.get("value").and_then(toml::Value::as_integer);
            let value = value.unwrap_or_else(|| panic!("{section}.{key} has an integer value"));
            let about = entry.get("about").and_then(toml::Value::as_str);
            let about = about.unwrap_or_else(|| panic!("{section}.{key} says what it bounds"));
            let unsigned = u64::try_from(value).unwrap_or_else(|_| panic!("{section}.{key} is not negative"));
            writeln!(code, "/// {about}\npub const {name}: u64 = {unsigned};").expect("a string takes it");
        }
    }
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("limits.rs"), code).expect("OUT_DIR is writable");
}
