//! A VM, two hosts, the link between them, and what a move of the VM came to.

use model::cpu_report::{Baseline, CpuReport, CpuidLeaf};
use model::names::DatastoreName;
use model::receipt::Receipt;
use model::units::Bytes;
use model::vm_config::Verify;
use protocol::checks::facts::{
    DatastoreFacts, HostFacts, LinkFacts, Medium, NicFacts, Place, PortGroupFacts, Uplink, VmFacts,
};
use protocol::session::Draft;
use protocol::time::Instant;
use protocol::uplink_probe::{Agreed, Token};
use protocol::wire::message::{Offer, RunState};
use protocol::wire::{MigrationId, ValidatedOffer};

/// The `vm.toml` of the VM.
pub(crate) const VM_TOML: &str = include_str!("../../../../config/examples/witness/vm.toml");

pub(crate) fn vm() -> VmFacts {
    let datastore: DatastoreName = "nfs1".parse().expect("valid");
    let place = Place::Datastore(datastore.clone());
    VmFacts {
        name: "web".parse().expect("valid"),
        memory: Bytes::mib(512),
        cpus: 2,
        baseline: Baseline::V2,
        affinity: Some(vec![0, 1]),
        media: vec![Medium { what: "disk 0".to_owned(), file: "root.raw".to_owned(), place }],
        datastore,
        nics: vec!["lab".parse().expect("valid")],
    }
}

pub(crate) fn cpu() -> CpuReport {
    let all = u32::MAX;
    let leaf = |function| CpuidLeaf { function, eax: all, ebx: all, ecx: all, edx: all, ..CpuidLeaf::default() };
    CpuReport {
        brand: "EPYC".to_owned(),
        vendor: "AuthenticAMD".to_owned(),
        signature: [25, 1, 1],
        tsc_khz: 2_000_000,
        leaves: [1, 7, 0xd, 0x8000_0001, 0x8000_0007, 0x8000_0008].map(leaf).to_vec(),
    }
}

pub(crate) fn host(name: &str) -> HostFacts {
    let datastore = DatastoreFacts {
        name: "nfs1".parse().expect("valid"),
        identity: "nfs 10.0.0.1:/vms".to_owned(),
        area: Some("1f".repeat(16)),
        writable: true,
        trouble: String::new(),
    };
    HostFacts {
        host: name.parse().expect("valid"),
        cpu: cpu(),
        memory_free: Bytes::mib(4096),
        datastores: vec![datastore],
        port_groups: vec![PortGroupFacts { label: "lab".parse().expect("valid"), vlan: Some(10), uplink: Uplink::Up }],
        maintenance: false,
        nic: NicFacts { speed_mbits: Some(10_000), full_duplex: Some(true), mtu: 9000 },
        slots_free: 4,
        vms: vec!["db".parse().expect("valid")],
    }
}

pub(crate) fn link() -> LinkFacts {
    LinkFacts { rtt_us: 200, bandwidth_bytes_per_s: Some(1_100_000_000), mtu: Some(9000) }
}

pub(crate) fn offer(machine: Vec<u8>) -> ValidatedOffer {
    let offer = Offer {
        vm: vm(),
        config_text: VM_TOML.to_owned(),
        machine,
        source: host("host-a"),
        link: link(),
        run_state: RunState::Paused,
        epoch: 7,
        state_bytes: 60_000,
        stun_us_max: 300_000,
        verify: Verify::Audit,
        check_only: false,
        force_link: false,
        probe: vec![Agreed {
            label: "lab".parse().expect("valid"),
            source: Token([1; Token::BYTES]),
            destination: Token([2; Token::BYTES]),
        }],
    };
    ValidatedOffer::new(offer).expect("within its bounds")
}

pub(crate) fn receipt() -> Receipt {
    let host_b = "host-b".parse().expect("valid");
    let draft = Draft::new(Instant::ZERO, 1_800_000_000, MigrationId(7), &offer(vec![1]), host_b);
    Receipt { predicted_moved_us: Some(1_500_000), ..draft.receipt().clone() }
}
