//! Fills buffers with entropy of the host.

use crate::virtio::chain::Chain;
use crate::virtio::device::{Engine, Queues};
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::{Control, interest, wait_for};

/// Bytes given for one request at most; a driver that wants more asks again (5.4.6: "one or more bytes").
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// The working half.
#[derive(Debug)]
pub struct RngEngine;

impl Engine for RngEngine {
    fn ready(&self) -> bool {
        true
    }

    fn run(&mut self, queues: &mut Queues, control: &Control) {
        let Some(queue) = queues.first_mut().and_then(Option::as_mut) else { return control.park() };
        let mut chain = Chain::default();
        while !control.agree_to_stop() {
            while !control.stopping() && (serve(queue, &mut chain) || queue.enable_kicks()) {}
            queue.notify();
            let wake = interest(control.wake_descriptor(), libc::POLLIN);
            wait_for(&mut [wake, interest(queue.kick(), libc::POLLIN)]);
            control.take_wake();
            queue.take_kick();
        }
    }
}

/// Serves one request, if there is one.
fn serve(queue: &mut VirtQueue, chain: &mut Chain) -> bool {
    if !queue.pop(chain) {
        return false;
    }
    let wanted = chain.writable.bytes().min(REQUEST_BYTES_MAX);
    let mut given = 0;
    while given < wanted {
        let mut entropy = [0; 4096];
        let step = entropy.len().min(wanted - given);
        match rustix::rand::getrandom(&mut entropy[..step], rustix::rand::GetRandomFlags::empty()) {
            Ok(got) if got > 0 => {
                chain.writable.write(queue.memory(), given, &entropy[..got]);
                given += got;
            }
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    queue.push_used(chain.head, given as u32);
    true
}
