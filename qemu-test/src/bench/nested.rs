//! Moves between two nested hosts: Godwit's image, and Debian's kernel with QEMU, each pair in its turn on the same wires.

use std::cell::RefCell;

use model::vm_config::Verify;

use crate::bench::case;
use crate::bench::choice::Plan;
use crate::bench::contestant::Contestant;
use crate::bench::godwit::{self, AtDepth};
use crate::bench::qemu::{self, Initramfs, Qemu, Way};
use crate::bench::stage::Stage;
use crate::bench::{page, rounds};
use crate::error::Result;
use crate::guests;
use crate::home::Home;
use crate::image;

/// Measures and gives the section of the page.
pub fn run(home: &Home, plan: &Plan) -> Result<String> {
    let cases = plan.choice.cases(&case::nested())?;
    let image = image::build(home)?;
    let kernel = guests::build_witness(home)?;
    let initramfs = Initramfs::build(home, &kernel)?;
    let stage = Stage { home: home.clone(), image, kernel, cases: cases.clone(), initramfs, on: None };
    let stage = RefCell::new(stage);
    let (hosts, ends) = (RefCell::new(godwit::Nested::of(&stage)), RefCell::new(qemu::Nested::of(&stage)));
    let mut godwit = AtDepth { verify: Verify::default(), hosts: &hosts };
    let mut qemus = Way::MOVING.map(|way| Qemu { way, ends: &ends });
    let mut contestants: Vec<&mut dyn Contestant> = vec![&mut godwit];
    contestants.extend(qemus.iter_mut().map(|qemu| -> &mut dyn Contestant { qemu }));
    let names = plan.choice.choose(&mut contestants)?;
    let results = rounds::measure_all(plan.repetitions, &cases, &mut contestants);
    stage.borrow_mut().clear()?;
    page::nested(&plan.command("nested"), &names, &results)
}
