//! Whose a host's serial line is: one process at a time types on it. Commands take turns; a person who sits at it stays for as long as
//! they like, and whoever comes meanwhile is told so at once.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::termios::ttyname;

use crate::error::{Doing, LabError, Result};

/// Pause between two tries while a command has it.
const AGAIN: Duration = Duration::from_millis(50);

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Something that types a command and goes.
    Command,
    /// A person at a terminal.
    Person,
}

/// The line is this process's until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Owned {
    lock: File,
}

impl Owned {
    /// Takes the line of `host` that QEMU serves at `socket`; waits while a command has it.
    ///
    /// # Errors
    /// A person sits at it, or the file cannot be used.
    pub fn take(socket: &Path, host: &str, owner: Owner) -> Result<Self> {
        let lock = &socket.with_extension("lock");
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(lock);
        let mut file = opened.at("opening", lock)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error).at("locking", lock),
            }
            let mut note = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut note)).at("reading", lock)?;
            if !note.is_empty() {
                return Err(LabError::Input(refusal(host, note.trim_end())));
            }
            std::thread::sleep(AGAIN);
        }
        // What is there was left by a person whose process was killed.
        file.set_len(0).and_then(|()| file.rewind()).at("writing", lock)?;
        if owner == Owner::Person {
            file.write_all(own_note().as_bytes()).at("writing", lock)?;
        }
        Ok(Self { lock: file })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Before the lock is free: a note without a lock is nobody's, and a lock with the note of another would be.
        let _ = self.lock.set_len(0);
    }
}

/// `4242, on /dev/pts/3`
fn own_note() -> String {
    let terminal = ttyname(std::io::stdin().as_fd(), Vec::new()).ok().and_then(|name| name.into_string().ok());
    let on = terminal.map(|terminal| format!(", on {terminal}")).unwrap_or_default();
    format!("{}{on}\n", std::process::id())
}

fn refusal(host: &str, note: &str) -> String {
    let process = note.split(',').next().unwrap_or(note);
    format!(
        "somebody sits at the console of {host}: cargo lab console, process {note}\n\
         hint: type there, or end it with Ctrl-\\ there, or with: kill {process}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lock(std::path::PathBuf);

    impl Lock {
        fn of(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("lab-line-{name}-{}.lock", std::process::id())))
        }

        fn take(&self, owner: Owner) -> Result<Owned> {
            Owned::take(&self.0, "host-a", owner)
        }
    }

    impl Drop for Lock {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn who_comes_while_a_person_sits_at_a_console_is_told_at_once_who_that_is_and_how_it_ends() {
        let lock = Lock::of("person");
        let person = lock.take(Owner::Person).expect("nobody has it");
        for owner in [Owner::Command, Owner::Person] {
            let refusal = lock.take(owner).expect_err("a person has it").to_string();
            for told in ["host-a", "Ctrl-\\", &format!("kill {}", std::process::id())] {
                assert!(refusal.contains(told), "{told}: {refusal}");
            }
        }
        drop(person);
        drop(lock.take(Owner::Command).expect("the person left"));
        // One that was killed leaves its note, and not its lock.
        std::fs::write(&lock.0, "1\n").expect("written");
        drop(lock.take(Owner::Command).expect("nobody has it"));
        assert_eq!(std::fs::read_to_string(&lock.0).expect("read"), "");
    }

    #[test]
    fn commands_take_turns_and_a_person_waits_for_the_end_of_one() {
        let lock = Lock::of("turns");
        for second in [Owner::Command, Owner::Person] {
            let first = lock.take(Owner::Command).expect("nobody has it");
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| lock.take(second).map(drop));
                // Time to be refused in; nothing waits for it.
                std::thread::sleep(AGAIN * 2);
                assert!(!waits.is_finished(), "it did not wait");
                drop(first);
                waits.join().expect("no panic").expect("its turn came");
            });
        }
    }
}
