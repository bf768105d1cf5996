//! A Debian with PostgreSQL, and what is asked of it from outside by PostgreSQL's own programs: they run on this machine, in the
//! lab's network namespace, out of the base system that the guest is made from.
//!
//! `workload` is pgbench, whose transactions are counted; `ledger` a client that writes numbered rows, one transaction each.

mod ledger;
mod workload;

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::child::Child;
use crate::debian::{Base, Debian, Recipe};
use crate::error::{Doing, LabError, Result};
use crate::guests::debian;
use crate::home::Home;
use crate::wire::Wires;

pub use ledger::Ledger;
pub use workload::Workload;

/// Room for the base system (280 MiB of it are read) and what some hours of pgbench write.
const ROOT_BYTES: u64 = 1 << 30;
/// Where Debian keeps PostgreSQL, in a folder named after its version.
const VERSIONS: &str = "usr/lib/postgresql";
/// How long one question may take. Reading every page of the database is the longest, on an emulated host.
const QUESTION_BOUND: Duration = Duration::from_secs(300);

/// How long a connection may take to come about, seconds: the guest may be in its stun.
const CONNECT_BOUND_S: &str = "60";

/// Makes the database in the root: with checksums on its pages, pgbench's tables, the ledger, and the extension that checks indexes.
/// Its files are written out often, so that moves meet that. What compiles queries (110 MB) is left out.
const PREPARE: &str = r#"
ln -s /usr/lib/postgresql/* /usr/local/postgresql
rm -rf /var/lib/postgresql/*
rm -f /usr/lib/x86_64-linux-gnu/libLLVM* /usr/lib/x86_64-linux-gnu/libz3*
install -d -o postgres -g postgres /var/lib/postgresql/lab /run/postgresql
as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
cd /var/lib/postgresql/lab
pg=/usr/local/postgresql/bin
as $pg/initdb --pgdata=. --data-checksums --auth=trust --no-locale --encoding=UTF8
cat >>postgresql.conf <<END
listen_addresses = '*'
unix_socket_directories = '/run/postgresql'
dynamic_shared_memory_type = posix
shared_buffers = 24MB
max_connections = 20
checkpoint_timeout = 30s
jit = off
END
echo 'host all,replication all 10.77.4.0/24 trust' >>pg_hba.conf
as $pg/pg_ctl --pgdata=. --wait --options="-c listen_addresses= -c dynamic_shared_memory_type=mmap" --log=/dev/null start
as $pg/pgbench --quiet --initialize --scale=1 postgres
as $pg/psql --quiet postgres <<END
CREATE EXTENSION amcheck;
CREATE TABLE ledger (number bigint NOT NULL, note text NOT NULL);
CREATE INDEX ON ledger (number);
END
as $pg/pg_ctl --pgdata=. --wait stop
"#;

/// Starts the server, in the background.
const SERVICES: &str = r"mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm
install -d -o postgres -g postgres /run/postgresql
setpriv --reuid postgres --regid postgres --clear-groups \
    /usr/local/postgresql/bin/postgres -D /var/lib/postgresql/lab >/dev/ttyS0 2>&1 &";

/// Makes what is not up to date.
pub(super) fn build(home: &Home) -> Result<Debian> {
    let usual = debian::recipe(home, "database", SERVICES)?;
    Debian::build(home, &Recipe { base: Base::POSTGRESQL, prepare: PREPARE, root_bytes: ROOT_BYTES, ..usual })
}

/// The database of a guest, as its clients reach it.
#[derive(Debug, Clone)]
pub struct Database {
    wires: Wires,
    base: PathBuf,
    /// Where the programs lie in the base system.
    programs: PathBuf,
    address: Ipv4Addr,
}

impl Database {
    /// That of the guest with this address.
    ///
    /// # Errors
    /// The base system with the clients is not there and cannot be made.
    pub fn of(home: &Home, wires: &Wires, address: Ipv4Addr) -> Result<Self> {
        let base = Base::POSTGRESQL.tree(home)?;
        let versions = base.join(VERSIONS);
        let version = fs::read_dir(&versions).at("reading", &versions)?.flatten().next();
        let version = version.ok_or_else(|| LabError::Input(format!("{} is empty", versions.display())))?;
        let programs = Path::new("/").join(VERSIONS).join(version.file_name()).join("bin");
        Ok(Self { wires: wires.clone(), base, programs, address })
    }

    /// The answer to a question in SQL, its fields separated by `|`.
    ///
    /// # Errors
    /// It is not answered, or not in time.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let said = self.program("psql", QUESTION_BOUND).args(PSQL).args(["--command", sql]).output()?;
        Ok(said.trim_end().to_owned())
    }

    /// What is wrong with a database at rest to which its clients committed so much; nothing if all is well.
    ///
    /// # Errors
    /// It does not answer.
    pub fn faults(&self, committed: Committed) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut hold = |what: &str, sql: &str, wanted: &str| -> Result<()> {
            let found = self.ask(sql)?;
            if found != wanted {
                faults.push(format!("{what}: {found}, where {wanted} is right"));
            }
            Ok(())
        };
        let Committed { transactions, rows } = committed;
        hold("transactions of pgbench", "SELECT count(*) FROM pgbench_history", &transactions.to_string())?;
        let balances = "SELECT count(DISTINCT sum) FROM (SELECT sum(abalance) FROM pgbench_accounts UNION ALL \
                        SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT sum(tbalance) FROM pgbench_tellers \
                        UNION ALL SELECT sum(delta) FROM pgbench_history) AS sums";
        hold("different balances of accounts, branches, tellers and history", balances, "1")?;
        let ledger = "SELECT count(*), count(DISTINCT number), coalesce(max(number), 0), \
                      count(*) FILTER (WHERE note <> md5(number::text)) FROM ledger";
        hold("the ledger's rows, different ones, last and damaged", ledger, &format!("{rows}|{rows}|{rows}|0"))?;
        Ok(faults)
    }

    /// Reads every page and holds its checksum against it, and every index against its table.
    ///
    /// # Errors
    /// One is damaged; the error has what PostgreSQL's program said.
    pub fn check_every_page(&self) -> Result<()> {
        self.program("pg_amcheck", QUESTION_BOUND).args(["--all", "--heapallindexed", "--parent-check"]).run()?;
        // A copy for safe-keeping is what reads every page with its checksum while the server runs.
        let copy = ["--pgdata=-", "--format=tar", "--wal-method=none", "--checkpoint=fast"];
        self.program("pg_basebackup", QUESTION_BOUND).args(copy).into_silence()
    }

    /// A program of PostgreSQL's, told of this database, which is ended after so long.
    fn program(&self, name: &str, bound: Duration) -> Child {
        let host = self.address.to_string();
        let reach = [
            ("PGHOST", &*host),
            ("PGUSER", "postgres"),
            ("PGDATABASE", "postgres"),
            ("PGCONNECT_TIMEOUT", CONNECT_BOUND_S),
        ];
        let child = self.wires.inside("timeout").arg(bound.as_secs().to_string()).arg("chroot").arg(&self.base);
        let child = child.arg(self.programs.join(name));
        reach.into_iter().fold(child, |child, (variable, value)| child.env(variable, value))
    }
}

/// Tells a client on a thread of its own to stop, at the latest when nobody is left who could hear of it.
#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What the client looks at.
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.set();
    }
}

/// Rows without headings, no file of settings, an end at the first error.
const PSQL: [&str; 5] = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"];

/// What clients of a database know to be committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Transactions of pgbench.
    pub transactions: u64,
    /// Rows of the ledger, numbered from 1.
    pub rows: u64,
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} transactions of pgbench and {} rows of the ledger are committed", self.transactions, self.rows)
    }
}
