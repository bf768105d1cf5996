//! A process that gives a target one input after another, and who watches it: a panic is caught, but an input may also end the process, never end, or
//! use up the stack. So the input under way always lies in a file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::allocation::peak_of;
use crate::mutation::Mutation;
use crate::targets::{self, Outcome, Prepared};

/// An input that is not through by then never ends. Machines that run tests are slow.
const ENDLESS: Duration = Duration::from_secs(120);
/// Inputs that were taken and are changed further.
const TAKEN_MAX: usize = 64;
/// Where an input lies in the file of the one under way, behind its number and its length.
const INPUT_AT: u64 = 16;

/// How much is to be done.
#[derive(Clone, Copy)]
pub(crate) enum Amount {
    Executions(u64),
    Time(Duration),
}

/// What a run came to.
pub(crate) enum Found {
    /// For a person: how much was done.
    Nothing(String),
    /// It cannot be tried here.
    NotTried(String),
    /// For a person: what happened, and the input.
    Failure(String),
}

/// What a worker is told by its environment.
pub(crate) struct Order {
    target: String,
    seed: u64,
    amount: Amount,
    folder: PathBuf,
}

impl Order {
    /// None if this process is no worker.
    pub(crate) fn of_environment() -> Option<Self> {
        let words = env::var("GODWIT_FUZZ_ORDER").ok()?;
        let mut words = words.splitn(5, ' ');
        let mut next = || words.next().expect("an order has five words");
        let (target, seed, kind, number, folder) = (next(), next(), next(), next(), next());
        let number: u64 = number.parse().expect("a number");
        let amount = if kind == "s" { Amount::Time(Duration::from_secs(number)) } else { Amount::Executions(number) };
        Some(Self { target: target.to_owned(), seed: seed.parse().expect("a seed"), amount, folder: folder.into() })
    }

    fn words(&self) -> String {
        let (kind, number) = match self.amount {
            Amount::Executions(number) => ("n", number),
            Amount::Time(time) => ("s", time.as_secs()),
        };
        format!("{} {} {kind} {number} {}", self.target, self.seed, self.folder.display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Inputs that brought a target down once, and are tried first ever since.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/inputs").join(target);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a kept input")).collect()
}

/// Runs a target in a process of its own, and waits for its end.
pub(crate) fn run(target: &str, seed: u64, amount: Amount) -> Found {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the worker");
    let order = Order { target: target.to_owned(), seed, amount, folder };
    let child = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "worker", "--ignored", "--nocapture"])
        .env("GODWIT_FUZZ_ORDER", order.words())
        .stdout(Stdio::null())
        .stderr(File::create(order.file("log")).expect("a log"))
        .spawn()
        .expect("a worker");
    let found = judge(&order, watch(child, &order));
    fs::remove_dir_all(&order.folder).expect("the worker's folder");
    found
}

