//! Which module serves which device: the patterns of `modules.alias` against the `modalias` of each device in /sys.

use std::collections::{BTreeMap, BTreeSet};

/// True if `name` matches the shell pattern `pattern` of `modules.alias`: `*`, `?` and `[a-z]` sets.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to resume after the last `*`: the pattern position behind it and the name position it has eaten up to.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'[') => set(&pattern[p..], name[n]),
            Some(b'?') => Some(1),
            Some(byte) if *byte == name[n] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((after_star, eaten))) => {
                p = after_star;
                n = eaten + 1;
                retry = Some((after_star, eaten + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the `[...]` set at the start of `pattern` if it holds `byte`.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let members = &pattern[1..end];
    let mut at = 0;
    while at < members.len() {
        let (low, high, length) = match members.get(at..at + 3) {
            Some([low, b'-', high]) => (*low, *high, 3),
            _ => (members[at], members[at], 1),
        };
        if (low..=high).contains(&byte) {
            return Some(end + 1);
        }
        at += length;
    }
    None
}

/// The patterns of `modules.alias`, grouped by bus (`pci:`, `usb:`, ...).
#[derive(Default)]
pub(super) struct Aliases {
    by_bus: BTreeMap<String, Vec<(String, String)>>,
    exact: BTreeMap<String, Vec<String>>,
}

impl Aliases {
    /// Reads the text of `modules.alias`: lines of `alias PATTERN MODULE`.
    pub(super) fn parse(text: &str) -> Self {
        let mut aliases = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                aliases.add(pattern, module);
            }
        }
        aliases
    }

    fn add(&mut self, pattern: &str, module: &str) {
        match pattern.split_once(':') {
            Some((bus, _)) => {
                // ACPI drivers match `acpi*:`, which is no bus by name: those are tried on every device.
                let bus = if bus.contains(['*', '?', '[']) { "" } else { bus };
                self.by_bus.entry(bus.to_owned()).or_default().push((pattern.to_owned(), module.to_owned()));
            }
            None => self.exact.entry(pattern.to_owned()).or_default().push(module.to_owned()),
        }
    }

    /// Modules that serve a device with this modalias.
    pub(super) fn modules_for(&self, modalias: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        if let Some((bus, _)) = modalias.split_once(':') {
            let patterns = [bus, ""].into_iter().filter_map(|bus| self.by_bus.get(bus)).flatten();
            for (pattern, module) in patterns {
                if matches(pattern.as_bytes(), modalias.as_bytes()) {
                    found.insert(module.clone());
                }
            }
        }
        found.extend(self.exact.get(modalias).into_iter().flatten().cloned());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(pattern: &str, name: &str) -> bool {
        matches(pattern.as_bytes(), name.as_bytes())
    }

    #[test]
    fn a_device_finds_its_module_by_the_patterns_of_depmod() {
        let aliases = Aliases::parse(
            "# Aliases extracted from modules themselves.\n\
             alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
             alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
             alias cpu:type:x86,ven*fam*mod*:feature:*00C2* kvm_amd\n\
             alias nfs4 nfsv4\n\
             alias acpi*:PNP0C0C:* button\n\
             alias hid:b0003g*v0000046Dp0000C2[0-4]9 hid_lg\n",
        );
        let of = |name: &str| aliases.modules_for(name).into_iter().collect::<Vec<_>>();
        assert_eq!(of("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"), ["e1000e"]);
        assert_eq!(of("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"), ["ahci"]);
        assert_eq!(of("cpu:type:x86,ven0002fam0017mod0001:feature:,0000,00C2,00C4"), ["kvm_amd"]);
        assert_eq!(of("cpu:type:x86,ven0002fam0017mod0001:feature:,0000,00C4"), [""; 0]);
        assert_eq!(of("nfs4"), ["nfsv4"]);
        assert_eq!(of("acpi:PNP0C0C:"), ["button"]);
        assert_eq!(of("hid:b0003g0001v0000046Dp0000C239"), ["hid_lg"]);
        assert_eq!(of("hid:b0003g0001v0000046Dp0000C259"), [""; 0]);
    }

    #[test]
    fn patterns_backtrack_and_end_where_the_name_ends() {
        assert!(hit("a*b*c", "aXbXbXc"));
        assert!(!hit("a*b*c", "aXbXbX"));
        assert!(hit("*", ""));
        assert!(hit("a?c", "abc"));
        assert!(!hit("a?c", "ac"));
        assert!(!hit("a", "ab"));
        assert!(!hit("[", "["), "an open set matches nothing and does not panic");
    }
}
