//! As much of HTTP as it takes to get something from the machine of a server (RFC 1945, sections 5 and 6).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Doing, LabError, Result};
use crate::wire::Wires;

const PORT: u16 = 80;
/// How long the other end may be silent.
const SILENCE_BOUND: Duration = Duration::from_secs(60);

/// Asks for a path; the answer's content. An answer other than 200 is an error.
pub(super) fn get(wires: &Wires, from: Ipv4Addr, path: &str) -> Result<impl Read + use<>> {
    let asking = format!("asking {from} for {path}");
    let address = SocketAddr::from((from, PORT));
    let connected = wires.enter(|| TcpStream::connect_timeout(&address, SILENCE_BOUND))?;
    let mut stream = connected.doing(&asking)?;
    stream.set_read_timeout(Some(SILENCE_BOUND)).doing(&asking)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").doing(&asking)?;
    let mut answer = BufReader::new(stream);
    let mut lines = answer.by_ref().lines();
    let status = lines.next().unwrap_or_else(|| Ok(String::new())).doing(&asking)?;
    for line in lines {
        if line.doing(&asking)?.is_empty() {
            break;
        }
    }
    if is_good(&status) {
        return Ok(answer);
    }
    Err(LabError::Input(format!("{asking} gave: {status}")))
}

/// `HTTP/1.0 200 OK`
fn is_good(status: &str) -> bool {
    status.split(' ').nth(1) == Some("200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_by_its_status_only() {
        assert!(is_good("HTTP/1.0 200 OK") && is_good("HTTP/1.1 200 OK"));
        assert!(!is_good("HTTP/1.0 404 Not Found") && !is_good("HTTP/1.0 500 200") && !is_good(""));
    }
}
