//! The order of a clone: what is looked at, held, copied, and made known.

use std::sync::Arc;
use std::time::Instant;

use model::diagnosis::{Diagnosis, Reason};
use model::names::{MacAddress, VmName};
use model::units::Bytes;
use model::vm_config::{VmConfig, cloned_text};

use crate::api::host::{CloneDetail, VmState};
use crate::api::lease::VmOnDatastore;
use crate::datastore::unfinished::Unfinished;
use crate::datastore::{Datastore, DatastoreError};
use crate::host::caller::{Caller, LOOK};
use crate::host::clone::carry::{self, Carried, Carry};
use crate::host::clone::hold::{HeldLease, lock_disks};
use crate::host::clone::leftovers::{self, VMS};
use crate::host::clone::plan::{Plan, name_problems, room_problem};
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, locate};
use crate::host::vms::Claim;
use crate::host::{host_lease, mac_addresses};

/// Clones a VM that is stopped. When it is refused, or fails, nothing of the clone is there.
///
/// # Errors
/// Every reason why it cannot be cloned, or why that came to nothing.
pub fn clone(plane: &ControlPlane, name: &VmName, new: &VmName, caller: &Caller<'_>) -> Result<CloneDetail, Diagnosis> {
    let what = format!("VM {name} was not cloned");
    plane.refuse_if_ending(&what)?;
    if name == new {
        let hint = format!("choose another name: vm clone {name} NEW");
        return Err(Diagnosis::new(what, format!("the clone needs a name of its own, not {name}"), hint));
    }
    let located = locate(plane, name, &what)?;
    let config = config_of(&located).map_err(|errors| Diagnosis::of(&what, errors))?;
    let _source = claim(plane, name, new, &what, caller)?;
    let _clone = plane.vms.claim(new, VmState::Making, &what)?;
    let plan = plan(plane, &located, &config, new).map_err(|problems| Diagnosis::of(&what, problems))?;
    let text = text(plane, &located, &config, new).map_err(|reason| Diagnosis::of(&what, vec![reason]))?;
    let work = Work { plane, located: &located, new, text, caller };
    work.carry_out(plan).map_err(|reason| Diagnosis::of(&what, vec![reason]))
}

fn config_of(located: &Located) -> Result<VmConfig, Vec<Reason>> {
    located.draft().config.map_err(|errors| {
        let hint = format!("mend it on datastore {}, then: vm check {}", located.datastore.name(), located.name);
        errors.iter().map(|error| Reason::new(error.to_string(), &hint)).collect()
    })
}

/// Begins to work on the VM, as soon as a lease of an earlier start is given up.
fn claim<'a>(
    plane: &'a ControlPlane,
    name: &VmName,
    new: &VmName,
    what: &str,
    caller: &Caller<'_>,
) -> Result<Claim<'a>, Diagnosis> {
    while plane.vms.state(name) == Some(VmState::Releasing) {
        caller.progress(&format!("waiting until an earlier lease of {name} is given up"), None);
        if caller.cancelled_within(LOOK) {
            break;
        }
    }
    plane.vms.claim(name, VmState::Cloning, what).map_err(|mut busy| {
        // Its disks are copied while nobody writes them.
        let first = match plane.vms.state(name) {
            Some(VmState::Running) => format!("vm stop {name}"),
            Some(VmState::Paused) => format!("vm resume {name}, then: vm stop {name}"),
            _ => return busy,
        };
        for reason in &mut busy.reasons {
            reason.hint = format!("{first}; when it is off: vm clone {name} {new}");
        }
        busy
    })
}

/// What is to be copied, if that can be done: every reason against it, at once.
fn plan(plane: &ControlPlane, located: &Located, config: &VmConfig, new: &VmName) -> Result<Plan, Vec<Reason>> {
    let mut problems = name_problems(plane, new);
    let datastore = &located.datastore;
    problems.extend(try_to_write(datastore, new).err());
    let plan = match Plan::of(located, config) {
        Ok(plan) => {
            match datastore.room() {
                Ok(free) => problems.extend(room_problem(datastore, plan.needs(), free)),
                Err(error) => problems.push(carry::refused(datastore, "its room", &error)),
            }
            Some(plan)
        }
        Err(missing) => {
            problems.extend(missing);
            None
        }
    };
    plan.filter(|_| problems.is_empty()).ok_or(problems)
}

