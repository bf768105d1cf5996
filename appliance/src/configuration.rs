//! The configuration of this host as its layers make it (DESIGN.md, section 6): defaults, host.toml of a boot medium,
//! `hosts/<hostname>.toml` of the datastore, words of the kernel command line. `configure` and `host` read it alike.

use std::fs;
use std::path::{Path, PathBuf};

use model::config_tree::ConfigError;
use model::host_config::{HostConfig, Layers};
use model::names::HostName;

use crate::api::paths::RunDir;

/// The lowest layer.
const DEFAULTS: &str = include_str!("../../config/host.toml");

/// What the layers make together.
#[derive(Debug)]
pub struct Configuration {
    /// The layers that were read, the lowest first.
    pub layers: Vec<String>,
    /// Everything that is wrong in them.
    pub errors: Vec<ConfigError>,
    /// The configuration, if nothing is wrong.
    pub config: Option<HostConfig>,
    /// The host's name: it has one even where the rest is wrong.
    pub hostname: HostName,
}

/// Where `configure` leaves the text of host.toml for the host role.
pub fn text_file(run: &RunDir) -> PathBuf {
    run.path().join("config/host.toml")
}

/// Where `configure` leaves the name of the place that the text came from.
pub fn origin_file(run: &RunDir) -> PathBuf {
    run.path().join("config/origin")
}

/// Reads the layers of this host. `datastore` is the file's name and text of `hosts/<hostname>.toml` once a datastore is there.
pub fn of_this_host(run: &RunDir, datastore: Option<(&str, &str)>) -> Configuration {
    let text = fs::read_to_string(text_file(run)).ok();
    let origin = fs::read_to_string(origin_file(run)).unwrap_or_else(|_| "godwit/host.toml".to_owned());
    let medium = text.as_deref().map(|text| (origin.as_str(), text));
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    read(&own_defaults(Path::new("/sys/class/net"), medium.is_some(), &words), medium, datastore, &words)
}

fn read(own: &str, medium: Option<(&str, &str)>, datastore: Option<(&str, &str)>, words: &str) -> Configuration {
    let mut names = vec!["built-in defaults".to_owned()];
    let mut errors = Vec::new();
    let mut layers = Layers::new("built-in defaults", &format!("{own}\n{DEFAULTS}")).unwrap_or_else(|error| {
        errors.push(error);
        Layers::new("nothing", "").expect("an empty text is TOML")
    });
    for (file, text) in medium.into_iter().chain(datastore) {
        names.push(file.to_owned());
        errors.extend(layers.file(file, text).err());
    }
    if words.split_whitespace().any(|word| word.starts_with("godwit.")) {
        names.push("kernel command line".to_owned());
        errors.extend(layers.kernel_words(words).err().into_iter().flatten());
    }
    let (config, found) = match layers.read() {
        Ok(config) => (Some(config), Vec::new()),
        Err(found) => (None, found),
    };
    errors.extend(found);
    // As a person goes through the files: the layers from the lowest, each from its top.
    errors.sort_by_key(|error| (names.iter().position(|name| *name == error.file), error.line));
    let config = config.filter(|_| errors.is_empty());
    let hostname = config.as_ref().map(|config| config.hostname.clone());
    let hostname = hostname
        .or_else(|| name_from_words(words))
        .or_else(|| medium.and_then(|(_, text)| name_from_text(text)))
        .or_else(|| name_from_text(own))
        .unwrap_or_else(unnamed);
    Configuration { layers: names, errors, config, hostname }
}

/// Defaults that depend on the machine: a name that two machines do not share, and, for a host that nobody configured,
/// DHCP on the first NIC.
fn own_defaults(nics: &Path, medium: bool, words: &str) -> String {
    let entries = fs::read_dir(nics).into_iter().flatten().flatten();
    let mut physical: Vec<String> = entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    physical.sort();
    let Some(first) = physical.first() else { return "hostname = \"godwit\"".to_owned() };
    let mac = fs::read_to_string(nics.join(first).join("address")).unwrap_or_default();
    let digits: String = mac.chars().filter(char::is_ascii_hexdigit).collect();
    let tail = digits.get(6..12).unwrap_or("000000");
    let mut text = format!("hostname = \"godwit-{tail}\"");
    let configured = words.split_whitespace().any(|w| w.starts_with("godwit.") && !w.starts_with("godwit.hostname="));
    if !medium && !configured {
        text.push_str(&format!("\nmanagement.nic = \"{first}\"\nmanagement.address = \"dhcp\""));
    }
    text
}

fn name_from_words(words: &str) -> Option<HostName> {
    words.split_whitespace().filter_map(|word| word.strip_prefix("godwit.hostname=")).next_back()?.parse().ok()
}

/// The name alone, out of a text in which something else may be wrong.
fn name_from_text(text: &str) -> Option<HostName> {
    text.parse::<toml::Table>().ok()?.get("hostname")?.as_str()?.parse().ok()
}

fn unnamed() -> HostName {
    "godwit".parse().expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_configuration_still_gives_a_name_and_says_everything_that_is_wrong() {
        let bad = "hostname = \"host-a\"\n[port_group.lab]\nvswitch = \"vs9\"\nvlan = 9999\n";
        let read =
            read("hostname = \"godwit-1\"", Some(("stick: host.toml", bad)), None, "quiet godwit.hostname=host-b");
        assert_eq!(read.config, None);
        assert_eq!(read.hostname.as_str(), "host-b");
        let named = super::read("hostname = \"godwit-1\"", Some(("stick", bad)), None, "quiet");
        assert_eq!(named.hostname.as_str(), "host-a", "the name that is right is used");
        assert_eq!(read.layers, ["built-in defaults", "stick: host.toml", "kernel command line"]);
        let errors: Vec<String> = read.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors.iter().all(|error| error.starts_with("stick: host.toml line ")), "{errors:?}");
    }

    #[test]
    fn a_host_that_nobody_configured_takes_its_first_nic() {
        let folder = std::env::temp_dir().join(format!("godwit-defaults-{}", std::process::id()));
        for (name, physical) in [("lo", false), ("eth1", true), ("eth0", true)] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("address"), format!("52:54:00:00:a{}:01\n", name.len())).unwrap();
            if physical {
                fs::write(folder.join(name).join("device"), "").unwrap();
            }
        }
        let read_with = |medium: Option<(&str, &str)>, words: &str| {
            read(&own_defaults(&folder, medium.is_some(), words), medium, None, words).config.expect("valid")
        };
        let bare = read_with(None, "quiet");
        assert_eq!(bare.hostname.as_str(), "godwit-00a401");
        assert_eq!(bare.management.expect("management").nic.to_string(), "eth0");
        assert_eq!(read_with(Some(("m", "")), "quiet").management, None, "a host.toml decides alone");
        assert_eq!(read_with(None, "godwit.vswitch.vs0.mtu=1500").management, None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
