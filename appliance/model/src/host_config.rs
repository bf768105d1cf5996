//! What the configuration of a host says, in layers (DESIGN.md, section 6).
//!
//! ```toml
//! hostname = "host-a"
//! [management]
//! nic = "52:54:00:00:00:01"      # MAC, PCI address (0000:00:03.0) or kernel name
//! address = "192.168.0.11/24"    # or "dhcp"
//! gateway = "192.168.0.1"
//! [vswitch.vs0]
//! uplink = "eth2"
//! [port_group.lab]
//! vswitch = "vs0"
//! vlan = 10
//! [migration_nic]
//! nic = "eth1"
//! address = "10.0.0.11/24"
//! [datastore.lab]
//! kind = "nfs"
//! server = "192.168.0.2"
//! export = "/lab"
//! ```

mod text;

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config_tree::{ConfigError, Section, Tree};
use crate::limits;
use crate::names::{DatastoreName, HostName, MacAddress, PortGroupName, VswitchName};

/// The configuration of one host, valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// Its name.
    pub hostname: HostName,
    /// The management network, absent on a host that is driven only from its console.
    pub management: Option<Management>,
    /// Further NICs with an address in the kernel's stack, for storage.
    pub storage_nics: Vec<Management>,
    /// Its vswitches.
    pub vswitches: Vec<Vswitch>,
    /// Its port groups.
    pub port_groups: Vec<PortGroup>,
    /// The NIC of the migration stack.
    pub migration_nic: Option<MigrationNic>,
    /// Its datastores.
    pub datastores: Vec<Datastore>,
    /// The watchdog device that the lease role feeds.
    pub watchdog: Option<String>,
    /// The least severe log lines that are kept.
    pub log_level: LogLevel,
}

/// A NIC in the kernel's stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Management {
    /// Which NIC.
    pub nic: NicSelector,
    /// Its address.
    pub address: AddressSource,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// DHCP (RFC 2131).
    Dhcp,
    /// This address.
    Static(Cidr),
}

/// An address and the length of its network's prefix in bits: `192.168.0.11/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// 0 to 32 or 128.
    pub prefix: u8,
}

/// Names one NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicSelector {
    /// By its permanent MAC address.
    Mac(MacAddress),
    /// By its PCI address, `0000:00:03.0`.
    Pci(String),
    /// By the kernel's name.
    Name(String),
}

/// A virtual switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vswitch {
    /// Its name.
    pub name: VswitchName,
    /// The physical NIC on it; an internal vswitch has none.
    pub uplink: Option<NicSelector>,
    /// Bytes of payload in a frame, 1280 to 9216.
    pub mtu: u16,
}

/// A labelled VLAN on a vswitch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroup {
    /// Its label.
    pub name: PortGroupName,
    /// Its vswitch.
    pub vswitch: VswitchName,
    /// The VLAN, 1 to 4094; untagged if absent.
    pub vlan: Option<u16>,
}

/// The NIC that belongs to the migration stack; the kernel gives it no address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationNic {
    /// Which NIC.
    pub nic: NicSelector,
    /// Its address in the migration stack.
    pub address: Cidr,
    /// The gateway to other networks.
    pub gateway: Option<IpAddr>,
    /// The VLAN, 1 to 4094; untagged if absent.
    pub vlan: Option<u16>,
    /// Bytes of IP packet in a frame, 1280 to 9216; the NIC's own if absent.
    pub mtu: Option<u16>,
    /// The UDP port.
    pub port: u16,
}

/// One datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datastore {
    /// Its name, the same on every host that shares it.
    pub name: DatastoreName,
    /// Where it lies.
    pub kind: DatastoreKind,
}

/// Where a datastore lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatastoreKind {
    /// An NFS export.
    Nfs {
        /// The server's address.
        server: IpAddr,
        /// The server's TCP port.
        port: u16,
        /// The exported path.
        export: String,
        /// Protocol version.
        version: NfsVersion,
    },
    /// A folder of this host, shared by nothing but what runs on the same machine.
    Directory {
        /// Absolute path.
        path: String,
    },
}

/// Version of the NFS protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NfsVersion {
    /// Version 3 (RFC 1813).
    #[serde(rename = "3")]
    V3,
    /// Version 4.1 (RFC 8881).
    #[default]
    #[serde(rename = "4.1")]
    V4_1,
    /// Version 4.2 (RFC 7862).
    #[serde(rename = "4.2")]
    V4_2,
}

/// Severity of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only errors.
    Error,
    /// And warnings.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And why.
    Debug,
}