/// A datastore that takes nothing says why here; later its host lease would only be waited for.
fn try_to_write(datastore: &Arc<Datastore>, new: &VmName) -> Result<(), Reason> {
    let removed = begin(datastore, new)?.remove();
    removed.map_err(|error| carry::refused(datastore, &format!("vms/{new} cannot be removed"), &error))
}

/// Makes the folder that will be the clone's.
fn begin(datastore: &Arc<Datastore>, new: &VmName) -> Result<Unfinished, Reason> {
    let begun = random().map_err(DatastoreError::from);
    let begun = begun.and_then(|number| Unfinished::begin(datastore, VMS, new.as_str(), number));
    begun.map_err(|error| carry::refused(datastore, &format!("vms/{new} cannot be made"), &error))
}

/// The vm.toml of the clone.
fn text(plane: &ControlPlane, located: &Located, config: &VmConfig, new: &VmName) -> Result<String, Reason> {
    let datastore = located.datastore.name();
    let mut others = Default::default();
    if config.nics.iter().any(|nic| nic.mac.is_some()) {
        others = mac_addresses::in_use(plane);
        // What those of its own will have of which none is given.
        others.extend(
            (0..)
                .zip(&config.nics)
                .filter(|(_, nic)| nic.mac.is_none())
                .map(|(n, _)| mac_addresses::made(datastore, new, n, 0)),
        );
    }
    let fresh = |nic: usize| -> MacAddress {
        let mut made = (0..u32::MAX).map(|turn| mac_addresses::made(datastore, new, nic, turn));
        made.find(|mac| !others.contains(mac)).unwrap_or_else(|| mac_addresses::made(datastore, new, nic, 0))
    };
    let cloned = cloned_text(&located.config_text, new, fresh);
    cloned.map_err(|error| Reason::new(error.to_string(), format!("vm check {}", located.name)))
}

/// A clone that nothing stands in the way of any more, as far as that can be seen without the leases.
struct Work<'a> {
    plane: &'a ControlPlane,
    located: &'a Located,
    new: &'a VmName,
    text: String,
    caller: &'a Caller<'a>,
}

