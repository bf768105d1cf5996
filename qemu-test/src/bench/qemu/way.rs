//! The ways in which QEMU is used.

use std::path::Path;

use serde_json::{Value, json};

use crate::bench::case::Case;
use crate::child::Child;
use crate::error::{Doing, Result};

/// More than any link here carries, bytes a second: QEMU's default is 128 MiB/s.
const BANDWIDTH_MAX: u64 = 100_000_000_000;
/// Connections of multifd.
const CHANNELS: u32 = 4;
/// QEMU's name of the key that both ends know.
const CREDENTIALS: &str = "tls0";
/// The name of the file that it looks for in the folder of its keys.
pub(super) const KEY_FILE: &str = "keys.psk";

/// How QEMU is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Way {
    /// Machine type q35, moved over one TCP connection (its default) or over [`CHANNELS`] of multifd, in the clear or by TLS.
    Q35 { multifd: bool, tls: bool },
    /// Machine type microvm, only started.
    MicroVm,
}

impl Way {
    /// Those that move guests.
    pub(in crate::bench) const MOVING: [Self; 4] = [
        Self::Q35 { multifd: false, tls: false },
        Self::Q35 { multifd: false, tls: true },
        Self::Q35 { multifd: true, tls: false },
        Self::Q35 { multifd: true, tls: true },
    ];

    fn has_multifd(self) -> bool {
        matches!(self, Self::Q35 { multifd: true, .. })
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Q35 { tls: true, .. })
    }

    /// As a reader of the page sees it.
    pub(super) fn name(self) -> String {
        let Self::Q35 { multifd, tls } = self else { return "QEMU microvm, qboot".into() };
        let connections = if multifd { format!("multifd {CHANNELS}") } else { "TCP".into() };
        format!("QEMU q35, {connections}{}", if tls { ", TLS" } else { "" })
    }

    /// The words of QEMU's command line at an end (0 or 1), but for where its guest's serial port and its control
    /// protocol are: `kernel` is the witness, `keys` the folder of the key, as that QEMU sees them.
    pub(super) fn words(self, case: Case, end: usize, kernel: &Path, keys: &Path) -> Vec<String> {
        let machine = if self == Self::MicroVm { "microvm" } else { "q35" };
        // `-cpu host` alone fails where the kernel does not let a guest read IA32_ARCH_CAPABILITIES.
        let usual = ["-accel", "kvm", "-M", machine, "-cpu", "host,-arch-capabilities", "-smp", "1"];
        let bare = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"];
        let mut words: Vec<String> = usual.into_iter().chain(bare).map(str::to_owned).collect();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("-m", case.memory_mib.to_string());
        option("-append", case.cmdline());
        option("-kernel", kernel.display().to_string());
        if self == Self::MicroVm {
            // Its default firmware takes many times as long where ring 0 is emulated.
            option("-bios", "qboot.rom".into());
        }
        if self.has_tls() {
            let endpoint = if end == 0 { "client" } else { "server" };
            option("-object", format!("tls-creds-psk,id={CREDENTIALS},endpoint={endpoint},dir={}", keys.display()));
        }
        if end == 1 {
            option("-incoming", "defer".into());
        }
        words
    }

    /// What both ends must agree on: the capabilities and the parameters of a move.
    pub(super) fn agreement(self, case: Case) -> [(&'static str, Value); 2] {
        let capabilities = [("events", true), ("auto-converge", true), ("multifd", self.has_multifd())];
        let capabilities = capabilities.map(|(name, state)| json!({ "capability": name, "state": state }));
        let mut parameters = json!({ "downtime-limit": case.stun_ms_max, "max-bandwidth": BANDWIDTH_MAX });
        if self.has_multifd() {
            parameters["multifd-channels"] = json!(CHANNELS);
        }
        if self.has_tls() {
            parameters["tls-creds"] = json!(CREDENTIALS);
        }
        [("migrate-set-capabilities", json!({ "capabilities": capabilities })), ("migrate-set-parameters", parameters)]
    }
}

/// A new key that both ends are to know, as they read it from [`KEY_FILE`] (gnutls' `psktool` writes such files).
pub(super) fn new_key() -> Result<String> {
    let mut key = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut key))
        .doing("drawing a key")?;
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("qemu:{key}"))
}

/// QEMU's version, as it says it: `10.0.2 (Debian 1:10.0.2+ds-2)`.
pub(in crate::bench) fn version() -> Result<String> {
    let said = Child::new("qemu-system-x86_64", ["--version"]).output()?;
    let version =
        said.lines().next().and_then(|line| line.split_once("version ")).map(|(_, version)| version.to_owned());
    version.ok_or(std::io::ErrorKind::InvalidData).doing("reading QEMU's version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case;

    #[test]
    fn each_way_says_what_it_is_to_the_reader_and_to_both_ends() {
        let case = case::nested()[0];
        let names = Way::MOVING.map(Way::name);
        assert_eq!(names, ["QEMU q35, TCP", "QEMU q35, TCP, TLS", "QEMU q35, multifd 4", "QEMU q35, multifd 4, TLS"]);
        for way in Way::MOVING {
            let [source, destination] =
                [0, 1].map(|end| way.words(case, end, Path::new("/witness"), Path::new("/keys")));
            let is_incoming = |words: &[String]| words.ends_with(&["-incoming".into(), "defer".into()]);
            assert!(is_incoming(&destination) && !is_incoming(&source));
            let ends = [(&source, "endpoint=client"), (&destination, "endpoint=server")];
            for (words, endpoint) in ends {
                assert_eq!(words.iter().any(|word| word.contains(endpoint)), way.name().contains("TLS"), "{words:?}");
            }
            let [(_, capabilities), (_, parameters)] = way.agreement(case);
            assert_eq!(capabilities.to_string().contains(r#""multifd","state":true"#), way.name().contains("multifd"));
            assert_eq!(parameters["downtime-limit"], case.stun_ms_max);
            assert_eq!(parameters.get("tls-creds").is_some(), way.name().contains("TLS"));
        }
    }
}