macro_rules! words {
    ($type:ident: $($word:literal => $value:ident),+) => {
        impl FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$value),)+
                    _ => Err(concat!("write one of", $(" \"", $word, "\""),+)),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$value => $word),+ })
            }
        }
    };
}

words!(NfsVersion: "3" => V3, "4.1" => V4_1, "4.2" => V4_2);
words!(LogLevel: "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug);

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write an address and the prefix length of its network, 0 to 32 for IPv4 and 0 to 128 for IPv6: \
                            192.168.0.11/24";
        let (address, prefix) = text.split_once('/').ok_or(FORM)?;
        let address: IpAddr = address.parse().map_err(|_| FORM)?;
        let prefix: u8 = prefix.parse().map_err(|_| FORM)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        if prefix > max { Err(FORM) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.prefix))
    }
}

impl FromStr for AddressSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "dhcp" {
            return Ok(Self::Dhcp);
        }
        text.parse().map(Self::Static).map_err(|form: &str| format!("{form}, or \"dhcp\""))
    }
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.pad("dhcp"),
            Self::Static(cidr) => cidr.fmt(f),
        }
    }
}

/// An address that stands alone in a configuration.
struct Address(IpAddr);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write an IPv4 or IPv6 address, 192.168.0.1 or fd00::1: names are not looked up";
        text.parse().map(Self).map_err(|_| FORM)
    }
}

impl FromStr for NicSelector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(mac) = text.parse() {
            return Ok(Self::Mac(mac));
        }
        let pci = text.len() == 12
            && text.bytes().enumerate().all(|(n, b)| match n {
                4 | 7 => b == b':',
                10 => b == b'.',
                _ => b.is_ascii_hexdigit(),
            });
        if pci {
            return Ok(Self::Pci(text.to_lowercase()));
        }
        let name =
            (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        if name && text != "." && text != ".." {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(
            "write a NIC as its MAC address (52:54:00:12:34:56), its PCI address (0000:00:03.0) or the kernel's name of 1 to 15 \
             characters (eth0)",
        )
    }
}

impl fmt::Display for NicSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Pci(text) | Self::Name(text) => f.pad(text),
        }
    }
}

/// The layers of a host's configuration, the lowest first.
#[derive(Debug)]
pub struct Layers {
    tree: Tree,
}

impl Layers {
    /// Starts with the built-in defaults.
    ///
    /// # Errors
    /// `text` is not TOML.
    pub fn new(file: &str, text: &str) -> Result<Self, ConfigError> {
        Ok(Self { tree: Tree::parse(file, text)? })
    }

    /// Lays a file on what is there.
    ///
    /// # Errors
    /// `text` is not TOML; the layers stay as they were.
    pub fn file(&mut self, file: &str, text: &str) -> Result<(), ConfigError> {
        self.tree.overlay(Tree::parse(file, text)?);
        Ok(())
    }

    /// Lays the `godwit.<key>=<value>` words of the kernel command line on what is there.
    ///
    /// # Errors
    /// Words that contradict each other; the layers stay as they were.
    pub fn kernel_words(&mut self, cmdline: &str) -> Result<(), Vec<ConfigError>> {
        self.tree.overlay(Tree::from_words("kernel command line", "godwit.", cmdline)?);
        Ok(())
    }

    /// The configuration that the layers make together.
    ///
    /// # Errors
    /// Every error at once.
    pub fn read(&self) -> Result<HostConfig, Vec<ConfigError>> {
        let errors = RefCell::default();
        let config = read(Section::root(&self.tree, &errors));
        match (config, errors.into_inner()) {
            (Some(config), errors) if errors.is_empty() => Ok(config),
            (_, errors) => Err(errors),
        }
    }
}

/// `None` only where an error was recorded.
fn read(mut root: Section<'_>) -> Option<HostConfig> {
    let hostname = root.required("hostname", "host-a");
    let management = root.section("management").map(read_management);
    let storage: Vec<_> = root.named::<DatastoreName>("storage_nic", 8);
    let storage: Vec<_> = storage.into_iter().map(|(_, section)| read_management(section)).collect();
    let vswitches: Vec<_> = root.named("vswitch", 32).into_iter().map(|(name, s)| read_vswitch(name, s)).collect();
    let port_groups: Vec<_> =
        root.named("port_group", 256).into_iter().map(|(name, s)| read_port_group(name, &vswitches, s)).collect();
    let migration_nic = root.section("migration_nic").map(read_migration_nic);
    let datastores = root.named("datastore", limits::HOST_DATASTORES_MAX);
    let datastores: Vec<_> = datastores.into_iter().map(|(name, s)| read_datastore(name, s)).collect();
    let watchdog = root.text("watchdog");
    let log_level = root.parsed("log_level").unwrap_or_default();
    root.finish();
    Some(HostConfig {
        hostname: hostname?,
        management: transposed(management)?,
        storage_nics: storage.into_iter().collect::<Option<_>>()?,
        vswitches,
        port_groups: port_groups.into_iter().collect::<Option<_>>()?,
        migration_nic: transposed(migration_nic)?,
        datastores: datastores.into_iter().collect::<Option<_>>()?,
        watchdog,
        log_level,
    })
}

