//! Measures what compression does to the transfer of a guest's memory: each link and each content with and without it,
//! taking turns in one run.
//!
//! `cargo run --release -p godwit --example compression [-- MIB REPETITIONS]`, as root. The pages are read, hashed, sent,
//! received, unpacked, stored and hashed again by what moves a VM, on two threads with a NIC each; only the guest is a
//! memfd. *programs* are the bytes of this machine's own programs and libraries, *noise* what nothing can make shorter.
//! Prints medians: seconds, MiB of the guest a second, MiB sent, and the processor time of the sending thread.

#[path = "../tests/world/cable.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod cable;
#[path = "../netstack/tests/world/mod.rs"]
mod world;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cable::Cable;
use godwit::migrate::compression::Compressor;
use godwit::migrate::memory::GuestRam;
use godwit::migrate::records::{Sending, Step, Storage};
use netstack::probe::Probe;
use netstack::stack::TransportLimits;
use netstack::{ConnectionId, Event, Nic};
use protocol::pages::{PAGE_BYTES, PageSet, Sweep};
use protocol::source::Batch;
use protocol::wire::{MigrationId, ValidatedRecord};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use world::{Host, Wire};

const MIGRATION: MigrationId = MigrationId(1);

/// One transfer.
#[derive(Clone, Copy)]
struct Figures {
    took: Duration,
    sent_bytes: u64,
    cpu: Duration,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn memory(pages: u64) -> Arc<GuestRam> {
    let memfd = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memfd, pages * PAGE_BYTES as u64).expect("a size");
    Arc::new(GuestRam::over(memfd, pages * PAGE_BYTES as u64).expect("its memory"))
}

/// Memory that holds this machine's programs, one after the other.
fn programs(pages: u64) -> Arc<GuestRam> {
    let (ram, mut page, mut at) = (memory(pages), [0; PAGE_BYTES], 0);
    let mut folders = vec![Path::new("/usr/bin").to_owned(), Path::new("/usr/lib").to_owned()];
    while let (Some(folder), true) = (folders.pop(), at < pages) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            }
            let Some(mut file) = kind.is_file().then(|| File::open(entry.path()).ok()).flatten() else { continue };
            while at < pages && file.read_exact(&mut page).is_ok() {
                ram.write(at, &page).expect("a page");
                at += 1;
            }
        }
    }
    println!("{} MiB of programs", (at * PAGE_BYTES as u64) >> 20);
    ram
}

fn noise(pages: u64) -> Arc<GuestRam> {
    let (ram, mut page, mut state) = (memory(pages), [0; PAGE_BYTES], 0x9e37_79b9_7f4a_7c15_u64);
    for at in 0..pages {
        for word in page.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        ram.write(at, &page).expect("a page");
    }
    ram
}

fn host(namespace: &str, last: u8) -> Host<Nic> {
    Host::with_limits(Wire::nic(namespace, None).expect("a NIC"), last, false, TransportLimits::default())
}

/// The destination: stores what comes, and says when all of it is there.
fn receive(mut host: Host<Nic>, pages: u64) {
    let (mut storage, mut covered, mut told) = (Storage::new(memory(pages)), 0, false);
    let mut connection: Option<ConnectionId> = None;
    loop {
        host.poll();
        for event in host.events.split_off(0) {
            match event {
                Event::Connected { connection: id, .. } => connection = Some(id),
                Event::Closed { .. } => return,
                _ => {}
            }
        }
        if let Some(id) = connection {
            while let Some(record) = host.stack.recv_record(id, Instant::now()) {
                let record = ValidatedRecord::parse(&record, MIGRATION, pages).expect("a record");
                covered += storage.store(&record).expect("stored").covered;
            }
            if covered == pages && !told {
                told = true;
                host.stack.send_control(id, b"stored").expect("sent");
                continue;
            }
        }
        host.stack.wait(Instant::now(), None, &[]).expect("waited");
    }
}

