//! Debian's QEMU with the witness as its guest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::case::Case;
use crate::bench::contestant::{Contestant, Guest, MOVE_BOUND, Moved};
use crate::bench::conversation::Conversation;
use crate::bench::link::{Link, kernel_address};
use crate::bench::surroundings;
use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::machine::Qmp;
use crate::wait;

const PORT: u16 = 4446;
/// More than any link here carries, bytes a second: QEMU's default is 128 MiB/s.
const BANDWIDTH_MAX: u64 = 100_000_000_000;

/// Connections of multifd.
const CHANNELS: u32 = 4;
/// QEMU's name of the key that both ends know.
const CREDENTIALS: &str = "tls0";

/// How QEMU is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Machine type q35, moved over one TCP connection (its default) or over [`CHANNELS`] of multifd, in the clear or by TLS.
    Q35 { multifd: bool, tls: bool },
    /// Machine type microvm, only started.
    MicroVm,
}

impl Way {
    /// All ways.
    pub(super) const ALL: [Self; 5] = [
        Self::Q35 { multifd: false, tls: false },
        Self::Q35 { multifd: false, tls: true },
        Self::Q35 { multifd: true, tls: false },
        Self::Q35 { multifd: true, tls: true },
        Self::MicroVm,
    ];

    fn has_multifd(self) -> bool {
        matches!(self, Self::Q35 { multifd: true, .. })
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Q35 { tls: true, .. })
    }
}

/// Writes the key that both ends know where they look for it (gnutls' `psktool` writes such files).
pub(super) fn write_key(folder: &Path) -> Result<()> {
    let mut key = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut key))
        .doing("drawing a key")?;
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join("keys.psk");
    std::fs::write(&path, format!("qemu:{key}\n")).at("writing", &path)
}

/// QEMU, used in one way.
pub(super) struct Qemu<'a> {
    pub(super) way: Way,
    pub(super) link: &'a Link,
    pub(super) kernel: &'a Path,
    /// Where its control sockets lie.
    pub(super) folder: &'a Path,
}

impl Contestant for Qemu<'_> {
    fn name(&self) -> String {
        let Way::Q35 { multifd, tls } = self.way else { return "QEMU microvm, qboot".into() };
        let connections = if multifd { format!("multifd {CHANNELS}") } else { "TCP".into() };
        format!("QEMU q35, {connections}{}", if tls { ", TLS" } else { "" })
    }

    fn moves(&self) -> bool {
        self.way != Way::MicroVm
    }

    fn start(&mut self, case: Case) -> Result<Box<dyn Guest + '_>> {
        let ordered_tsc = surroundings::tsc();
        let source = self.end(case, 0)?;
        Ok(Box::new(Running { qemu: self, case, ordered_tsc, source, destination: None, moved: false }))
    }
}

impl Qemu<'_> {
    fn socket(&self, end: usize) -> PathBuf {
        self.folder.join(format!("qmp-{end}"))
    }

    fn end(&self, case: Case, end: usize) -> Result<Conversation> {
        let machine = if self.way == Way::MicroVm { "microvm" } else { "q35" };
        let socket = self.socket(end);
        let _ = std::fs::remove_file(&socket);
        let mut command = self.link.at(end, "qemu-system-x86_64");
        // `-cpu host` alone fails where the kernel does not let a guest read IA32_ARCH_CAPABILITIES.
        command.args(["-accel", "kvm", "-M", machine, "-cpu", "host,-arch-capabilities", "-smp", "1"]);
        command.args(["-m", &case.memory_mib.to_string(), "-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-serial", "stdio", "-no-reboot", "-append", &case.cmdline(), "-kernel"]).arg(self.kernel);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        if self.way == Way::MicroVm {
            // Its default firmware takes many times as long where ring 0 is emulated.
            command.args(["-bios", "qboot.rom"]);
        }
        if self.way.has_tls() {
            let endpoint = if end == 0 { "client" } else { "server" };
            let folder = self.folder.display();
            command.args(["-object", &format!("tls-creds-psk,id={CREDENTIALS},endpoint={endpoint},dir={folder}")]);
        }
        if end == 1 {
            command.args(["-incoming", "defer"]);
        }
        Conversation::begin(command)
    }

    fn connect(&self, end: usize) -> Result<Qmp> {
        let socket = self.socket(end);
        let connect = || Ok(Qmp::connect("QEMU", &socket).map_err(|error| error.to_string()));
        wait::until("QEMU's control socket", Duration::from_secs(60), connect)
    }

    /// Sets what both ends must agree on.
    fn agree(&self, case: Case, qmp: &mut Qmp) -> Result<()> {
        let capabilities = [("events", true), ("auto-converge", true), ("multifd", self.way.has_multifd())];
        let capabilities = capabilities.map(|(name, state)| json!({ "capability": name, "state": state }));
        qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
        let mut parameters = json!({ "downtime-limit": case.stun_ms_max, "max-bandwidth": BANDWIDTH_MAX });
        if self.way.has_multifd() {
            parameters["multifd-channels"] = json!(CHANNELS);
        }
        if self.way.has_tls() {
            parameters["tls-creds"] = json!(CREDENTIALS);
        }
        qmp.execute("migrate-set-parameters", parameters).map(drop)
    }
}

