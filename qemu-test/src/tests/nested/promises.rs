//! The lists of promises, and the run over them.

use crate::error::{LabError, Result};
use crate::fleet::Fleet;
use crate::home::Home;
use crate::image::{self, Image};
use crate::servers::Make;
use crate::tests::nested::bench::{Bench, says};
use crate::tests::nested::{
    at_once, boot, console, database, faults, fences, image as image_promises, knfsd, losses, migration, vm,
};
use crate::tests::tally::{Tally, Verdict};

/// One promise.
struct Promise {
    name: &'static str,
    /// The role of the product that it is about: a build without it cannot be held to it.
    role: &'static str,
    hold: fn(&mut Bench) -> Result<Verdict>,
}

macro_rules! promises {
    ($($role:ident: $room:ident::$name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), role: stringify!($role), hold: $room::$name }),*]
    };
}

/// What is tried on a fleet with each make of server.
const FLEETS: [(Make, &[Promise]); 2] = [(Make::Ganesha, ON_GANESHA), (Make::Knfsd, ON_KNFSD)];

const ON_GANESHA: &[Promise] = promises![
    init: image_promises::the_image_holds_no_other_program_than_the_one_binary,
    init: console::a_command_gives_exactly_its_output_and_its_status,
    init: console::what_is_not_a_command_is_refused_with_a_hint,
    host: vm::a_debian_guest_starts_from_the_datastore_and_answers_its_client,
    host: vm::a_vm_that_runs_is_not_started_a_second_time,
    host: vm::a_new_vm_is_listed_where_it_runs_by_every_host_at_once,
    host: vm::a_paused_vm_is_silent_and_goes_on_where_it_was,
    host: vm::a_bad_vm_configuration_is_refused_with_every_reason_at_once,
    host: vm::a_vm_obeys_its_power_button,
    host: vm::a_damaged_lease_keeps_vms_from_starting_and_says_what_mends_it,
    migrate: migration::the_check_alone_moves_nothing,
    migrate: migration::a_move_to_nowhere_is_refused_and_the_vm_stays,
    migrate: migration::a_host_in_maintenance_takes_no_vm_in,
    migrate: migration::ctrl_c_cancels_a_move_and_the_vm_stays,
    migrate: migration::a_paused_vm_arrives_paused_and_goes_on_there,
    migrate: migration::a_guest_moves_while_it_boots_and_comes_up_where_it_arrived,
    migrate: migration::the_witness_moves_there_and_back_and_finds_everything_as_it_was,
    migrate: migration::a_vm_moves_there_and_back_three_times_while_its_client_talks,
    migrate: migration::a_vm_with_two_vcpus_moves_there_and_back_three_times,
    migrate: at_once::four_vms_move_at_once_and_a_fifth_is_queued_and_follows_by_itself,
    migrate: database::a_database_moves_there_and_back_and_keeps_each_committed_transaction_once,
    migrate: faults::migrate_killed_at_the_source_in_every_phase_of_a_move,
    migrate: faults::migrate_killed_at_the_destination_in_every_phase_of_a_move,
    migrate: faults::the_monitor_killed_at_the_destination_before_the_commit,
    migrate: faults::the_monitor_killed_at_the_source_ends_the_vm_and_its_move,
    migrate: faults::the_migration_cable_cut_in_pre_copy_and_in_the_stun,
    host: losses::the_datastore_cable_cut_for_five_seconds_in_a_move,
    host: losses::the_power_of_the_source_cut_in_the_commit_of_a_move,
    host: faults::a_control_plane_that_dies_adopts_its_vms_again,
    host: faults::a_lease_role_that_dies_costs_no_vm_and_no_lease,
    host: faults::a_monitor_that_dies_ends_its_vm_only_and_is_told,
    host: faults::two_hosts_that_start_a_vm_at_the_same_instant_agree_on_one,
    host: fences::the_vm_of_a_host_without_its_datastore_starts_elsewhere_and_nowhere_twice,
    host: fences::a_datastore_that_is_away_for_five_seconds_costs_no_vm,
    host: fences::a_server_that_hangs_fences_its_hosts_and_they_come_back_by_themselves,
    host: fences::the_clock_alone_ends_a_vm_before_another_host_may_run_it,
    host: fences::a_restart_of_the_server_takes_nothing_from_a_vm_that_it_was_promised,
    host: fences::a_host_whose_lease_role_hangs_is_reset_and_its_vm_starts_elsewhere,
    host: fences::what_the_network_held_back_lands_in_no_disk_after_the_take_over,
    host: fences::a_host_frozen_with_its_clock_writes_nothing_after_the_take_over,
    init: boot::the_iso_boots_by_bios_as_a_cd_and_as_a_usb_stick,
    init: boot::the_iso_boots_by_uefi_as_a_cd_and_as_a_usb_stick,
    init: boot::a_host_with_a_bad_configuration_comes_up_and_says_what_is_wrong,
    init: boot::a_host_that_is_shut_down_ends_its_vms_first_and_says_what_it_waits_for,
    init: boot::a_host_that_lost_power_comes_back_and_says_what_ran_there,
];