/// The source: measures the path as a move does, then sends all of memory.
fn send(host: &mut Host<Nic>, id: ConnectionId, peer_mtu: u16, ram: &GuestRam, mut compressor: Compressor) -> Figures {
    let mut probe = Probe::new(id, peer_mtu, Instant::now());
    while probe.advance(&mut host.stack, Instant::now()).is_none() {
        let now = Instant::now();
        host.stack.wait(now, Some(probe.deadline(now)), &[]).expect("waited");
        host.poll();
    }
    let windows = Sweep::new(PageSet::full(ram.pages())).take(ram.pages());
    let mut sending = Sending::new(MIGRATION, Batch { id: 1, round: 1, windows });
    let (began, cpu_began) = (Instant::now(), cpu());
    let sent = loop {
        compressor.link_carries(host.estimates(id).delivery_rate_bytes);
        let stack = std::cell::RefCell::new(&mut host.stack);
        let step = sending.go_on(
            ram,
            &mut compressor,
            || stack.borrow_mut().buffer(id),
            |record| stack.borrow_mut().send_record(id, record),
        );
        match step.expect("connected") {
            Step::Done(sent) => break sent,
            Step::Full => {
                host.poll();
                host.events.clear();
                host.stack.wait(Instant::now(), None, &[]).expect("waited");
                host.poll();
                host.events.clear();
            }
        }
    };
    while host.stack.recv_control(id, Instant::now()).is_none() {
        host.stack.wait(Instant::now(), None, &[]).expect("waited");
        host.poll();
        assert_eq!(host.closed(), None);
        host.events.clear();
    }
    Figures { took: began.elapsed(), sent_bytes: sent.bytes, cpu: cpu() - cpu_began }
}

fn transfer(cable: &Cable, ram: &GuestRam, compressor: Compressor) -> Figures {
    let (mut a, b) = (host(cable.namespace(0), 1), host(cable.namespace(1), 2));
    b.stack.allowed().insert(a.key);
    let (address, key, pages) = (b.address, b.key, ram.pages());
    thread::scope(|scope| {
        let receiver = scope.spawn(move || receive(b, pages));
        let id = a.stack.connect(address, key, Instant::now()).expect("a connection");
        let peer_mtu = loop {
            a.poll();
            if let Some((_, _, peer_mtu)) = a.connected() {
                break peer_mtu;
            }
            a.stack.wait(Instant::now(), None, &[]).expect("waited");
        };
        let figures = send(&mut a, id, peer_mtu, ram, compressor);
        a.stack.close(id, 0, "done", Instant::now());
        receiver.join().expect("it ended");
        figures
    })
}

fn print(link: &str, content: &str, how: &str, pages: u64, mut figures: Vec<Figures>) {
    figures.sort_by_key(|figures| figures.took);
    let median = figures[figures.len() / 2];
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (seconds, all) = (median.took.as_secs_f64(), mib(pages * PAGE_BYTES as u64));
    let (sent, cpu) = (mib(median.sent_bytes), median.cpu.as_secs_f64());
    println!("{link:<10} {content:<9} {how:<10} {seconds:>8.2} {:>9.0} {sent:>8.0} {cpu:>8.2}", all / seconds);
}

fn main() {
    let number =
        |at: usize, default: u64| std::env::args().nth(at).map_or(default, |text| text.parse().expect("a number"));
    let (pages, repetitions) = (number(1, 512) << 8, number(2, 3));
    if world::cannot_run() {
        return;
    }
    let contents = [("programs", programs(pages)), ("noise", noise(pages))];
    println!("{:<10} {:<9} {:<10} {:>8} {:>9} {:>8} {:>8}", "link", "content", "", "s", "MiB/s", "sent MiB", "CPU s");
    for (link, rate) in [("1 Gbit/s", Some("1gbit")), ("2.5 Gbit/s", Some("2500mbit")), ("veth", None)] {
        let cable = match rate {
            Some(_) => Cable::lay_through_switches("pack", 9000),
            None => Cable::lay("pack"),
        };
        let Some(cable) = cable.filter(|cable| rate.is_none_or(|rate| cable.carries(rate))) else { continue };
        for (content, ram) in &contents {
            let (mut without, mut with) = (Vec::new(), Vec::new());
            for _ in 0..repetitions {
                without.push(transfer(&cable, ram, Compressor::never()));
                with.push(transfer(&cable, ram, Compressor::default()));
            }
            print(link, content, "as it is", pages, without);
            print(link, content, "compressed", pages, with);
        }
    }
}