struct Running<'a> {
    qemu: &'a Qemu<'a>,
    case: Case,
    ordered_tsc: u64,
    source: Conversation,
    destination: Option<Destination>,
    moved: bool,
}

/// The waiting other end, and the control sockets of both.
struct Destination {
    machine: Conversation,
    qmp: [Qmp; 2],
}

impl Guest for Running<'_> {
    fn ordered_tsc(&self) -> u64 {
        self.ordered_tsc
    }

    fn serial(&mut self) -> &mut Conversation {
        match &mut self.destination {
            Some(destination) if self.moved => &mut destination.machine,
            _ => &mut self.source,
        }
    }

    fn machine(&self) -> u32 {
        self.source.pid()
    }

    fn workers(&self) -> Vec<u32> {
        let destination = self.destination.iter().map(|destination| destination.machine.pid());
        std::iter::once(self.source.pid()).chain(destination).collect()
    }

    fn prepare_move(&mut self) -> Result<()> {
        let machine = self.qemu.end(self.case, 1)?;
        let mut qmp = [self.qemu.connect(0)?, self.qemu.connect(1)?];
        for end in &mut qmp {
            self.qemu.agree(self.case, end)?;
        }
        qmp[1].execute("migrate-incoming", json!({ "uri": format!("tcp:{}:{PORT}", kernel_address(1)) }))?;
        self.destination = Some(Destination { machine, qmp });
        Ok(())
    }

    fn migrate(&mut self) -> Result<Moved> {
        let Some(Destination { qmp: [source, destination], .. }) = &mut self.destination else {
            return Err(LabError::Input("the move was not prepared".into()));
        };
        let ordered = Instant::now();
        source.execute("migrate", json!({ "uri": format!("tcp:{}:{PORT}", kernel_address(1)) }))?;
        let status = |event: &Value| event["data"]["status"].as_str().unwrap_or_default().to_owned();
        let is_end = |event: &Value| {
            event["event"] == "MIGRATION" && ["completed", "failed", "cancelled"].contains(&status(event).as_str())
        };
        let ended = source.event("the end of the move", MOVE_BOUND, is_end)?;
        if status(&ended) != "completed" {
            let why = source.execute("query-migrate", json!({}))?;
            return Err(LabError::Input(format!("QEMU did not move its guest: {why}")));
        }
        destination.event("the guest at the other end", MOVE_BOUND, |event| event["event"] == "RESUME")?;
        let whole = ordered.elapsed();
        self.moved = true;
        let told = source.execute("query-migrate", json!({}))?;
        let number = |value: &Value| {
            value.as_u64().ok_or_else(|| LabError::Input(format!("QEMU's account of the move is not whole: {told}")))
        };
        let (sent_bytes, stun_ms) = (number(&told["ram"]["transferred"])?, number(&told["downtime"])?);
        Ok(Moved { runs_there: whole, whole, sent_bytes, stun: Duration::from_millis(stun_ms) })
    }

    fn end(self: Box<Self>) -> Result<()> {
        // Both machines end with their conversations.
        Ok(())
    }
}

/// QEMU's version, as it says it: `10.0.2 (Debian 1:10.0.2+ds-2)`.
pub(super) fn version() -> Result<String> {
    let said = Child::new("qemu-system-x86_64", ["--version"]).output()?;
    let version =
        said.lines().next().and_then(|line| line.split_once("version ")).map(|(_, version)| version.to_owned());
    version.ok_or(std::io::ErrorKind::InvalidData).doing("reading QEMU's version")
}
