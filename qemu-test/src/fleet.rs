//! Hosts, wires and servers that are up together and stay up between commands. No daemon keeps them: the state file says
//! what was started, the processes are found by their pid files.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::console::{Answer, SerialLine};
use crate::datastore_wait::wait_for_datastores;
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::image::Image;
use crate::machine::{Accelerator, BootOutcome, HostSpec, Machine, start_hosts};
use crate::servers::{Make, Server};
use crate::wire::Wires;

/// The most hosts of a fleet: names are single letters, and each takes 1.5 GiB.
pub const HOSTS_MAX: u8 = 16;
/// From init's first line to a console that answers.
const CONSOLE_BOUND: Duration = Duration::from_secs(240);

/// What the state file remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    accelerator: Accelerator,
    server: Make,
    hosts: Vec<HostSpec>,
    /// Restarts of hung boots since the fleet came up.
    restarts: u32,
}

/// The fleet of this tree.
pub struct Fleet {
    home: Home,
    image: Image,
    wires: Wires,
    state: State,
}

/// A fleet that is up, or how to get one.
pub fn running(home: &Home) -> Result<Fleet> {
    Fleet::open(home)?.ok_or_else(|| LabError::Missing { what: "no hosts are up".into(), hint: "cargo lab up".into() })
}

/// The file that says what is up, in a fleet's folder.
const STATE: &str = "fleet.json";

impl Fleet {
    /// The names of the other fleets of this tree that are up, as a demo that was ended in its middle leaves one.
    pub fn others(home: &Home) -> Vec<String> {
        let folders = fs::read_dir(&home.root).into_iter().flatten().flatten();
        let up = folders.filter(|folder| folder.path().join(STATE).exists());
        let mut names: Vec<String> = up.map(|folder| folder.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| *name != home.fleet);
        names.sort();
        names
    }

    /// The fleet that is up, if one is.
    pub fn open(home: &Home) -> Result<Option<Self>> {
        let path = home.run().join(STATE);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let state =
            serde_json::from_str(&text).map_err(|error| LabError::Input(format!("{}: {error}", path.display())))?;
        Ok(Some(Self { home: home.clone(), image: Image::of(home), wires: Wires::of(&home.tag()), state }))
    }

    /// Lays the wires, starts the server and boots these hosts, which mount it. `prepare` puts things on the datastore first.
    pub fn up(
        home: &Home,
        server: Make,
        hosts: Vec<HostSpec>,
        prepare: impl FnOnce(&std::path::Path) -> Result<()>,
    ) -> Result<Self> {
        let mut fleet = Self::begin(home, server, hosts)?;
        let datastore = fleet.datastore();
        fs::create_dir_all(&datastore).at("creating", &datastore)?;
        prepare(&datastore)?;
        fleet.wires.lay()?;
        fleet.start_server()?;
        fleet.plug_all()?;
        let machines = fleet.machines();
        fleet.boot(&machines)?;
        Ok(fleet)
    }

    /// Lays the wires and plugs in the machines of these hosts, which are off: they are to boot something else than the image,
    /// and need no server.
    pub fn wired(home: &Home, hosts: Vec<HostSpec>) -> Result<Self> {
        let fleet = Self::begin(home, Make::default(), hosts)?;
        fleet.wires.lay()?;
        fleet.plug_all()?;
        Ok(fleet)
    }

    /// From here on `down` ends what there is of it.
    fn begin(home: &Home, server: Make, mut hosts: Vec<HostSpec>) -> Result<Self> {
        hosts.iter_mut().for_each(|host| host.server = server);
        let (accelerator, why) = Accelerator::choose();
        println!("lab: {why}");
        let run = home.run();
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(&run).at("creating", &run)?;
        let wires = Wires::of(&home.tag());
        let state = State { accelerator, server, hosts, restarts: 0 };
        let fleet = Self { home: home.clone(), image: Image::of(home), wires, state };
        fleet.save()?;
        Ok(fleet)
    }

    fn plug_all(&self) -> Result<()> {
        self.state.hosts.iter().try_for_each(|host| self.wires.plug(&host.name))
    }

    /// Ends everything and removes the namespace. Logs and the datastore stay until the next `up`.
    pub fn down(home: &Home) -> Result<bool> {
        let Some(fleet) = Self::open(home)? else { return Ok(false) };
        for machine in fleet.machines() {
            machine.process().kill()?;
        }
        fleet.server().kill()?;
        fleet.wires.remove()?;
        let path = fleet.state_file();
        fs::remove_file(&path).at("removing", &path)?;
        Ok(true)
    }