/// How the worker ended, in words; none if well.
fn watch(mut child: Child, order: &Order) -> Option<String> {
    let (mut seen, mut since) = (Vec::new(), Instant::now());
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return (!status.success()).then(|| format!("its process ended: {status}"));
        }
        let number = fs::read(order.file("current")).unwrap_or_default().into_iter().take(8).collect();
        if number != seen {
            (seen, since) = (number, Instant::now());
        }
        if since.elapsed() > ENDLESS {
            child.kill().expect("a child");
            child.wait().expect("a child");
            return Some(format!("it did not end within {} s", ENDLESS.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn judge(order: &Order, ended: Option<String>) -> Found {
    let told = |name: &str| fs::read_to_string(order.file(name)).ok();
    let Some(ended) = ended else {
        return match (told("done"), told("not-tried")) {
            (Some(done), _) => Found::Nothing(done),
            (None, Some(why)) => Found::NotTried(why),
            (None, None) => Found::Failure(format!("{}: the worker did nothing", order.target)),
        };
    };
    let current = fs::read(order.file("current")).unwrap_or_default();
    let word =
        |at: usize| current.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    let (number, length) = (word(0), word(8) as usize);
    let input = current.get(INPUT_AT as usize..).unwrap_or_default();
    let input = &input[..length.min(input.len())];
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{}-{:016x}",
        order.target,
        xxhash_rust::xxh3::xxh3_64(input)
    ));
    fs::write(&file, input).expect("the input is stored");
    let what = told("failure").unwrap_or(ended);
    let said = told("log").unwrap_or_default();
    let start: String = input.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    Found::Failure(format!(
        "{}: seed {}, execution {number}: {what}\n  input: {length} bytes, {start}{}\n  it is stored in {}; kept in appliance/tests/fuzz/inputs/{}/ it \
         is tried in every run\n{said}",
        order.target,
        order.seed,
        if length > 64 { "..." } else { "" },
        file.display(),
        order.target,
    ))
}

/// What panicked last, on any thread.
static PANICKED: Mutex<Option<String>> = Mutex::new(None);

fn panicked() -> Option<String> {
    PANICKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

/// The worker's life.
pub(crate) fn work(order: &Order) {
    let mut targets = targets::ALL.iter().chain(targets::broken::ALL);
    let found = targets.find(|target| target.name == order.target).expect("a target");
    let mut target = match (found.prepare)() {
        Ok(target) => target,
        Err(why) => return fs::write(order.file("not-tried"), why).expect("it is told"),
    };
    let everyday = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        *PANICKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(info.to_string());
        everyday(info);
    }));
    let current = File::options().write(true).create(true).truncate(true).open(order.file("current")).expect("a file");
    let mut mutation = Mutation::new(order.seed, target.text);
    let mut inputs = target.inputs.clone();
    let (real, started) = (inputs.len(), Instant::now());
    let (mut number, mut taken) = (0u64, 0u64);
    // As they are first: a real input that is refused is changed in vain.
    for input in inputs.iter().chain(&kept(found.name)) {
        let outcome = execute(&mut target, &current, number, input, order);
        assert!(outcome == Outcome::Taken || number >= real as u64, "input {number}, which is real, is refused");
        number += 1;
    }
    let done = |number: u64| match order.amount {
        Amount::Executions(most) => number >= most,
        Amount::Time(most) => started.elapsed() >= most,
    };
    let first = number;
    while !done(number - first) {
        let input = mutation.of(&inputs);
        if execute(&mut target, &current, number, &input, order) == Outcome::Taken {
            taken += 1;
            // Further from what is real, step by step; now and then back to it.
            if mutation.once_in(8) {
                if inputs.len() < real + TAKEN_MAX {
                    inputs.push(input);
                } else {
                    let at = real + mutation.index(TAKEN_MAX);
                    inputs[at] = input;
                }
            }
        }
        number += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = number as f64 / seconds;
    let done = format!(
        "{}: seed {}: {number} executions, {taken} of them taken, in {seconds:.1} s: {rate:.0} a second",
        found.name, order.seed
    );
    fs::write(order.file("done"), done).expect("it is told");
}

fn execute(target: &mut Prepared, current: &File, number: u64, input: &[u8], order: &Order) -> Outcome {
    let mut under_way = Vec::with_capacity(input.len() + 16);
    under_way.extend_from_slice(&number.to_le_bytes());
    under_way.extend_from_slice(&(input.len() as u64).to_le_bytes());
    under_way.extend_from_slice(input);
    current.write_all_at(&under_way, 0).expect("the input is stored");
    let (ended, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.execute)(input))));
    let trouble = match (&ended, panicked()) {
        (_, Some(panic)) => Some(panic),
        (Err(_), None) => Some("it panicked".to_owned()),
        (Ok(_), None) if peak > target.bytes_max => {
            Some(format!("it took {peak} bytes of memory; {} are its bound", target.bytes_max))
        }
        (Ok(_), None) => None,
    };
    if let Some(trouble) = trouble {
        fs::write(order.file("failure"), trouble).expect("it is told");
        std::process::exit(1);
    }
    ended.unwrap_or(Outcome::Refused)
}
