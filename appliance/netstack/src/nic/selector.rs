//! Which interface is meant: by MAC address, PCI address or name.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use super::link;
use super::socket::NicError;
use super::syscall;

/// Names the migration NIC as an operator does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicSelector {
    /// The hardware address.
    Mac([u8; 6]),
    /// The PCI address in the kernel's long form, `0000:00:03.0`.
    Pci(String),
    /// The kernel's name, at most 15 bytes.
    Name(String),
}

/// Text that is no NIC selector.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither a MAC address (52:54:00:12:34:56), a PCI address (0000:00:03.0) nor an interface name")]
pub struct BadSelector(String);

impl FromStr for NicSelector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if let Some(mac) = parse_mac(text) {
            return Ok(Self::Mac(mac));
        }
        if is_pci_address(text) {
            return Ok(Self::Pci(text.to_ascii_lowercase()));
        }
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if text.is_empty() || text.len() > 15 || !printable || text == "." || text == ".." {
            return Err(BadSelector(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for NicSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(out, "MAC {}", format_mac(*mac)),
            Self::Pci(address) => write!(out, "PCI {address}"),
            Self::Name(name) => out.write_str(name),
        }
    }
}

/// `52:54:00:12:34:56`.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn is_pci_address(text: &str) -> bool {
    let shape = "hhhh:hh:hh.h";
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(c, s)| if s == b'h' { c.is_ascii_hexdigit() } else { c == s })
}

/// An interface that a selector led to.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
}

/// Finds the one Ethernet interface of this network namespace that `selector` names.
pub(crate) fn find(control: BorrowedFd<'_>, selector: &NicSelector) -> Result<Found, NicError> {
    let mut present = Vec::new();
    for (index, name) in syscall::interfaces() {
        // An interface may vanish between two calls, and loopback is no Ethernet: neither is an error here.
        let Ok(Some(mac)) = syscall::hardware_address(control, &name) else { continue };
        if name == "lo" {
            continue;
        }
        let chosen = match selector {
            NicSelector::Mac(wanted) => *wanted == mac,
            NicSelector::Name(wanted) => *wanted == name,
            NicSelector::Pci(wanted) => link::bus_address(control, &name).is_ok_and(|bus| bus == *wanted),
        };
        if chosen {
            return Ok(Found { index, name, mac });
        }
        present.push(format!("{name} ({})", format_mac(mac)));
    }
    Err(NicError::NotFound { selector: selector.clone(), present: present.join(", ") })
}

impl From<BadSelector> for io::Error {
    fn from(error: BadSelector) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_told_by_its_shape() {
        assert_eq!("52:54:00:12:34:5F".parse(), Ok(NicSelector::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])));
        assert_eq!("0000:00:03.0".parse(), Ok(NicSelector::Pci("0000:00:03.0".into())));
        assert_eq!("enp3s0".parse(), Ok(NicSelector::Name("enp3s0".into())));
        assert_eq!(NicSelector::Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f]).to_string(), "MAC 52:54:00:12:34:5f");
    }

    #[test]
    fn what_names_no_nic_is_refused() {
        for text in ["", "a/b", "..", "an-interface-name-too-long", "52:54:00:12:34", "+2:54:00:12:34:56"] {
            assert!(text.parse::<NicSelector>().is_err(), "{text:?} was accepted");
        }
    }
}
