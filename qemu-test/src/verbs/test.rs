//! `cargo lab test`.

use std::process::ExitCode;
use std::time::Instant;

use crate::debian::{self, Base};
use crate::error::Result;
use crate::home::Home;
use crate::image;
use crate::setup::{self, Purpose};
use crate::tests::{Tally, check_nested, check_source};

/// Below everything else that this machine does.
const IN_IDLE_TIME: i32 = 19;

/// Runs the checks; the last line sums them up.
pub(super) fn run(home: &Home, quick: bool, nested_only: Option<&str>) -> Result<ExitCode> {
    let start = Instant::now();
    let mut purposes = vec![Purpose::Build];
    if !quick {
        purposes.extend([Purpose::Image, Purpose::Fleet, Purpose::Guests]);
    }
    setup::ensure(&purposes)?;
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        // One test alone fetches for itself what few need.
        let bases = if nested_only.is_none() { &[Base::USUAL, Base::POSTGRESQL][..] } else { &[Base::USUAL] };
        // The mirror takes minutes, in which the machine compiles. What fails here is tried again, and told, where it is needed.
        let fetching = (!quick).then(|| scope.spawn(|| debian::fetch_all(home, bases)));
        let building = (!quick && nested_only.is_none()).then(|| scope.spawn(|| build_in_idle_time(home)));
        if nested_only.is_none() {
            check_source(home, &mut tally);
        }
        fetching.map(|fetching| fetching.join());
        building.map(|building| building.join());
    });
    if !quick {
        check_nested(home, nested_only.unwrap_or_default(), &mut tally);
    }
    println!("took {:.0} s", start.elapsed().as_secs_f64());
    Ok(tally.conclude())
}

/// Builds the image in the time that the tests of the source tree leave: many of them wait. What fails here is tried again, and told, where it
/// is needed.
fn build_in_idle_time(home: &Home) {
    // Of this thread alone and of what it starts (setpriority(2), "C library/kernel differences").
    let _ = rustix::process::setpriority_process(None, IN_IDLE_TIME);
    let _ = image::build(home);
}
