//! The kernel's NFS server, as Debian's nfs-kernel-server starts it, in a small machine of its own on the datastore wire.
//!
//! ```text
//!  vda  root       Debian, the same for all fleets; what is written to it is gone with the machine
//!  vdb  data       XFS: the export, and what the server has to remember of its clients beyond a power cut
//!  vdc  fill       at the first start only: what the export begins with
//! ```
//!
//! A web server beside it gives the lab the files of the export, and carries out orders: `restart`; `exchange`, which puts a copy in the
//! place of a folder that is exported, and `empty`, which puts an empty one there.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::Child;
use crate::debian::{Debian, Recipe};
use crate::error::{Doing, Result};
use crate::home::Home;
use crate::machine::{Accelerator, Boot, BootOutcome, Line};
use crate::process::Background;
use crate::servers::{Export, Make, Replacement, Server, http, wait_until_it_answers};
use crate::wire::{Wire, Wires};

/// The machine's name on the wires.
const NAME: &str = "nfs";
/// Its number, which its address follows from: above those of hosts.
const NUMBER: u8 = 200;
const MEMORY_MIB: u32 = 512;
/// Size of its data disk; what is not written takes no room.
const DATA_BYTES: u64 = 8 << 30;
/// Size of the disk that it is filled from.
const FILL_BYTES: u64 = 4 << 30;
/// Seconds that it keeps the locks of a client that it does not hear of: what servers come with.
const LEASE_SECONDS: u64 = 60;
/// Seconds in which clients claim their locks again after a restart. It ends earlier, when all have; hosts renew their leases
/// every second, so each notices soon enough.
const GRACE_SECONDS: u64 = 15;

/// Modules that the initrd loads; crypto-md5 is what nfsd wants loaded before it.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4", "md5", "xfs", "nfsd"];
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests \
                            random.trust_cpu=on audit=0 8250.nr_uarts=1 nokaslr nowatchdog";
/// What the init script says first.
const INIT_RUNS: &str = "init runs";

/// How long the machine may take to its init when nothing else runs.
const BOOT_BOUND: Duration = Duration::from_secs(20);
/// From there to a server that answers; an emulated machine copies some hundred MiB meanwhile.
const ANSWER_BOUND: Duration = Duration::from_secs(120);

/// The init script. Beside the export of the lab it has some that a host cannot use: each says by its name why. What it starts,
/// and in which order, is as in the units of Debian's nfs-kernel-server. `nfsdcld` keeps what
/// clients must be known by after a restart. Reads and writes may be of 1 MiB, as on any server that has memory enough.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "init runs"
mount -t tmpfs tmpfs /run
mount -t xfs /dev/vdb /srv
if [ -b /dev/vdc ]; then
    mount -t ext4 -o ro /dev/vdc /mnt
    mkdir /srv/lab /srv/state
    cp --archive --sparse=always /mnt/vms /srv/lab
    cp --archive /var/lib/nfs/. /srv/state
    mkdir -p /srv/state/nfsdcld
    umount /mnt
    sync
fi
mount --bind /srv/state /var/lib/nfs
mkdir -p /run/rpc_pipefs
mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /srv/spare /srv/readonly /srv/squashed /srv/private /srv/full
mount -t tmpfs -o size=64k tmpfs /srv/full
dd if=/dev/zero of=/srv/full/filler bs=4k 2>/dev/null
cat >/etc/exports <<END
/srv/lab *(rw,sync,no_subtree_check,no_root_squash,insecure)
/srv/spare *(rw,sync,no_subtree_check,no_root_squash,insecure)
/srv/readonly *(ro,sync,no_subtree_check,no_root_squash,insecure)
/srv/squashed *(rw,sync,no_subtree_check,root_squash,insecure)
/srv/private 10.77.2.250(rw,sync,no_subtree_check,no_root_squash,insecure)
/srv/full *(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=7)
END

