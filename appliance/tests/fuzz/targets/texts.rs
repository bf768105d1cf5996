//! Small files that lie on a datastore, or on the boot medium.

use godwit::host::discovery::HostRecord;
use model::cpu_report::comparison::Comparison;
use model::host_config::Layers;
use model::receipt::Receipt;
use model::vm_config::{Draft, VmConfig};

use super::{Outcome, Prepared, example};

const HOST_DEFAULTS: &str = include_str!("../../../../config/host.toml");
const HOST_TOML: &str = r#"hostname = "host-a"
[management]
nic = "52:54:00:00:00:01"
address = "192.168.0.11/24"
[vswitch.vs0]
uplink = "0000:00:05.0"
[port_group.lab]
vswitch = "vs0"
vlan = 10
[migration_nic]
nic = "eth1"
address = "10.0.0.11/24"
[datastore.lab]
server = "192.168.0.2"
export = "/lab"
"#;
const HOST_RECORD: &str = r#"name = "host-b"
identity = "00000000000000000000000000000000"
earlier = ["0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"]
version = "0.1.0"
beat = 7
vms = 1
running = ["web"]
cpus = 8
busy_permille = 125
memory = 4294967296
memory_free = 1073741824

[migration]
address = "10.0.0.2"
port = 7780
public_key = "0aff"

[datastores.lab]
area = "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f"
available = true

[port_groups]
"lab net" = 10
"#;
/// A reader keeps a text, its tree, and an error with a place for each line of it.
const BYTES_MAX: usize = 256 << 20;

/// What the first byte of an input says it is.
#[derive(Clone, Copy)]
enum Kind {
    Vm,
    Host,
    Words,
    Record,
    Receipt,
}

const KINDS: [Kind; 5] = [Kind::Vm, Kind::Host, Kind::Words, Kind::Record, Kind::Receipt];

pub(super) fn prepare() -> Result<Prepared, String> {
    let record: HostRecord = toml::from_str(HOST_RECORD).map_err(|error| error.to_string())?;
    let record = HostRecord { cpu: Some(example::cpu()), ..record };
    let record = toml::to_string(&record).map_err(|error| error.to_string())?;
    let receipt = toml::to_string(&example::receipt()).map_err(|error| error.to_string())?;
    let words = "quiet godwit.log_level=debug godwit.hostname=host-c console=ttyS0";
    let texts = [example::VM_TOML, HOST_TOML, words, &record, &receipt];
    let inputs = texts.iter().zip(0u8..).map(|(text, kind)| [&[kind], text.as_bytes()].concat()).collect();
    Ok(Prepared { inputs, text: true, bytes_max: BYTES_MAX, execute: Box::new(read) })
}

/// Whether a host can be configured so.
fn configured(lay: impl FnOnce(&mut Layers) -> bool) -> bool {
    let mut layers = Layers::new("defaults", HOST_DEFAULTS).expect("TOML");
    let laid = lay(&mut layers);
    match layers.read() {
        Ok(_) => laid,
        Err(errors) => {
            assert!(errors.iter().all(|error| !error.to_string().is_empty()));
            false
        }
    }
}

fn read(input: &[u8]) -> Outcome {
    let Some((kind, text)) = input.split_first() else { return Outcome::Refused };
    // A file that is not UTF-8 is refused where it is read; what it would say, mended, is tried.
    let text = String::from_utf8_lossy(text);
    let taken = match KINDS[usize::from(*kind) % KINDS.len()] {
        Kind::Vm => {
            let _ = Draft::read("vm.toml", &text, Some(&"web".parse().expect("valid")));
            VmConfig::parse("vm.toml", &text).is_ok()
        }
        Kind::Host => configured(|layers| layers.file("godwit/host.toml", &text).is_ok()),
        Kind::Words => configured(|layers| {
            layers.file("godwit/host.toml", HOST_TOML).is_ok() && layers.kernel_words(&text).is_ok()
        }),
        Kind::Record => match toml::from_str::<HostRecord>(&text) {
            Ok(record) => {
                if let Some(cpu) = &record.cpu {
                    let comparison = Comparison::of(&example::cpu(), cpu);
                    let _ = (comparison.is_empty(), comparison.parts_all());
                }
                toml::to_string(&record).is_ok()
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        },
        Kind::Receipt => match toml::from_str::<Receipt>(&text) {
            Ok(receipt) => {
                let _ = (receipt.moved_us(), receipt.stun_is_over(), receipt.last_round_in_stun());
                let answer = godwit::api::host::HostAnswer::Migrated(Box::new(receipt));
                !godwit::console::render::text(&answer).is_empty()
            }
            Err(_) => false,
        },
    };
    Outcome::taken_if(taken)
}
