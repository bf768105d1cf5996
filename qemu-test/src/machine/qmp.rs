//! QEMU's control protocol (QEMU, docs/interop/qmp-spec): one command at a time.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Doing, LabError, Result};
use crate::machine::spec::Machine;

impl Machine {
    /// Stops the whole host with its clock: it does not know afterwards that time has passed.
    pub fn freeze(&self) -> Result<()> {
        self.command("stop").map(drop)
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self) -> Result<()> {
        self.command("cont").map(drop)
    }

    /// Whether the host's CPUs run (it is neither frozen nor stopped by an error of QEMU's).
    pub fn is_frozen(&self) -> Result<bool> {
        let status = self.command("query-status")?;
        Ok(status.get("running").and_then(Value::as_bool) == Some(false))
    }

    fn command(&self, name: &str) -> Result<Value> {
        let path = self.qmp_socket();
        let mut stream = UnixStream::connect(&path).at("connecting to", &path)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).at("setting up", &path)?;
        let mut answers = BufReader::new(stream.try_clone().at("setting up", &path)?);
        for execute in ["qmp_capabilities", name] {
            writeln!(stream, "{}", json!({ "execute": execute })).at("writing to", &path)?;
            loop {
                let mut line = String::new();
                if answers.read_line(&mut line).at("reading from", &path)? == 0 {
                    return Err(LabError::Host {
                        host: self.spec.name.clone(),
                        what: "QEMU closed its control socket".into(),
                    });
                }
                let answer: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
                if let Some(error) = answer.get("error") {
                    return Err(LabError::Host {
                        host: self.spec.name.clone(),
                        what: format!("QEMU refused {execute}: {error}"),
                    });
                }
                match answer.get("return") {
                    Some(value) if execute == name => return Ok(value.clone()),
                    Some(_) => break,
                    None => {} // the greeting, or an event
                }
            }
        }
        Ok(Value::Null)
    }
}