    /// Starts the server, which does not run.
    pub fn start_server(&mut self) -> Result<()> {
        let start = Instant::now();
        let outcome = self.server().start()?;
        self.state.restarts += u32::from(outcome == BootOutcome::Restarted);
        self.save()?;
        println!("lab: {} answers after {:.1} s", self.state.server, start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Plugs one more host in, without booting it.
    pub fn add_host(&mut self, mut spec: HostSpec) -> Result<Machine> {
        spec.server = self.state.server;
        self.wires.plug(&spec.name)?;
        self.state.hosts.push(spec.clone());
        self.save()?;
        Ok(Machine::of(spec, &self.home.run()))
    }

    /// Ends a host and takes it out of the fleet.
    pub fn remove_host(&mut self, machine: &Machine) -> Result<()> {
        machine.process().kill()?;
        self.wires.unplug(&machine.spec.name)?;
        self.state.hosts.retain(|spec| spec.name != machine.spec.name);
        self.save()
    }

    /// The hosts' machines.
    pub fn machines(&self) -> Vec<Machine> {
        self.state.hosts.iter().map(|spec| Machine::of(spec.clone(), &self.home.run())).collect()
    }

    /// One host's machine.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let spec = self.state.hosts.iter().find(|spec| spec.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.state.hosts.iter().map(|spec| spec.name.as_str()).collect();
            LabError::Input(format!("there is no host {name}; there are {}", names.join(", ")))
        })?;
        Ok(Machine::of(spec.clone(), &self.home.run()))
    }

    /// Boots machines that do not run, and waits for their consoles.
    pub fn boot(&mut self, machines: &[Machine]) -> Result<()> {
        let start = Instant::now();
        let outcomes = start_hosts(machines, &self.wires, self.state.accelerator, &self.image)?;
        self.state.restarts += outcomes.iter().filter(|outcome| **outcome == BootOutcome::Restarted).count() as u32;
        self.save()?;
        for machine in machines {
            SerialLine::open(machine)?.wait_until_ready(CONSOLE_BOUND)?;
        }
        wait_for_datastores(machines);
        println!(
            "lab: {} host(s) at their consoles after {:.1} s; boots of this fleet that hung in the emulator and were \
             started once more: {}",
            machines.len(),
            start.elapsed().as_secs_f64(),
            self.state.restarts
        );
        Ok(())
    }

    /// Types one command on a host's console.
    pub fn exec(&self, host: &str, command: &str, bound: Duration) -> Result<Answer> {
        SerialLine::open(&self.machine(host)?)?.exec_within(command, bound)
    }

    /// Gives the stowaway of a host an order.
    pub fn order(&self, host: &str, order: &str) -> Result<Answer> {
        SerialLine::open_stowaway(&self.machine(host)?)?.exec_within(order, Duration::from_secs(60))
    }

    /// Gives the stowaway of a host an order that it carries out when a move there enters `phase`. Waits until it is ready
    /// to, and not until it has.
    pub fn order_when(&self, host: &str, phase: &str, order: &str) -> Result<Pending> {
        let mut line = SerialLine::open_stowaway(&self.machine(host)?)?;
        let token = line.type_command(&format!("when {phase} {order}"))?;
        line.read_until(&format!("@armed {token}"), Duration::from_secs(60))?;
        Ok(Pending { line, token })
    }

    /// The wires.
    pub fn wires(&self) -> &Wires {
        &self.wires
    }

    /// The NFS server.
    pub fn server(&self) -> Box<dyn Server> {
        self.state.server.server(&self.home)
    }

    /// Whose NFS server that is.
    pub fn server_make(&self) -> Make {
        self.state.server
    }

    /// The folder on this machine that the datastore is made from; nfs-ganesha serves it itself.
    pub fn datastore(&self) -> PathBuf {
        self.home.datastore()
    }

    /// What the hosts run on.
    pub fn accelerator(&self) -> Accelerator {
        self.state.accelerator
    }

    fn state_file(&self) -> PathBuf {
        self.home.run().join(STATE)
    }

    fn save(&self) -> Result<()> {
        let path = self.state_file();
        let text = serde_json::to_string_pretty(&self.state).map_err(|error| LabError::Input(error.to_string()))?;
        fs::write(&path, text).at("writing", &path)
    }
}

/// An order that waits for its moment.
pub struct Pending {
    line: SerialLine,
    token: String,
}

impl Pending {
    /// Waits until it is carried out, or its moment cannot come any more.
    pub fn wait(mut self, bound: Duration) -> Result<Answer> {
        self.line.finish(&self.token, bound)
    }
}

/// Takes the fleet for a change (up, down, boot): a second command waits until the first is done.
pub fn hold(home: &Home) -> Result<File> {
    let path = home.root.join(format!("{}.lock", home.fleet));
    let file = File::options().create(true).truncate(false).write(true).open(&path).at("opening", &path)?;
    flock(&file, FlockOperation::LockExclusive).at("locking", &path)?;
    Ok(file)
}
