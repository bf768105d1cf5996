//! The list of promises, and the run over them.

use crate::error::{LabError, Result};
use crate::fleet::Fleet;
use crate::home::Home;
use crate::image;
use crate::tests::nested::bench::Bench;
use crate::tests::nested::{boot, console, image as image_promises};
use crate::tests::tally::{Tally, Verdict};

/// One promise.
struct Promise {
    name: &'static str,
    hold: fn(&mut Bench) -> Result<Verdict>,
}

macro_rules! promises {
    ($($room:ident::$name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), hold: $room::$name }),*]
    };
}

const PROMISES: &[Promise] = promises![
    image_promises::the_image_holds_no_other_program_than_the_one_binary,
    console::a_command_gives_exactly_its_output_and_its_status,
    console::what_is_not_a_command_is_refused_with_a_hint,
    boot::the_iso_boots_as_a_cd_by_bios,
    boot::the_iso_boots_as_a_usb_stick_by_bios,
    boot::the_iso_boots_as_a_cd_by_uefi,
    boot::the_iso_boots_as_a_usb_stick_by_uefi,
    boot::a_host_with_a_bad_configuration_comes_up_and_says_what_is_wrong,
    boot::a_host_that_lost_power_comes_back,
];

/// Builds the image, boots the fleet, and tries every promise whose name holds `filter`.
pub fn check_nested(home: &Home, filter: &str, tally: &mut Tally) {
    let wanted: Vec<&Promise> = PROMISES.iter().filter(|promise| promise.name.contains(filter)).collect();
    if wanted.is_empty() {
        tally.fail("nested tests", &LabError::Input(format!("no nested test is called like {filter}")));
        return;
    }
    let mut bench = match image::build(home).and_then(|image| Bench::up(home, image)) {
        Ok(bench) => bench,
        Err(error) => {
            tally.fail("the fleet of the nested tests comes up", &error);
            end(home, tally);
            return;
        }
    };
    for promise in wanted {
        tally.check(promise.name, || (promise.hold)(&mut bench));
    }
    end(home, tally);
}

fn end(home: &Home, tally: &mut Tally) {
    if let Err(error) = Fleet::down(home) {
        tally.fail("the fleet of the nested tests ends", &error);
    }
}
