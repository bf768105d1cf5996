//! Names of things: each type holds only what may name such a thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text_type::text_type;

/// Why a text cannot name a thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(&'static str);

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $max:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        text_type!($type, "name");

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let allowed: fn(char) -> bool = $allowed;
                let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                let valid = text.len() <= $max
                    && edge(text.chars().next())
                    && edge(text.chars().next_back())
                    && text.chars().all(allowed);
                if valid { Ok(Self(text.to_owned())) } else { Err(NameError($rule)) }
            }
        }
    };
}

name!(
    /// The name of a VM, and of its folder on the datastore: 1 to 48 letters, digits, `-`, `_` and `.`.
    VmName, 48, |c| c.is_ascii_alphanumeric() || "-_.".contains(c),
    "a VM name has 1 to 48 letters, digits, '-', '_' and '.', and starts and ends with a letter or digit"
);
name!(
    /// The name of a host: one label of RFC 1123, 1 to 48 lower-case letters, digits and `-`.
    HostName, 48, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "a host name has 1 to 48 lower-case letters, digits and '-', and starts and ends with a letter or digit"
);
name!(
    /// The name of a datastore: 1 to 32 letters, digits, `-` and `_`.
    DatastoreName, 32, |c| c.is_ascii_alphanumeric() || "-_".contains(c),
    "a datastore name has 1 to 32 letters, digits, '-' and '_', and starts and ends with a letter or digit"
);
name!(
    /// The name of a vswitch, which is also the name of its bridge: 1 to 12 letters, digits, `-` and `_`.
    VswitchName, 12, |c| c.is_ascii_alphanumeric() || "-_".contains(c),
    "a vswitch name has 1 to 12 letters, digits, '-' and '_', and starts and ends with a letter or digit"
);
name!(
    /// The label of a port group: 1 to 48 letters, digits, spaces, `-`, `_` and `.`; compared to the letter.
    PortGroupName, 48, |c| c.is_ascii_alphanumeric() || " -_.".contains(c),
    "a port group label has 1 to 48 letters, digits, spaces, '-', '_' and '.', and starts and ends with a letter or digit"
);

/// A MAC address that may name one NIC: unicast and not zero. Shown as `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of these six bytes.
    ///
    /// # Errors
    /// The address is a group address (lowest bit of the first byte set) or all zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, NameError> {
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(NameError("a NIC's MAC address is not zero and not a group address (the first byte is even)"));
        }
        Ok(Self(bytes))
    }

    /// The six bytes in the order of transmission.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<String> for MacAddress {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl FromStr for MacAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const FORM: NameError = NameError("write a MAC address as six pairs of hex digits: 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(FORM)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| FORM)?;
        }
        if parts.next().is_some() { Err(FORM) } else { Self::new(bytes) }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_its_folder_is_refused() {
        for text in ["", ".", "..", "a/b", "../a", "a/", "-a", "a-", "a\0", "ä", &"a".repeat(49)] {
            assert!(text.parse::<VmName>().is_err(), "{text:?}");
        }
        assert!("web-1.lab".parse::<VmName>().is_ok());
    }

    #[test]
    fn only_a_unicast_mac_address_names_a_nic() {
        assert_eq!(
            "52:54:00:12:34:56".parse::<MacAddress>().map(|m| m.to_string()),
            Ok("52:54:00:12:34:56".to_owned())
        );
        for text in
            ["53:54:00:12:34:56", "00:00:00:00:00:00", "52:54:00:12:34", "52:54:00:12:34:56:78", "+2:54:00:12:34:56"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