/// What depends on the server.
const ON_KNFSD: &[Promise] = promises![
    migrate: knfsd::a_debian_guest_runs_from_the_kernels_nfs_server_and_moves_there_and_back,
    host: knfsd::a_host_tells_what_mends_each_datastore_that_it_cannot_use_and_uses_the_others,
    host: knfsd::a_host_with_several_servers_loses_only_the_vms_of_the_one_that_hangs,
    migrate: knfsd::a_debian_guest_runs_by_nfs_3_and_moves_to_a_host_that_mounts_by_nfs_4,
    host: knfsd::a_clone_is_copied_by_the_kernels_nfs_server_itself_and_runs,
    host: fences::a_restart_of_the_server_takes_nothing_from_a_vm_that_it_was_promised,
    host: fences::the_vm_of_a_dead_host_starts_elsewhere_after_the_expiry,
    host: fences::the_vm_of_a_host_that_had_its_datastore_back_after_the_fence_starts_elsewhere,
    host: fences::a_host_frozen_with_its_clock_writes_nothing_after_the_take_over,
];

/// Builds the image, boots a fleet for each make of server, and tries every promise whose name holds `filter`, or whose role or
/// server is `filter`; with an empty filter, every promise.
pub fn check_nested(home: &Home, filter: &str, tally: &mut Tally) {
    let wanted = FLEETS.map(|(make, promises)| {
        let is_wanted =
            |promise: &&Promise| promise.name.contains(filter) || promise.role == filter || make.word() == filter;
        (make, promises.iter().filter(is_wanted).collect::<Vec<_>>())
    });
    if wanted.iter().all(|(_, promises)| promises.is_empty()) {
        tally.fail("nested tests", &LabError::Input(format!("no nested test is called like {filter}")));
        return;
    }
    let image = match image::build(home) {
        Ok(image) => image,
        Err(error) => return tally.fail("the image of the nested tests is built", &error),
    };
    for (make, promises) in wanted.iter().filter(|(_, promises)| !promises.is_empty()) {
        check_on(home, *make, &image, promises, tally);
        if let Err(error) = Fleet::down(home) {
            tally.fail("the fleet of the nested tests ends", &error);
        }
    }
}

/// Boots a fleet with this server and tries these promises.
fn check_on(home: &Home, make: Make, image: &Image, promises: &[&Promise], tally: &mut Tally) {
    println!("hosts with {make}");
    let mut bench = match Bench::up(home, make, image.clone()) {
        Ok(bench) => bench,
        Err(error) => return tally.fail(&format!("the fleet of the nested tests with {make} comes up"), &error),
    };
    for promise in promises {
        let held = tally.check(promise.name, || match missing(promise, &bench)? {
            Some(role) => Ok(Verdict::Skipped(format!("the role {role} is not in this build yet"))),
            None => (promise.hold)(&mut bench),
        });
        if !held {
            bench.show_logs();
        }
    }
}

/// The role that a promise is about, if init said at boot that the build has no such role. A role that only does not run
/// is a fault of the product and no reason to skip.
fn missing(promise: &Promise, bench: &Bench) -> Result<Option<&'static str>> {
    let log = bench.serial_log("host-a")?;
    Ok(says(&log, &format!("role {} is not in this build", promise.role)).then_some(promise.role))
}