/// An absent section is fine, one with an error is not.
fn transposed<T>(section: Option<Option<T>>) -> Option<Option<T>> {
    match section {
        None => Some(None),
        Some(None) => None,
        Some(read) => Some(read),
    }
}

fn gateway(section: &mut Section<'_>) -> Option<IpAddr> {
    section.parsed("gateway").map(|Address(address)| address)
}

fn read_management(mut section: Section<'_>) -> Option<Management> {
    let nic = section.required("nic", "eth0");
    let address = section.parsed("address");
    let gateway = gateway(&mut section);
    let valid = address.is_some() || !section.has("address");
    section.finish();
    valid.then_some(())?;
    Some(Management { nic: nic?, address: address.unwrap_or(AddressSource::Dhcp), gateway })
}

fn read_vswitch(name: VswitchName, mut section: Section<'_>) -> Vswitch {
    let uplink = section.parsed("uplink");
    let mtu = section.integer("mtu", 1280..=9216).and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500);
    section.finish();
    Vswitch { name, uplink, mtu }
}

fn vlan(section: &mut Section<'_>) -> Option<u16> {
    section.integer("vlan", 1..=4094).and_then(|vlan| u16::try_from(vlan).ok())
}

fn read_port_group(name: PortGroupName, vswitches: &[Vswitch], mut section: Section<'_>) -> Option<PortGroup> {
    let vswitch: Option<VswitchName> = section.required("vswitch", "vs0");
    if let Some(vswitch) = &vswitch
        && !vswitches.iter().any(|known| known.name == *vswitch)
    {
        section.error("vswitch", format!("there is no [vswitch.{vswitch}]"));
    }
    let vlan = vlan(&mut section);
    section.finish();
    Some(PortGroup { name, vswitch: vswitch?, vlan })
}

fn read_migration_nic(mut section: Section<'_>) -> Option<MigrationNic> {
    let nic = section.required("nic", "eth1");
    let address = section.required("address", "10.0.0.11/24");
    let gateway = gateway(&mut section);
    let vlan = vlan(&mut section);
    let mtu = section.integer("mtu", 1280..=9216).and_then(|mtu| u16::try_from(mtu).ok());
    let port = section.integer("port", 1..=65535).and_then(|port| u16::try_from(port).ok()).unwrap_or(7780);
    section.finish();
    Some(MigrationNic { nic: nic?, address: address?, gateway, vlan, mtu, port })
}

fn read_datastore(name: DatastoreName, mut section: Section<'_>) -> Option<Datastore> {
    let kind = section.text("kind").unwrap_or_else(|| "nfs".to_owned());
    let kind = match kind.as_str() {
        "nfs" => read_nfs(&mut section),
        "directory" => {
            let path = section.required_text("path", "/mnt/lab");
            if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
                section.error("path", "must be absolute, like \"/mnt/lab\"");
            }
            path.map(|path| DatastoreKind::Directory { path })
        }
        other => {
            section.error("kind", format!("\"{other}\" is not valid: write \"nfs\" or \"directory\""));
            None
        }
    };
    section.finish();
    Some(Datastore { name, kind: kind? })
}

