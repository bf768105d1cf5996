//! Installs what is missing on Debian 12 or 13.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::needs::{NEEDS, Need, Purpose, RUST_TARGETS};
use crate::child::Child;
use crate::error::{Doing, LabError, Result};

const SOURCES: &str = "/etc/apt/sources.list.d";
/// What Debian's packages ask before they start a service (Debian policy, invoke-rc.d).
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/godwit-backports.sources";

/// Makes sure that everything for these purposes is there: installs what is missing and says what, or says why it cannot
/// and what to install.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    ensure_rust_targets()?;
    if missing(purposes).is_empty() {
        return Ok(());
    }
    let _alone = one_at_a_time()?;
    // Another run may have installed it while this one waited.
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    let still: Vec<&str> = self::missing(purposes).iter().map(|need| need.package).collect();
    if still.is_empty() {
        return Ok(());
    }
    Err(LabError::Missing {
        what: format!("apt installed {}, and yet what they bring was not found", still.join(", ")),
        hint: "look at what `dpkg -L` says of these packages".into(),
    })
}

/// The suite that brings newer kernels and QEMU to this release, if it needs one (Debian 12).
pub fn backports_suite() -> Option<String> {
    (codename().as_deref() == Some("bookworm")).then(|| "bookworm-backports".to_owned())
}

/// This machine's release and, where apt's sources name one, the mirror that it comes from.
pub fn apt_source() -> Result<(String, Option<String>)> {
    let suite = codename().ok_or_else(|| LabError::Input("/etc/os-release names no release of Debian".into()))?;
    let known = known_sources()?;
    let mirror = known.split("\n\n").find_map(|stanza| {
        let uri = stanza.lines().find_map(|line| line.strip_prefix("URIs:"))?;
        let has_suite =
            stanza.lines().any(|line| line.starts_with("Suites:") && line.split_whitespace().any(|word| word == suite));
        has_suite.then(|| uri.split_whitespace().next().map(str::to_owned))?
    });
    let one_line = || {
        let line =
            known.lines().find(|line| line.starts_with("deb ") && line.split_whitespace().any(|word| word == suite))?;
        line.split_whitespace().find(|word| word.contains("://")).map(str::to_owned)
    };
    Ok((suite.clone(), mirror.or_else(one_line)))
}

fn known_sources() -> Result<String> {
    let mut known = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir(SOURCES).at("reading", Path::new(SOURCES))?.flatten() {
        let kind = entry.path().extension().map(|kind| kind.to_string_lossy().into_owned());
        if matches!(kind.as_deref(), Some("sources" | "list")) {
            known += "\n\n";
            known += &fs::read_to_string(entry.path()).unwrap_or_default();
        }
    }
    Ok(known)
}

fn missing(purposes: &[Purpose]) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| purposes.contains(&need.purpose) && !need.is_met()).collect()
}

fn install(missing: &[&Need]) -> Result<()> {
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if codename().is_none_or(|name| name != "bookworm" && name != "trixie") {
        return Err(LabError::Missing {
            what: format!("this is not Debian 12 or 13, and it lacks {}", names.join(", ")),
            hint: format!("install what brings these (on Debian: {by_hand})"),
        });
    }
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Missing {
            what: format!("missing: {}", names.join(", ")),
            hint: format!("sudo {by_hand}"),
        });
    }
    println!("setup: installing {}", names.join(", "));
    ensure_backports()?;
    apt(&["update"]).run()?;
    let _quiet = NoServices::while_installing()?;
    let backports = backports_suite();
    let (newer, plain): (Vec<&Need>, Vec<&Need>) =
        missing.iter().copied().partition(|need| need.from_backports && backports.is_some());
    for (needs, suite) in [(plain, None), (newer, backports)] {
        if needs.is_empty() {
            continue;
        }
        let mut install = apt(&["install", "-y", "--no-install-recommends"]);
        if let Some(suite) = suite {
            install = install.arg("-t").arg(suite);
        }
        needs.iter().fold(install, |install, need| install.arg(need.package)).run()?;
    }
    Ok(())
}

/// Debian starts a service when its package is installed (an NFS server on the machine's own port, here); while this lives
/// it does not: the policy file that Debian's packages ask says no.
struct NoServices {
    written: bool,
}

