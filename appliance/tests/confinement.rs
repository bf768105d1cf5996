//! What a monitor process cannot do: it sees no file.

mod world;

use world::{Datastore, Host};

#[test]
fn for_a_monitor_no_path_leads_anywhere() {
    let Some(datastore) = Datastore::with_witness("nowhere") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let pid = host.pid("witness").expect("it runs");
    for place in ["root", "cwd"] {
        let there: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/{place}/")).expect("readable").flatten().collect();
        assert!(there.is_empty(), "{place}: {there:?}");
    }
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/root")).ok(),
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
    );
}
