//! A connection to a program that listens, by a path of this machine or by an address on the lab's wires: whoever talks over
//! it need not know which.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The connection; its clones are the same connection.
pub trait Socket: Read + Write + Send {
    /// How long a read waits; none: for ever.
    ///
    /// # Errors
    /// As setsockopt(2).
    fn set_read_timeout(&self, bound: Option<Duration>) -> io::Result<()>;

    /// The same connection, for a second user.
    ///
    /// # Errors
    /// As dup(2).
    fn try_clone(&self) -> io::Result<Box<dyn Socket>>;

    /// Ends it for all who use it: their reads end, and the other end sees it closed.
    ///
    /// # Errors
    /// It has ended by itself.
    fn shutdown(&self) -> io::Result<()>;
}

impl Socket for UnixStream {
    fn set_read_timeout(&self, bound: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(bound)
    }

    fn try_clone(&self) -> io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn shutdown(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}

impl Socket for TcpStream {
    fn set_read_timeout(&self, bound: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(bound)
    }

    fn try_clone(&self) -> io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn shutdown(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }
}
