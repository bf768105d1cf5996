//! What the kernel's log says of a process that was stopped by its system call filter: which call it was. The process
//! itself cannot tell.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

/// Longest record of the kernel's log (`PRINTK_MESSAGE_MAX` in `kernel/printk/internal.h`; a longer buffer costs nothing).
const RECORD_BYTES_MAX: usize = 8192;
/// The record is written by a thread of the kernel's, which may come after the end of the process.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The number of the system call for which the filter of this process ended it, once the process is gone. `None` if the
/// kernel does not say: it was built without audit, or the log cannot be read. Takes a second then.
pub fn filtered_call(pid: u32) -> Option<u32> {
    (0..LOOKS).find_map(|look| {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        last_filtered_call(pid)
    })
}

fn last_filtered_call(pid: u32) -> Option<u32> {
    let log = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut log = log.ok()?;
    let mut record = [0; RECORD_BYTES_MAX];
    let mut last = None;
    // A record a read, from the oldest that is kept to the newest; then EAGAIN. EPIPE: one was overwritten meanwhile.
    loop {
        match log.read(&mut record) {
            Ok(0) => return last,
            Ok(bytes) => last = call_in(&String::from_utf8_lossy(&record[..bytes]), pid).or(last),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => return last,
        }
    }
}

/// The system call in an audit record (AUDIT_SECCOMP is type 1326) about this process.
fn call_in(record: &str, pid: u32) -> Option<u32> {
    let (_, fields) = record.split_once("type=1326 ")?;
    let field = |name: &str| {
        let value = fields.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u32>().ok())
    };
    if field("pid")? == pid { field("syscall") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_found_in_the_record_of_its_process_only() {
        let record = "5,512,90210,-;audit: type=1326 audit(1795257390.397:2): auid=4294967295 uid=64001 gid=64001 \
                      ses=4294967295 subj=kernel pid=4242 comm=\"session\" exe=\"/init\" sig=31 arch=c000003e syscall=41 \
                      compat=0 ip=0x7f2b code=0x80000000\n";
        assert_eq!(call_in(record, 4242), Some(41));
        assert_eq!(call_in(record, 424), None);
        assert_eq!(call_in("6,511,90000,-;audit: type=1300 pid=4242 syscall=41", 4242), None);
        assert_eq!(call_in("6,510,1,-;Linux version 6.12", 4242), None);
    }
}
