//! Processes and time: what is started here is known by its id, ended by that id, and never outlives its test.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at a condition. Short, so that measured delays are the agent's and not the test's.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a command that ran to its end left.
pub(crate) struct Done {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Its output, if it succeeded.
    #[track_caller]
    pub(crate) fn expect(self, what: &str) -> String {
        assert!(self.ok, "{what} failed\nstdout: {}\nstderr: {}", self.stdout.trim(), self.stderr.trim());
        self.stdout
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Done {
        ok: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a command of words separated by single spaces, which must succeed.
#[track_caller]
pub(crate) fn must(words: &str) -> String {
    let mut parts = words.split(' ');
    let mut command = Command::new(parts.next().expect("a program"));
    run(command.args(parts)).expect(words)
}

/// A process that runs until it is told to end or this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it prints is appended to `log`.
    #[track_caller]
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let append = || -> File {
            let file = OpenOptions::new().create(true).append(true).open(log);
            file.unwrap_or_else(|error| panic!("{}: {error}", log.display()))
        };
        command.stdin(Stdio::piped()).stdout(append()).stderr(append());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Process { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed, and whatever else is in its log.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `None` while it runs, then whether it succeeded.
    pub(crate) fn ended(&mut self) -> Option<bool> {
        self.child.try_wait().ok().flatten().map(|status| status.success())
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        // Once it has been waited for, its id may be another's.
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).unwrap_or_else(|error| eprintln!("cannot signal {}: {error}", self.name));
        }
    }

    /// SIGKILL; gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// SIGTERM, as an init system would; it must end by itself within `deadline`.
    #[track_caller]
    pub(crate) fn stop(&mut self, deadline: Duration) {
        self.signal(Signal::TERM);
        self.finish(deadline);
    }

    /// Closes its standard input and waits for it to end by itself.
    #[track_caller]
    pub(crate) fn finish(&mut self, deadline: Duration) {
        drop(self.child.stdin.take());
        let what = format!("{} ends", self.name);
        wait_for(&what, deadline, || self.ended().ok_or_else(|| "it still runs".to_owned()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks until the answer is `Ok`; fails with the last `Err` when `deadline` has passed.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(last) if start.elapsed() >= deadline => panic!("{what}: not within {deadline:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Asks again and again for `duration`; every answer must be `Ok`.
#[track_caller]
pub(crate) fn holds_for(what: &str, duration: Duration, mut attempt: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < duration {
        if let Err(seen) = attempt() {
            panic!("{what}: broken after {:?}: {seen}", start.elapsed());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The machine's clock in microseconds: the same in every process, so that their reports can be laid side by side.
pub(crate) fn clock_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_micros()).expect("a clock before the year 500,000")
}
