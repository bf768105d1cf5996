//! Two stacks over a veth: what the migration stack promises its caller.

mod world;

use std::time::Instant;

use world::{Host, Wire, connect, transfer, until};

#[test]
fn hosts_that_know_each_other_talk_in_order_and_exchange_whole_records() {
    if world::cannot_run() {
        return;
    }
    for ipv6 in [false, true] {
        let wire = Wire::new(1500, 1500);
        let mut a = Host::new(Wire::nic(&wire.a, None).unwrap(), 1, ipv6);
        let mut b = Host::new(Wire::nic(&wire.b, None).unwrap(), 2, ipv6);
        let ids = connect(&mut a, &mut b);
        for number in 0..1000u32 {
            a.stack.send_control(ids.0, &number.to_le_bytes()).unwrap();
        }
        b.stack.send_control(ids.1, b"back").unwrap();
        let (mut next, mut back) = (0u32, false);
        until(&mut a, &mut b, "control messages", |a, b| {
            while let Some(message) = b.stack.recv_control(ids.1, Instant::now()) {
                assert_eq!(message[..], next.to_le_bytes());
                next += 1;
            }
            while let Some(message) = a.stack.recv_control(ids.0, Instant::now()) {
                assert_eq!(&message[..], b"back");
                back = true;
            }
            (next == 1000 && back).then_some(())
        });
        transfer(&mut a, &mut b, ids, 200, 100_000);
        println!("{:?}", a.estimates(ids.0));
    }
}
