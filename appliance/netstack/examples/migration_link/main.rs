//! Measures the migration stack between two namespaces, next to kernel TCP on a wire of the same kind.
//!
//! `cargo run --release -p netstack --example migration_link [-- --seconds 3 --repeat 3 --stuns 300 --json]`, as root: over a
//! veth. Prints payload Gbit/s, the same for each busy core of sender and receiver, and the stun case: 2 MiB after 20 ms of
//! silence until the peer's application says that it has them.
//!
//! `... -- --wire [--loss 0.1]... [--rtt 10]... [--gbits 1] [--mtu 1500] [--seconds 10 --repeat 3 --json]`: over a wire of that
//! rate that delays and loses (`world::carrier`), with all that kernel TCP has for congestion control, in turns. A loss in per
//! cent is of each direction, a round trip in ms of both; without them, 0, 0.1 and 1 % at 0.2, 10 and 75 ms. First comes
//! how fast the wire itself is: without rate, delay and loss.

#[path = "../../tests/world/mod.rs"]
mod world;

mod arguments;
mod figures;
mod kernel_tcp;
mod migration_stack;
mod over_a_carried_wire;
mod over_a_veth;

fn main() {
    if world::cannot_run() {
        return;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments = arguments::Arguments::read(&words);
    match &arguments.carried {
        None => over_a_veth::run(&arguments),
        Some(wire) => over_a_carried_wire::run(&arguments, wire),
    }
}
