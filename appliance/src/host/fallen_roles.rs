//! Tells the consoles when a role fell and `init` started it again: who sees VMs run on asks for no log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::api::init::{self, InitRequest, RoleReport};
use crate::api::paths::RunDir;
use crate::host::control_plane::ControlPlane;
use crate::journal;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// A role that falls again within this time is told of at its end, once for all; one that does not, runs steadily.
const AGAIN: Duration = Duration::from_secs(60);

/// Looks at the roles of this host for ever.
pub fn keep(plane: &ControlPlane) {
    let mut falls = Falls::of_this_boot(&plane.run_dir);
    loop {
        // Without `init`, as in a native test, nobody starts a role again.
        if let Ok(roles) = init::ask(&plane.run_dir, InitRequest::Report) {
            for news in falls.look(&roles, Instant::now()) {
                match news {
                    News::Fell(text) => log::warn!("{text}"),
                    News::Steady(text) => log::info!(target: journal::NEWS, "{text}"),
                }
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// What a person is told.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Fell(String),
    Steady(String),
}

/// What was told of a role by this process.
#[derive(Debug)]
struct Told {
    at: Instant,
    /// It fell again and again.
    often: bool,
}

/// The falls that were told.
#[derive(Debug)]
struct Falls {
    /// How many, by the title of the role: for the next control plane of this boot, which may have fallen itself.
    file: PathBuf,
    counted: BTreeMap<String, u32>,
    told: BTreeMap<String, Told>,
}

impl Falls {
    fn of_this_boot(run_dir: &RunDir) -> Self {
        let file = run_dir.path().join("roles-told");
        let left = std::fs::read(&file).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Self { file, counted: left.unwrap_or_default(), told: BTreeMap::new() }
    }

    fn look(&mut self, roles: &[RoleReport], now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for role in roles {
            let counted = self.counted.get(&role.title).copied().unwrap_or(0);
            let falls = role.falls.saturating_sub(counted);
            let before = self.told.get(&role.title);
            if before.is_some_and(|told| now.saturating_duration_since(told.at) < AGAIN) {
                continue;
            }
            if falls > 0 {
                news.push(News::Fell(fell(role, falls)));
                self.counted.insert(role.title.clone(), role.falls);
                self.told.insert(role.title.clone(), Told { at: now, often: before.is_some() || falls > 1 });
            } else if let Some(told) = self.told.remove(&role.title).filter(|told| told.often) {
                let steady = now.saturating_duration_since(told.at).as_secs();
                news.push(News::Steady(format!("role {} has not fallen for {steady} s", role.title)));
            }
        }
        if news.iter().any(|news| matches!(news, News::Fell(_))) {
            self.keep();
        }
        news
    }

    fn keep(&self) {
        let new = self.file.with_extension("new");
        let bytes = postcard::to_stdvec(&self.counted).map_err(std::io::Error::other);
        let kept = bytes.and_then(|bytes| std::fs::write(&new, bytes)).and_then(|()| std::fs::rename(&new, &self.file));
        if let Err(error) = kept {
            log::info!("a restart of the control plane will tell of roles again: {error}");
        }
    }
}

fn fell(role: &RoleReport, falls: u32) -> String {
    let RoleReport { title, pid, last_fall, .. } = role;
    let name = title.split('-').next().unwrap_or(title);
    let how = last_fall.as_deref().unwrap_or("ended");
    let is_back = pid.is_some();
    let again = if is_back { "init started it again" } else { "init starts it again" };
    match falls {
        1 => format!("role {title} {how}, and {again}: {}", cost(name, is_back)),
        many => {
            format!("role {title} fell {many} times, the last time it {how}, and {again}; log show {title} may say why")
        }
    }
}

/// What the fall of a role costs, which `is_back` or still to come.
fn cost(role: &str, is_back: bool) -> &'static str {
    match role {
        "host" => "all VMs run on; what was asked of it at that moment is to be asked again",
        "lease" if is_back => "all VMs run on, and their leases are renewed on",
        "lease" => "until then no lease is renewed; the VMs run on for as long as theirs last",
        "migrate" => "all VMs run on; moves that were under way are given up, or end by what the lease says",
        "console" => "all VMs run on; what was typed there is lost",
        _ => "all VMs run on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(title: &str, falls: u32) -> RoleReport {
        let last_fall = (falls > 0).then(|| "was killed by signal 9".to_owned());
        RoleReport { title: title.to_owned(), pid: Some(7), restarts: falls, falls, last_fall }
    }

    fn run_dir(name: &str) -> RunDir {
        let folder = std::env::temp_dir().join(format!("godwit-fallen-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        RunDir::at(&folder)
    }

    #[test]
    fn a_role_that_fell_is_told_of_once_with_what_it_cost_by_the_next_control_plane_too() {
        let run_dir = run_dir("once");
        let mut falls = Falls::of_this_boot(&run_dir);
        let now = Instant::now();
        assert_eq!(falls.look(&[role("host", 0), role("lease", 0)], now), []);
        let told = falls.look(&[role("host", 0), role("lease", 1)], now);
        let expected = "role lease was killed by signal 9, and init started it again: all VMs run on, and their leases are renewed on";
        assert_eq!(told, [News::Fell(expected.to_owned())]);
        let down = RoleReport { pid: None, ..role("lease", 1) };
        let told = fell(&down, 1);
        assert!(told.contains("init starts it again: until then no lease is renewed"), "{told}");
        assert_eq!(falls.look(&[role("lease", 1)], now), []);
        assert_eq!(falls.look(&[role("lease", 1)], now + AGAIN), [], "one that fell once is steady by itself");
        // Now the control plane itself.
        let mut next = Falls::of_this_boot(&run_dir);
        let told = next.look(&[role("host", 1), role("lease", 1)], now);
        let [News::Fell(text)] = &told[..] else { panic!("{told:?}") };
        assert!(text.starts_with("role host was killed by signal 9") && text.contains("all VMs run on"), "{text}");
        std::fs::remove_dir_all(run_dir.path()).expect("removed");
    }

    #[test]
    fn a_role_that_falls_again_and_again_is_told_of_once_a_minute_and_when_it_is_over() {
        let run_dir = run_dir("often");
        let mut falls = Falls::of_this_boot(&run_dir);
        let (began, look) = (Instant::now(), Duration::from_secs(2));
        let mut told = Vec::new();
        // It falls with each look for two minutes, and never after.
        for number in 1..=200_u32 {
            told.extend(falls.look(&[role("migrate", number.min(60))], began + look * number));
        }
        let texts: Vec<&str> = told.iter().map(|(News::Fell(text) | News::Steady(text))| text.as_str()).collect();
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(texts[0].contains("was killed by signal 9, and"), "the first at once: {texts:?}");
        assert!(texts[1].contains("fell 30 times") && texts[1].contains("log show migrate"), "{texts:?}");
        assert!(texts[2].contains("fell 29 times"), "each is counted: {texts:?}");
        assert_eq!(told[3], News::Steady("role migrate has not fallen for 60 s".to_owned()));
        std::fs::remove_dir_all(run_dir.path()).expect("removed");
    }
}