fn read_nfs(section: &mut Section<'_>) -> Option<DatastoreKind> {
    let server = section.required("server", "192.168.0.2").map(|Address(address)| address);
    let port = section.integer("port", 1..=65535).and_then(|port| u16::try_from(port).ok()).unwrap_or(2049);
    let export = section.required_text("export", "/lab");
    if export.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains([',', '\0'])) {
        section.error("export", "must be absolute, without commas and zero bytes, like \"/lab\"");
    }
    let version = section.parsed("version").unwrap_or_default();
    Some(DatastoreKind::Nfs { server: server?, port, export: export?, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = r#"
hostname = "host-a"
[management]
nic = "52:54:00:00:00:01"
address = "192.168.0.11/24"
[vswitch.vs0]
uplink = "0000:00:05.0"
[port_group.lab]
vswitch = "vs0"
vlan = 10
[migration_nic]
nic = "eth1"
address = "10.0.0.11/24"
[datastore.lab]
server = "192.168.0.2"
export = "/lab"
"#;

    #[test]
    fn a_host_is_configured_by_files_and_then_by_words() {
        let mut layers = Layers::new("defaults", "log_level = \"warn\"\n").expect("TOML");
        layers.file("godwit/host.toml", HOST).expect("TOML");
        layers.kernel_words("quiet godwit.hostname=host-b godwit.datastore.lab.port=20490").expect("words");
        let config = layers.read().expect("valid");
        assert_eq!(config.hostname.as_str(), "host-b");
        assert_eq!(config.log_level, LogLevel::Warn);
        let DatastoreKind::Nfs { port, version, .. } = &config.datastores[0].kind else { panic!("NFS") };
        assert_eq!((*port, *version), (20490, NfsVersion::V4_1));
        assert_eq!(config.vswitches[0].uplink, Some(NicSelector::Pci("0000:00:05.0".to_owned())));
    }

    #[test]
    fn every_bad_value_says_what_is_allowed() {
        for (key, bad, allowed) in [
            ("hostname", "Host", "1 to 48 lower-case letters"),
            ("log_level", "loud", "\"error\" \"warn\" \"info\" \"debug\""),
            ("management.nic", "a-name-that-is-too-long", "1 to 15 characters"),
            ("management.address", "10.0.0.1/64", "0 to 32 for IPv4"),
            ("management.address", "10.0.0.1/x", "0 to 32 for IPv4"),
            ("management.address", "fd00::1/129", "0 to 128 for IPv6"),
            ("management.address", "10.0.0.1", "0 to 32 for IPv4"),
            ("management.address", "DHCP", "\"dhcp\""),
            ("management.gateway", "router", "192.168.0.1 or fd00::1"),
            ("vswitch.vs0.uplink", "eth/0", "1 to 15 characters"),
            ("vswitch.vs0.mtu", "1279", "1280 to 9216"),
            ("port_group.lab.vlan", "4095", "1 to 4094"),
            ("migration_nic.address", "10.0.0.11/33", "0 to 32 for IPv4"),
            ("migration_nic.gateway", "10.0.0.1/24", "192.168.0.1 or fd00::1"),
            ("migration_nic.mtu", "x", "1280 to 9216"),
            ("migration_nic.port", "65536", "1 to 65535"),
            ("datastore.lab.kind", "smb", "\"nfs\" or \"directory\""),
            ("datastore.lab.server", "nas", "192.168.0.1 or fd00::1"),
            ("datastore.lab.port", "0", "1 to 65535"),
            ("datastore.lab.export", "lab", "absolute"),
            ("datastore.lab.version", "4", "\"3\" \"4.1\" \"4.2\""),
        ] {
            let mut layers = Layers::new("godwit/host.toml", HOST).expect("TOML");
            layers.kernel_words(&format!("godwit.{key}={bad}")).expect("words");
            let errors = layers.read().expect_err(bad);
            let told = errors.iter().any(|error| error.key == key && error.problem.contains(allowed));
            assert!(told, "{key}={bad}: {errors:?}");
        }
    }

    #[test]
    fn two_datastores_of_one_name_in_a_file_are_told_with_their_name_and_the_line_of_the_second() {
        let text = "hostname = \"host-a\"\n[datastore.lab]\nkind = \"directory\"\npath = \"/a\"\n[datastore.lab]\n\
                    kind = \"directory\"\npath = \"/b\"\n";
        let mut layers = Layers::new("defaults", "").expect("TOML");
        let error = layers.file("godwit/host.toml", text).expect_err("twice").to_string();
        assert_eq!(
            error,
            "godwit/host.toml line 5: datastore.lab: stands here for the second time; give one of the two another name, or \
             remove it"
        );
    }

    #[test]
    fn every_error_names_its_layer() {
        let mut layers = Layers::new("defaults", "").expect("TOML");
        layers.file("godwit/host.toml", HOST).expect("TOML");
        layers.kernel_words("godwit.port_group.lab.vlan=5000 godwit.migration_nic.adress=1").expect("words");
        layers.file("hosts/host-a.toml", "[port_group.dmz]\nvswitch = \"vs1\"\n").expect("TOML");
        let errors: Vec<String> = layers.read().expect_err("invalid").iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "hosts/host-a.toml line 2: port_group.dmz.vswitch: there is no [vswitch.vs1]",
                "kernel command line line 1: port_group.lab.vlan: 5000 is out of range: 1 to 4094",
                "kernel command line line 1: migration_nic.adress: is not a known key; did you mean \"address\"?",
            ]
        );
    }
}