impl Work<'_> {
    fn refused(&self, subject: &str, error: &DatastoreError) -> Reason {
        carry::refused(&self.located.datastore, subject, error)
    }

    fn carry_out(&self, plan: Plan) -> Result<CloneDetail, Reason> {
        let Self { plane, located, new, caller, .. } = *self;
        let again = format!("vm clone {} {new}", located.name);
        host_lease::wait(plane, &located.datastore, &located.name, caller, &again)?;
        caller.progress(&format!("taking the leases of {} and {new}", located.name), None);
        let leases = self.take_leases()?;
        caller.progress(&format!("locking the disks of {}", located.name), None);
        lock_disks(plane, located, &plan, &leases[0], caller)?;
        leftovers::clear(&located.datastore, new);
        // It may have been made by another host before this one had its lease.
        if let Some(taken) = name_problems(plane, new).into_iter().next() {
            return Err(taken);
        }
        let began = Instant::now();
        let folder = begin(&located.datastore, new)?;
        let filled = self.fill(plan, &folder, &leases);
        let finished = filled.and_then(|carried| match folder.finish() {
            Ok(()) => Ok(Ok(carried)),
            // It goes on where it waits for the server, and what it names must be whole then: nothing of it is removed.
            Err(error @ DatastoreError::NoAnswer(_)) => Ok(Err(error)),
            Err(error) => Err(self.refused(&format!("vms/{new} was not named"), &error)),
        });
        match finished {
            Ok(Ok(carried)) => Ok(self.detail(carried, began, &leases)),
            Ok(Err(error)) => {
                let reason = self.refused(&format!("vms/{new} was not named yet"), &error);
                let hint =
                    format!("vm list tells when VM {new} is there; if it never is: vm clone {} {new}", located.name);
                Err(Reason { hint, ..reason })
            }
            Err(mut reason) => {
                let hidden = folder.path();
                if let Err(error) = folder.remove() {
                    log::warn!("{}, left of a clone, is not removed: {error}", hidden.display());
                    reason.cause = format!("{}; {} is left of it", reason.cause, hidden.display());
                }
                Err(reason)
            }
        }
    }

    /// The leases of both names, the VM's first.
    fn take_leases(&self) -> Result<[HeldLease<'_>; 2], Reason> {
        let (vm, new) = (&self.located.name, self.new);
        let name = VmOnDatastore { vm: new.clone(), ..self.located.vm() };
        let source = HeldLease::take(self.plane, self.located.vm(), |holder| {
            let cause = format!("it runs on {0}, or is being worked on there: {0} holds its lease", holder.name);
            Reason::new(cause, format!("on {}: vm stop {vm}; when it is off: vm clone {vm} {new}", holder.name))
        })?;
        let name = HeldLease::take(self.plane, name, |holder| {
            let cause =
                format!("{} holds the lease of the name {new}: it makes a VM of this name, or runs it", holder.name);
            Reason::new(cause, "choose another name; or try again when it is done")
        })?;
        Ok([source, name])
    }

    /// Fills the folder of the clone.
    fn fill(&self, plan: Plan, folder: &Unfinished, leases: &[HeldLease<'_>; 2]) -> Result<Carried, Reason> {
        let written = folder.write("vm.toml", self.text.as_bytes());
        written.map_err(|error| self.refused("vm.toml", &error))?;
        let again = format!("vm clone {} {}", self.located.name, self.new);
        let carry = Carry::new(self.plane, &self.located.datastore, self.caller, leases, again);
        let carried = carry.all(&plan, folder)?;
        self.caller.progress(
            &format!("copied: {} gets its name as soon as the leases are seen to be held still", self.new),
            None,
        );
        // With the locks: whoever has the VM by now need not wait for them.
        drop(plan);
        // Only now it is known that nobody wrote the disks while they were copied.
        leases.iter().try_for_each(HeldLease::assure)?;
        Ok(carried)
    }

    fn detail(&self, carried: Carried, began: Instant, leases: &[HeldLease<'_>; 2]) -> CloneDetail {
        let Carried { files, copied, holes, by } = carried;
        let taken = leases[0].taken_from.as_ref();
        CloneDetail {
            name: self.new.clone(),
            source: self.located.name.clone(),
            datastore: self.located.datastore.name().clone(),
            kind: self.located.datastore.row().kind,
            files,
            copied: Bytes(copied),
            holes: Bytes(holes),
            copied_by: by,
            ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            taken_from: taken.map(|taken| taken.text(self.plane.name())),
        }
    }
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::{Arc, Mutex};

    use protocol::lease::record::Watchdog;

    use super::*;
    use crate::api::channel::Channel;
    use crate::api::host::{HostAnswer, HostRequest};
    use crate::api::lease::{DatastoreLease, Holder, LeaseAnswer, LeaseRequest};
    use crate::datastore::DatastoreError;
    use crate::host::control_plane::stand_in::Place;

    const WEB: &str = "[vm]\nname = \"web\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"kernel\"\n\
                       [[disk]]\nfile = \"root.img\"\n";

    fn name(text: &str) -> VmName {
        text.parse().expect("valid")
    }

    /// A lease role of which this host gets every lease, and which remembers what was asked to be changed.
    fn gives_all(asked: &Arc<Mutex<Vec<LeaseRequest>>>) -> impl Fn(&LeaseRequest) -> LeaseAnswer + Send + 'static {
        let asked = Arc::clone(asked);
        move |request| {
            let own = Holder {
                host: [1; 16],
                name: "host-a".parse().expect("valid"),
                generation: 1,
                epoch: 3,
                alive: true,
                own: true,
                since_unix_s: None,
            };
            match request {
                LeaseRequest::Status => LeaseAnswer::Status(vec![DatastoreLease {
                    datastore: "lab".parse().expect("valid"),
                    held: true,
                    renewed_ms: 1,
                    refusal: None,
                    damage: None,
                    trouble: String::new(),
                    mend: None,
                    watchdog: Watchdog::None,
                    area: None,
                }]),
                LeaseRequest::Query(_) => LeaseAnswer::Holder(Some(own)),
                LeaseRequest::Resolve { epoch: 2, .. } => LeaseAnswer::held(3),
                LeaseRequest::Acquire(_) => {
                    asked.lock().expect("locked").push(request.clone());
                    LeaseAnswer::Held { epoch: 3, taken_from: None }
                }
                _ => {
                    asked.lock().expect("locked").push(request.clone());
                    LeaseAnswer::Done
                }
            }
        }
    }

    fn place(test: &str, lease: impl Fn(&LeaseRequest) -> LeaseAnswer + Send + 'static, more: &str) -> Place {
        let place = Place::without_datastore(&format!("clone-{test}"), lease);
        place.write("vms/web/vm.toml", &format!("{WEB}{more}"));
        place.write("vms/web/kernel", "kernel");
        place.write("vms/web/root.img", &"root".repeat(1024));
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        place
    }

    fn read(place: &Place, path: &str) -> Result<String, DatastoreError> {
        place.plane.datastores.all()[0].read_text(path, 65_536)
    }

    fn entries(place: &Place) -> Vec<String> {
        place.plane.datastores.all()[0].list("vms").expect("listed")
    }

    #[test]
    fn a_clone_that_is_cancelled_while_it_is_copied_leaves_neither_files_nor_leases() {
        let asked = Arc::default();
        let place = place("cancelled", gives_all(&asked), "");
        let (console, person) = Channel::<HostAnswer, HostRequest>::pair().expect("sockets");
        person.send(&HostRequest::Cancel, &[]).expect("pressed");
        let refusal =
            clone(&place.plane, &name("web"), &name("copy"), &Caller::console(&console)).expect_err("cancelled");
        let told = "cause: it was cancelled; what was copied is removed\nhint:  vm clone web copy starts it anew";
        assert!(refusal.to_string().contains(told), "{refusal}");
        assert_eq!(entries(&place), ["web"]);
        let of = |vm: &str| VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: name(vm) };
        let (web, copy) = (of("web"), of("copy"));
        let asked: Vec<LeaseRequest> = std::mem::take(&mut asked.lock().expect("locked"));
        let taken = [LeaseRequest::Acquire(web.clone()), LeaseRequest::Acquire(copy.clone())];
        let given_up = [LeaseRequest::GiveUp(web.clone()), LeaseRequest::GiveUp(copy.clone())];
        assert_eq!((&asked[..2], asked.len()), (&taken[..], 4), "{asked:?}");
        assert!(given_up.iter().all(|given_up| asked.contains(given_up)), "{asked:?}");
        assert!(place.plane.vms.state(&web.vm).is_none() && place.plane.vms.state(&copy.vm).is_none());
        assert!(!place.plane.run_dir.vm(&web.vm).exists() && !place.plane.run_dir.vm(&copy.vm).exists());
    }

    #[test]
    fn a_clone_gets_addresses_that_no_other_vm_has_where_its_vm_has_them_given() {
        let nic = |mac: &str| format!("[[nic]]\nport_group = \"lab\"\n{mac}");
        let given = nic("mac = \"02:00:00:00:00:01\" # fixed\n");
        let place =
            place("macs", gives_all(&Arc::default()), &(given.clone() + &nic("") + &given.replace(":01", ":02")));
        // What would be made for the first was given to another.
        let lab = "lab".parse().expect("valid");
        let taken = mac_addresses::made(&lab, &name("copy"), 0, 0);
        let other = WEB.replace("web", "db") + &nic(&format!("mac = \"{taken}\"\n"));
        place.write("vms/db/vm.toml", &other);
        clone(&place.plane, &name("web"), &name("copy"), &Caller::nobody()).expect("cloned");
        let text = read(&place, "vms/copy/vm.toml").expect("there");
        assert!(text.contains("# fixed"), "{text}");
        let located = locate(&place.plane, &name("copy"), "").expect("there");
        let config = located.draft().config.expect("valid");
        let made = [mac_addresses::made(&lab, &name("copy"), 0, 1), mac_addresses::made(&lab, &name("copy"), 2, 0)];
        assert_eq!(config.nics.iter().map(|nic| nic.mac).collect::<Vec<_>>(), [Some(made[0]), None, Some(made[1])]);
        assert!(made.iter().all(|mac| mac.bytes()[0] & 3 == 2), "locally administered, and of one NIC");
        let alone = mac_addresses::check(&place.plane, &located, &config).expect("it has NICs");
        assert!(alone.warnings.is_empty(), "{alone:?}");
    }

    #[test]
    fn what_a_guest_writes_is_copied_wherever_it_lies_and_what_it_only_reads_elsewhere_is_shared() {
        let more = "[[disk]]\nfile = \"iso/a.iso\"\nread_only = true\n[[disk]]\nfile = \"linked.img\"\n\
                    [[disk]]\nfile = \"inner.img\"\n[[disk]]\nfile = \"pool/data.img\"\n[[disk]]\nfile = \"pool/b.iso\"\nread_only = true\n";
        let place = place("links", gives_all(&Arc::default()), more);
        for file in ["isos/a.iso", "pool/linked.img", "pool/data.img", "pool/b.iso", "vms/web/disks/inner.img"] {
            place.write(file, &file.repeat(100));
        }
        let root = place.plane.datastores.all()[0].root().to_owned();
        for (target, link) in [
            ("../../isos", "iso"),
            ("../../pool/linked.img", "linked.img"),
            ("disks/inner.img", "inner.img"),
            ("../../pool", "pool"),
        ] {
            symlink(target, root.join("vms/web").join(link)).expect("linked");
        }
        let made = clone(&place.plane, &name("web"), &name("copy"), &Caller::nobody()).expect("cloned");
        let shared: Vec<&str> =
            made.files.iter().filter(|file| file.copied.is_none()).map(|file| file.file.as_str()).collect();
        assert_eq!((shared, made.files.len()), (vec!["iso/a.iso"], 7), "{made:?}");
        for (file, from) in [
            ("iso/a.iso", "isos/a.iso"),
            ("linked.img", "pool/linked.img"),
            ("pool/data.img", "pool/data.img"),
            ("pool/b.iso", "pool/b.iso"),
        ] {
            assert_eq!(read(&place, &format!("vms/copy/{file}")).expect("there"), from.repeat(100));
        }
        let is_link =
            |path: &str| std::fs::symlink_metadata(root.join("vms/copy").join(path)).expect("there").is_symlink();
        assert!(is_link("iso"));
        for own in ["linked.img", "inner.img", "pool", "pool/data.img", "root.img", "kernel"] {
            assert!(!is_link(own), "{own}");
        }
    }

    #[test]
    fn a_lease_of_which_nobody_knows_whether_this_host_got_it_is_owed_and_nothing_is_copied() {
        let all = gives_all(&Arc::default());
        let place = place(
            "doubt",
            move |request| match request {
                LeaseRequest::Acquire(vm) if vm.vm.as_str() == "copy" => {
                    LeaseAnswer::Unknown("the line is cut".to_owned())
                }
                request => all(request),
            },
            "",
        );
        let refusal = clone(&place.plane, &name("web"), &name("copy"), &Caller::nobody()).expect_err("not known");
        assert!(refusal.to_string().contains("the line is cut"), "{refusal}");
        let copy = VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: name("copy") };
        assert_eq!(place.plane.owed.all(), [copy]);
        assert_eq!(entries(&place), ["web"]);
    }
}
