//! `cargo lab up`.

use std::process::ExitCode;

use crate::error::{LabError, Result};
use crate::fleet::{self, Fleet, HOSTS_MAX};
use crate::guests;
use crate::home::Home;
use crate::image;
use crate::machine::HostSpec;
use crate::servers::Make;
use crate::setup::{self, Purpose};

/// Boots the hosts and leaves them running.
pub(super) fn run(home: &Home, server: Make, hosts: u8, memory_mib: u32, words: &[String]) -> Result<ExitCode> {
    if !(1..=HOSTS_MAX).contains(&hosts) {
        return Err(LabError::Input(format!("{hosts} hosts: the lab runs 1 to {HOSTS_MAX}")));
    }
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    let _held = fleet::hold(home)?;
    if Fleet::open(home)?.is_some() {
        return Err(LabError::Input("hosts are up already; see cargo lab status, or cargo lab down".into()));
    }
    image::build(home)?;
    let mut specs: Vec<HostSpec> = (1..=hosts).map(HostSpec::usual).collect();
    for spec in &mut specs {
        spec.memory_mib = memory_mib;
        spec.words = words.to_vec();
    }
    let started = Fleet::up(home, server, specs, |datastore| guests::place_all(home, datastore));
    if started.is_err() {
        println!("lab: the fleet did not come up; what runs of it stays for a look until cargo lab down");
    }
    started?;
    println!("lab: cargo lab exec host-a -- help; cargo lab console host-a; cargo lab down");
    Ok(ExitCode::SUCCESS)
}
