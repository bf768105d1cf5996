//! The configuration as the text of a `host.toml` that says the same.

use std::fmt::{self, Display};

use super::{Datastore, DatastoreKind, HostConfig, Management};

/// Lines of one section. Texts are quoted as TOML wants it, which for what a valid configuration holds is Rust's way too.
struct Lines<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Lines<'_, '_> {
    fn section(&mut self, name: &str) -> fmt::Result {
        write!(self.0, "\n[{name}]\n")
    }

    fn text(&mut self, key: &str, value: impl Display) -> fmt::Result {
        writeln!(self.0, "{key} = {:?}", value.to_string())
    }

    fn some(&mut self, key: &str, value: Option<impl Display>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.text(key, value))
    }

    fn number(&mut self, key: &str, value: Option<u16>) -> fmt::Result {
        value.map_or(Ok(()), |value| writeln!(self.0, "{key} = {value}"))
    }

    fn management(&mut self, section: &str, management: &Management) -> fmt::Result {
        self.section(section)?;
        self.text("nic", &management.nic)?;
        self.text("address", management.address)?;
        self.some("gateway", management.gateway)
    }

    fn datastore(&mut self, Datastore { name, kind }: &Datastore) -> fmt::Result {
        self.section(&format!("datastore.{name}"))?;
        match kind {
            DatastoreKind::Nfs { server, port, export, version } => {
                self.text("kind", "nfs")?;
                self.text("server", server)?;
                self.number("port", Some(*port))?;
                self.text("export", export)?;
                self.text("version", version)
            }
            DatastoreKind::Directory { path } => {
                self.text("kind", "directory")?;
                self.text("path", path)
            }
        }
    }
}

/// The text, with every value that is in force. Storage networks are numbered: their own names are not kept.
impl Display for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Lines(f);
        lines.text("hostname", &self.hostname)?;
        lines.text("log_level", self.log_level)?;
        lines.some("watchdog", self.watchdog.as_ref())?;
        if let Some(management) = &self.management {
            lines.management("management", management)?;
        }
        for (n, storage) in self.storage_nics.iter().enumerate() {
            lines.management(&format!("storage_nic.storage{n}"), storage)?;
        }
        for vswitch in &self.vswitches {
            lines.section(&format!("vswitch.{}", vswitch.name))?;
            lines.some("uplink", vswitch.uplink.as_ref())?;
            lines.number("mtu", Some(vswitch.mtu))?;
        }
        for group in &self.port_groups {
            lines.section(&format!("port_group.{:?}", group.name.as_str()))?;
            lines.text("vswitch", &group.vswitch)?;
            lines.number("vlan", group.vlan)?;
        }
        if let Some(nic) = &self.migration_nic {
            lines.section("migration_nic")?;
            lines.text("nic", &nic.nic)?;
            lines.text("address", nic.address)?;
            lines.some("gateway", nic.gateway)?;
            lines.number("vlan", nic.vlan)?;
            lines.number("mtu", nic.mtu)?;
            lines.number("port", Some(nic.port))?;
        }
        self.datastores.iter().try_for_each(|datastore| lines.datastore(datastore))
    }
}

#[cfg(test)]
mod tests {
    use crate::host_config::Layers;

    #[test]
    fn the_shown_configuration_is_a_host_toml_that_says_the_same() {
        let text = r#"
hostname = "host-a"
watchdog = "/dev/watchdog0"
[management]
nic = "52:54:00:00:00:01"
address = "192.168.0.11/24"
gateway = "192.168.0.1"
[storage_nic.nfs]
nic = "0000:00:04.0"
[vswitch.vs0]
uplink = "eth2"
mtu = 9000
[vswitch.inner]
[port_group."web front"]
vswitch = "vs0"
vlan = 10
[migration_nic]
nic = "eth1"
address = "fd00::11/64"
mtu = 9000
[datastore.lab]
server = "192.168.0.2"
export = "/lab \"x\""
version = "3"
[datastore.own]
kind = "directory"
path = "/mnt"
"#;
        let read = |text: &str| Layers::new("host.toml", text).expect("TOML").read().expect("valid");
        let config = read(text);
        assert_eq!(read(&config.to_string()), config, "{config}");
    }
}