impl NoServices {
    fn while_installing() -> Result<Self> {
        let path = Path::new(SERVICE_POLICY);
        if path.exists() {
            return Ok(Self { written: false });
        }
        fs::write(path, "#!/bin/sh\nexit 101\n").at("writing", path)?;
        fs::set_permissions(path, Permissions::from_mode(0o755)).at("writing", path)?;
        Ok(Self { written: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.written {
            let _ = fs::remove_file(SERVICE_POLICY);
        }
    }
}

/// An apt-get that waits for another one and asks nothing.
fn apt(arguments: &[&str]) -> Child {
    let quiet = ["-q", "-o", "DPkg::Lock::Timeout=600"];
    Child::new("apt-get", quiet.iter().chain(arguments)).env("DEBIAN_FRONTEND", "noninteractive")
}

/// Makes the backports suite known to apt on Debian 12; it is pinned low, so nothing else changes.
fn ensure_backports() -> Result<()> {
    let Some(suite) = backports_suite() else { return Ok(()) };
    let known = known_sources()?;
    if known.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(&suite)) {
        return Ok(());
    }
    let stanza = backports_stanza(&known, &suite).ok_or_else(|| LabError::Missing {
        what: format!("apt knows no source that {suite} could be derived from"),
        hint: format!("add the suite {suite} to /etc/apt/sources.list"),
    })?;
    println!("setup: adding {suite} to apt's sources ({BACKPORTS_FILE})");
    fs::write(BACKPORTS_FILE, stanza).at("writing", Path::new(BACKPORTS_FILE))
}

/// A stanza for `suite` from the mirror that apt uses already, in whichever of its two formats that is written.
fn backports_stanza(known: &str, suite: &str) -> Option<String> {
    let deb822 = known.split("\n\n").find(|stanza| {
        let is = |key: &str, value: &str| stanza.lines().any(|line| line.starts_with(key) && line.contains(value));
        is("Types:", "deb") && is("Suites:", "bookworm") && !is("Suites:", "security")
    });
    if let Some(stanza) = deb822 {
        let kept = stanza.lines().filter(|line| !line.starts_with("Suites:") && !line.starts_with('#'));
        let kept: Vec<&str> = kept.filter(|line| !line.trim().is_empty()).collect();
        return Some(format!("{}\nSuites: {suite}\n", kept.join("\n")));
    }
    let line = known.lines().find(|line| line.starts_with("deb ") && line.contains(" bookworm "))?;
    let mirror = line.split_whitespace().find(|word| word.contains("://"))?;
    Some(format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"))
}

fn ensure_rust_targets() -> Result<()> {
    // Without rustup the toolchain came from elsewhere; a missing target then shows as the compiler's own error.
    let installed =
        Child::new("rustup", ["target", "list", "--installed"]).in_folder(Path::new(env!("CARGO_MANIFEST_DIR")));
    let Ok(installed) = installed.output() else { return Ok(()) };
    for target in RUST_TARGETS.iter().filter(|target| !installed.lines().any(|line| line == **target)) {
        println!("setup: adding the Rust target {target}");
        Child::new("rustup", ["target", "add", target]).in_folder(Path::new(env!("CARGO_MANIFEST_DIR"))).run()?;
    }
    Ok(())
}

/// Two set-ups at once would fight over apt; the lock ends with the file's descriptor.
fn one_at_a_time() -> Result<File> {
    let path = std::env::temp_dir().join("godwit-lab-setup.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).at("opening", &path)?;
    flock(&file, FlockOperation::LockExclusive).at("locking", &path)?;
    Ok(file)
}

fn codename() -> Option<String> {
    let about = fs::read_to_string("/etc/os-release").ok()?;
    about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_the_mirror_that_apt_uses_in_either_format() {
        let new = "Types: deb\n# snapshot\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                   Components: main\nSigned-By: /usr/share/keyrings/d.gpg\n\nTypes: deb\nSuites: bookworm-security\n";
        let stanza = backports_stanza(new, "bookworm-backports").unwrap();
        assert!(stanza.contains("URIs: http://mirror.example/debian\n"), "{stanza}");
        assert!(stanza.contains("Suites: bookworm-backports\n") && !stanza.contains("bookworm-updates"), "{stanza}");
        assert!(stanza.contains("Signed-By:"), "{stanza}");
        let old = "deb [arch=amd64] http://old.example/debian bookworm main contrib\n";
        assert!(backports_stanza(old, "bookworm-backports").unwrap().contains("URIs: http://old.example/debian\n"));
        assert_eq!(backports_stanza("", "bookworm-backports"), None);
    }
}
