//! Programs that checks run: without a shell, with nothing on standard input, a bare environment, a process group of their
//! own that ends with the timeout, and output that is read to its end but kept only up to the limit.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::OUTPUT_BYTES_MAX;

/// More at once would make a host's checks its load.
const PROGRAMS_MAX: usize = 16;
/// What the program has written by its end is read; what its own children write later is not waited for.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// A killed process ends at once, unless the kernel holds it.
const REAP: Duration = Duration::from_secs(1);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many programs may run at once; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Slots {
        Slots(Arc::new(Semaphore::new(PROGRAMS_MAX)))
    }
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself; without a code if by a signal.
    Exited { code: Option<i32>, output: String },
    /// By the timeout.
    Late { output: String },
    /// It never ran.
    NotStarted(io::Error),
}

/// Runs `args`, the program first, to its end or the timeout. Dropped, it ends the program.
pub(super) async fn run(args: &[String], timeout: Duration, slots: &Slots) -> Ended {
    // Waiting for others is not the program's time. The semaphore is never closed.
    let _slot = slots.0.acquire().await;
    let mut child = match start(args) {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error),
    };
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let mut kept = Vec::new();
    match tokio::time::timeout(timeout, finish(&mut child, &mut kept)).await {
        Ok(Ok(code)) => {
            group.0 = None;
            Ended::Exited { code, output: text(&kept) }
        }
        Ok(Err(error)) => Ended::NotStarted(error),
        Err(_) => {
            drop(group);
            let _reaped = tokio::time::timeout(REAP, child.wait()).await;
            Ended::Late { output: text(&kept) }
        }
    }
}

fn start(args: &[String]) -> io::Result<Child> {
    let (program, rest) = args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(rest)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Waits for the end and reads what is written meanwhile.
async fn finish(child: &mut Child, kept: &mut Vec<u8>) -> io::Result<Option<i32>> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut from_out, mut from_err) = (vec![0; OUTPUT_BYTES_MAX], vec![0; OUTPUT_BYTES_MAX]);
    let ended = loop {
        tokio::select! {
            count = read(&mut stdout, &mut from_out) => keep(kept, &from_out[..count]),
            count = read(&mut stderr, &mut from_err) => keep(kept, &from_err[..count]),
            ended = child.wait() => break ended?,
        }
    };
    let rest = async {
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                count = read(&mut stdout, &mut from_out) => keep(kept, &from_out[..count]),
                count = read(&mut stderr, &mut from_err) => keep(kept, &from_err[..count]),
            }
        }
    };
    let _cut_short = tokio::time::timeout(LAST_WORDS, rest).await;
    Ok(ended.code())
}

/// Reads some bytes. At its end the pipe is gone, and reading it never returns again.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(count) if count > 0 => count,
        _ => {
            *pipe = None;
            0
        }
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = OUTPUT_BYTES_MAX - kept.len();
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn text(kept: &[u8]) -> String {
    String::from_utf8_lossy(kept).trim_end().to_owned()
}

/// The program and what it started; killed when dropped, while the program was not waited for.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have just ended.
            let _gone = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_what_it_started() {
        let script = "sleep 1000 & echo $!; wait";
        let ended = run(&args(&["/bin/sh", "-c", script]), Duration::from_millis(300), &Slots::default()).await;
        let Ended::Late { output } = ended else { panic!("{ended:?}") };
        let child = Pid::from_raw(output.parse().unwrap()).unwrap();
        let gone = async {
            // A killed orphan is a zombie until init reaps it; in a container nobody may.
            let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
            while state().is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    }

    #[tokio::test]
    async fn endless_output_is_read_away_and_cut() {
        let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo end >&2";
        let ended = run(&args(&["/bin/sh", "-c", script]), Duration::from_secs(10), &Slots::default()).await;
        let Ended::Exited { code: Some(0), output } = ended else { panic!("{ended:?}") };
        assert_eq!(output.len(), OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_program_sees_a_bare_environment_and_no_input() {
        let ended = run(&args(&["/usr/bin/env"]), Duration::from_secs(10), &Slots::default()).await;
        let Ended::Exited { output, .. } = ended else { panic!("{ended:?}") };
        let mut lines: Vec<&str> = output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["LANG=C.UTF-8", &format!("PATH={PATH}")]);
        let ended = run(&args(&["/bin/cat"]), Duration::from_secs(10), &Slots::default()).await;
        assert!(matches!(ended, Ended::Exited { code: Some(0), .. }), "{ended:?}");
    }
}