mkdir -p /run/www/cgi-bin
ln -s /srv/lab /run/www/lab
cat >/run/www/cgi-bin/restart <<'END'
#!/bin/sh
rpc.nfsd 0
exportfs -au
exportfs -f
/run/start
printf 'Content-type: text/plain\r\n\r\n'
END
cat >/run/www/cgi-bin/exchange <<'END'
#!/bin/sh
cp -a /srv/spare /srv/copy
/run/replace
END
cat >/run/www/cgi-bin/empty <<'END'
#!/bin/sh
mkdir /srv/copy
/run/replace
END
cat >/run/replace <<'END'
#!/bin/sh
rm -rf /srv/replaced
mv /srv/spare /srv/replaced
mv /srv/copy /srv/spare
exportfs -f
printf 'Content-type: text/plain\r\n\r\n'
END
cat >/run/start <<END
#!/bin/sh
exportfs -r
echo 1048576 >/proc/fs/nfsd/max_block_size
rpc.nfsd --lease-time LEASE --grace-time GRACE 8
END
chmod 755 /run/start /run/replace /run/www/cgi-bin/*
busybox httpd -p 80 -h /run/www

rpcbind -w
nfsdcld
rpc.mountd
/run/start
while :; do sleep 1000; done
"#;

fn init() -> String {
    INIT.replace("LEASE", &LEASE_SECONDS.to_string()).replace("GRACE", &GRACE_SECONDS.to_string())
}

fn recipe() -> Recipe {
    Recipe::usual("nfs-server", MODULES, init(), vec![PathBuf::from("/bin/busybox")])
}

/// The machine, and its files in the fleet's folder.
pub(super) struct Knfsd {
    home: Home,
    wires: Wires,
}

impl Knfsd {
    pub(super) fn of(home: &Home) -> Self {
        Self { home: home.clone(), wires: Wires::of(&home.tag()) }
    }

    pub(super) fn export() -> Export {
        Export { server: Wire::Datastore.host_address(NUMBER), path: "/srv/lab", version: "4.2" }
    }

    /// Its second export, which is empty.
    pub(super) const SPARE: &str = "/srv/spare";

    /// Puts a copy, or an empty folder, in the place of the second export: what clients have mounted is stale.
    pub(super) fn replace_spare(&self, by: Replacement) -> Result<()> {
        self.order(match by {
            Replacement::Copy => "exchange",
            Replacement::Nothing => "empty",
        })
    }

    fn order(&self, order: &str) -> Result<()> {
        http::get(&self.wires, Self::export().server, &format!("/cgi-bin/{order}"))?
            .read_to_end(&mut Vec::new())
            .doing(format!("telling the kernel's NFS server: {order}"))
            .map(drop)
    }

    fn file_of(&self, name: &str) -> PathBuf {
        self.home.run().join(Make::Knfsd.word()).join(name)
    }

    fn log(&self) -> PathBuf {
        self.file_of("serial.log")
    }

    /// The data disk, and the disk that it is filled from.
    fn make_disks(&self, data: &Path, fill: &Path) -> Result<()> {
        let folder = self.file_of("");
        fs::create_dir_all(&folder).at("creating", &folder)?;
        Child::new("mke2fs", ["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
            .arg(self.home.datastore())
            .arg(fill)
            .arg(format!("{}k", FILL_BYTES >> 10))
            .run()?;
        let file = File::create(data).at("creating", data)?;
        file.set_len(DATA_BYTES).at("creating", data)?;
        Child::new("mkfs.xfs", ["-q", "-m", "reflink=1"]).arg(data).run()
    }

    fn boot(&self, accelerator: Accelerator, debian: &Debian, data: &Path, fill: Option<&Path>) -> Result<()> {
        let _ = fs::remove_file(self.log());
        let mut line = Line::of(NAME, accelerator, 1, MEMORY_MIB);
        line.option("-pidfile", &self.process().pid_file);
        line.words(&["-serial", &format!("file:{}", self.log().display())]);
        line.nic(NAME, Wire::Datastore, NUMBER);
        line.disk("root", "snapshot=on", &debian.root);
        line.disk("data", "discard=unmap", data);
        if let Some(fill) = fill {
            line.disk("fill", "readonly=on", fill);
        }
        line.option("-kernel", &debian.vmlinux);
        line.option("-initrd", &debian.initrd);
        let address = format!("lab.address={}/24", Self::export().server);
        let words = [KERNEL_WORDS.into(), address, format!("lab.hostname={NAME}")];
        line.kernel_words(accelerator, words);
        line.program(&self.wires).run()
    }
}

impl Server for Knfsd {
    fn process(&self) -> Background {
        Background { pid_file: self.file_of("qemu.pid"), mark: self.file_of("").display().to_string() }
    }

    fn start(&self) -> Result<BootOutcome> {
        let debian = Debian::build(&self.home, &recipe())?;
        let (data, fill) = (self.file_of("data.img"), self.file_of("fill.img"));
        let first = !data.exists();
        if first {
            self.make_disks(&data, &fill)?;
            self.wires.plug_into(NAME, &[Wire::Datastore])?;
        }
        let (accelerator, why) = Accelerator::choose_for_a_server();
        println!("lab: the machine of the kernel's NFS server: {why}");
        let start = || self.boot(accelerator, &debian, &data, first.then_some(&*fill));
        start()?;
        let boot = Boot {
            name: NAME,
            log: self.log(),
            process: self.process(),
            idle_bound: BOOT_BOUND,
            shows_init: |log| log.contains(INIT_RUNS),
        };
        let outcome = boot.see_through(accelerator, start)?;
        let said = || fs::read_to_string(self.log()).unwrap_or_default();
        wait_until_it_answers(&self.wires, Self::export().server, ANSWER_BOUND, said)?;
        if first {
            fs::remove_file(&fill).at("removing", &fill)?;
        }
        Ok(outcome)
    }

    fn restart(&self) -> Result<()> {
        self.order("restart")
    }

    fn file(&self, path: &str) -> Result<File> {
        let mut content = http::get(&self.wires, Self::export().server, &format!("/lab/{path}"))?;
        let copy = self.file_of("copy");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&copy);
        let mut file = file.at("creating", &copy)?;
        // Whoever reads it has it open; the next one gets another.
        fs::remove_file(&copy).at("removing", &copy)?;
        copy_with_holes(&mut content, &mut file).at("copying", Path::new(path))?;
        Ok(file)
    }
}

/// Copies, but leaves blocks of zeros out: a journal is mostly empty.
fn copy_with_holes(from: &mut impl Read, to: &mut File) -> io::Result<()> {
    let mut block = Vec::with_capacity(64 << 10);
    loop {
        block.clear();
        let count = from.by_ref().take(64 << 10).read_to_end(&mut block)?;
        if count == 0 {
            let length = to.stream_position()?;
            return to.set_len(length);
        }
        if block.iter().all(|byte| *byte == 0) {
            to.seek_relative(count as i64)?;
        } else {
            to.write_all(&block)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_is_as_long_and_as_full_as_what_it_was_made_from_and_has_its_holes() {
        let mut content = vec![0; (1 << 20) + 5];
        content[300_000..300_007].copy_from_slice(b"written");
        let path = std::env::temp_dir().join(format!("godwit-copy-{}", std::process::id()));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        copy_with_holes(&mut &content[..], &mut file).unwrap();
        let mut copied = vec![1; content.len()];
        file.read_exact_at(&mut copied, 0).unwrap();
        assert!(copied == content, "the copy differs");
        let about = file.metadata().unwrap();
        assert_eq!(about.len(), content.len() as u64);
        assert!(about.blocks() * 512 < about.len() / 2, "{} blocks", about.blocks());
    }

    #[test]
    fn the_init_script_is_one_that_a_shell_understands_and_sets_the_servers_times() {
        let script = init();
        assert!(script.contains("--lease-time 60 --grace-time 15 8\n"), "{script}");
        assert!(Child::new("sh", ["-n", "-c", &script]).succeeds());
        assert!(!Child::new("sh", ["-n", "-c", "if"]).succeeds(), "the shell finds nothing wrong in anything");
    }
}
