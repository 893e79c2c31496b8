//! One host: its folder, its agent, and what a person on it would type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Done, Process, run, wait_for};

/// The agent under test.
const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// No command that a test waits for takes longer; a hang must end before the test runner's patience does.
const COMMAND_SECONDS_MAX: &str = "60";

/// From the start of a process to `weft is ready`.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// From SIGTERM to the end; systemd/weft.service allows 30 s.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Host {
    pub(crate) name: String,
    /// Its place in the fleet, from 1: the last byte of its address.
    pub(crate) number: u8,
    pub(crate) namespace: String,
    folder: PathBuf,
    agent: Mutex<Option<Started>>,
}

/// A start of the agent.
struct Started {
    agent: Process,
    /// Bytes of its log that are from earlier starts.
    before: usize,
}

impl Host {
    pub(crate) fn new(name: &str, number: u8, namespace: &str, fleet_folder: &Path) -> Host {
        let folder = fleet_folder.join(name);
        fs::create_dir_all(folder.join("services.d")).expect("the host's folder");
        let host =
            Host { name: name.to_owned(), number, namespace: namespace.to_owned(), folder, agent: Mutex::new(None) };
        host.write_config("10.77.0.1:7946");
        host
    }

    pub(crate) fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn write_config(&self, seed: &str) {
        // Port 53 too, since resolv.conf names no port; everything else is as a package would install it.
        let text = format!(
            "[node]\nname = \"{name}\"\nadvertise = \"{address}\"\n\
             [cluster]\nname = \"proving\"\nseeds = [\"{seed}\"]\n\
             [dns]\nlisten = [\"127.0.0.1:8600\", \"127.0.0.1:53\"]\nupstreams = []\n\
             [api]\nsocket = \"{folder}/weft.sock\"\n",
            name = self.name,
            address = self.address(),
            folder = self.folder.display(),
        );
        fs::write(self.folder.join("weft.toml"), text).expect("weft.toml");
    }

    /// Writes a service file; a running agent reads it on `reload`.
    pub(crate) fn service(&self, file: &str, text: &str) {
        fs::write(self.folder.join("services.d").join(format!("{file}.toml")), text).expect("a service file");
    }

    // Commands.

    /// A program that runs on this host for as long as the test wants.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).current_dir(&self.folder);
        command
    }

    /// Runs a program on this host to its end.
    #[track_caller]
    pub(crate) fn run<'a>(&self, program: &str, arguments: impl AsRef<[&'a str]>) -> Done {
        let mut command = self.command("timeout");
        run(command.args(["--kill-after=1", COMMAND_SECONDS_MAX, program]).args(arguments.as_ref()))
    }

    #[track_caller]
    fn weft(&self, arguments: &[&str]) -> Done {
        self.run(WEFT, arguments)
    }

    /// `curl URL`, as a caller on this host would.
    #[track_caller]
    pub(crate) fn curl(&self, url: &str) -> Done {
        self.run("curl", ["--silent", "--show-error", "--fail", "--max-time", "5", url])
    }

    /// The answers to one question to this host's agent.
    #[track_caller]
    pub(crate) fn dig(&self, name: &str) -> Vec<String> {
        let arguments = ["+short", "+time=2", "+tries=1", "@127.0.0.1", "-p", "8600", name, "A"];
        let mut answers: Vec<String> = self.run("dig", arguments).stdout.lines().map(str::to_owned).collect();
        answers.sort();
        answers
    }

    // Identity.

    /// Makes the CA on this host and enrols the host with it.
    #[track_caller]
    pub(crate) fn found_mesh(&self) {
        let data = self.data_dir();
        let arguments = ["ca", "init", "--data-dir", path(&data), "--cluster", "proving", "--node", &self.name];
        self.weft(&arguments).expect("weft ca init");
    }

    /// A join token of the CA on this host.
    #[track_caller]
    pub(crate) fn token(&self, more: &[&str]) -> String {
        let (data, issuer) = (self.data_dir(), format!("{}:7947", self.address()));
        let mut arguments = vec!["token", "create", "--data-dir", path(&data), "--issuer", &issuer];
        arguments.extend(more);
        self.weft(&arguments).expect("weft token create").trim().to_owned()
    }

    /// The id of a token that was made here.
    #[track_caller]
    pub(crate) fn token_id(&self, token: &str) -> String {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(token.trim_start_matches("weft1.").as_bytes());
        data_encoding::HEXLOWER.encode(&bytes.expect("a token")[..8])
    }

    /// Enrols with a fresh token of `issuer`, whose agent runs.
    pub(crate) fn enrol(&self, issuer: &Host) -> Result<(), String> {
        self.enrol_with(&issuer.token(&[]))
    }

    /// Enrols with this token; the error is what the command printed.
    pub(crate) fn enrol_with(&self, token: &str) -> Result<(), String> {
        let data = self.data_dir();
        let done = self.weft(&["enroll", "--token", token, "--data-dir", path(&data), "--node", &self.name]);
        if done.ok { Ok(()) } else { Err(done.stderr) }
    }

    // The agent.

    fn agent_log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Everything that the agent has logged, over all its starts.
    pub(crate) fn agent_log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.agent_log()).unwrap_or_default()).into_owned()
    }

    /// Starts the agent; returns when it says that it serves.
    #[track_caller]
    pub(crate) fn start_agent(&self) {
        self.spawn_agent();
        self.await_agent();
    }

    /// Starts the agent and goes on.
    #[track_caller]
    pub(crate) fn spawn_agent(&self) {
        self.spawn_agent_with("/nonexistent");
    }

    /// The same with the credentials that systemd would give it.
    #[track_caller]
    pub(crate) fn spawn_agent_with(&self, credentials: &str) {
        let log = self.agent_log();
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        // `ip netns exec` hides the control groups, which a real host has; without them units are not known.
        let script = "mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec \"$0\" \"$@\"";
        let mut command = self.command("sh");
        command.args(["-c", script, WEFT, "agent", "--config"]).arg(self.folder.join("weft.toml"));
        command.arg("--data-dir").arg(self.data_dir()).env("RUST_BACKTRACE", "1");
        command.env("CREDENTIALS_DIRECTORY", credentials);
        let agent = Process::start(&format!("agent of {}", self.name), &mut command, &log);
        *self.agent.lock().expect("agent") = Some(Started { agent, before });
    }

    /// Returns when the agent that was started says that it serves.
    #[track_caller]
    pub(crate) fn await_agent(&self) {
        let mut started = self.agent.lock().expect("agent");
        let Started { agent, before } = started.as_mut().expect("the agent was started");
        wait_for(&format!("the agent of {} is ready", self.name), START_DEADLINE, || {
            let printed = agent.printed();
            let new = printed.get(*before..).unwrap_or_default();
            match agent.ended() {
                None if new.contains("weft is ready") => Ok(()),
                None => Err("it says nothing of it".to_owned()),
                Some(_) => panic!("the agent of {} ended at once:\n{new}", self.name),
            }
        });
    }

    /// SIGSTOP: the process stands still, and its sockets fill.
    #[track_caller]
    pub(crate) fn pause_agent(&self) {
        self.signal_agent(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub(crate) fn resume_agent(&self) {
        self.signal_agent(Signal::CONT);
    }

    #[track_caller]
    fn signal_agent(&self, signal: Signal) {
        self.agent.lock().expect("agent").as_mut().expect("the agent runs").agent.signal(signal);
    }

    /// SIGTERM; the agent must end in order.
    #[track_caller]
    pub(crate) fn stop_agent(&self) {
        if let Some(mut started) = self.agent.lock().expect("agent").take() {
            started.agent.stop(STOP_DEADLINE);
        }
    }

    /// SIGKILL.
    pub(crate) fn kill_agent(&self) {
        if let Some(mut started) = self.agent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            started.agent.kill();
        }
    }

    /// SIGHUP: read the service files again.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.signal_agent(Signal::HUP);
    }

    #[track_caller]
    pub(crate) fn assert_agent_runs(&self) {
        let mut agent = self.agent.lock().expect("agent");
        let ended = agent.as_mut().expect("the agent was started").agent.ended();
        assert!(ended.is_none(), "the agent of {} ended", self.name);
    }

    /// Processor time of the agent since it was started, in clock ticks.
    #[track_caller]
    pub(crate) fn agent_cpu_ticks(&self) -> u64 {
        let pid = self.agent.lock().expect("agent").as_ref().expect("the agent runs").agent.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent's times");
        // What follows the program's name in brackets begins with field 3 (proc_pid_stat(5)): utime and stime are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a program's name");
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    }

    /// Resident memory of the agent.
    #[track_caller]
    pub(crate) fn agent_rss_kib(&self) -> u64 {
        self.agent_memory_kib("VmRSS:")
    }

    /// The most that it ever was.
    #[track_caller]
    pub(crate) fn agent_rss_peak_kib(&self) -> u64 {
        self.agent_memory_kib("VmHWM:")
    }

    #[track_caller]
    fn agent_memory_kib(&self, name: &str) -> u64 {
        let pid = self.agent.lock().expect("agent").as_ref().expect("the agent runs").agent.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    // The API.

    /// An API answer: its headers, lower case, and its JSON.
    pub(crate) fn api(&self, path: &str) -> Result<(BTreeMap<String, String>, Value), String> {
        let url = format!("http://127.0.0.1:8500{path}");
        let done = self.run("curl", ["--silent", "--show-error", "--include", "--max-time", "3", &url]);
        if !done.ok {
            return Err(done.stderr);
        }
        let (head, body) = done.stdout.split_once("\r\n\r\n").ok_or("an answer without an end of headers")?;
        let (status, lines) = head.split_once("\r\n").unwrap_or((head, ""));
        if !status.contains(" 200") {
            return Err(format!("{status}: {body}"));
        }
        let headers = lines.lines().filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned())).collect();
        Ok((headers, serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?))
    }

    /// Each member's state by name, in Weft's own words: in Consul's numbers a suspect is alive.
    pub(crate) fn members(&self) -> Result<BTreeMap<String, String>, String> {
        let (_, list) = self.api("/v1/agent/members")?;
        let members = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        Ok(members.iter().map(|member| (text(&member["Name"]), text(&member["Weft"]["state"]))).collect())
    }

    /// The node names of a service's instances, each with the worst status of its checks, the host's own included.
    pub(crate) fn instances(&self, service: &str) -> Result<BTreeMap<String, String>, String> {
        let (_, list) = self.api(&format!("/v1/health/service/{service}"))?;
        let entries = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        Ok(entries.iter().map(|entry| (text(&entry["Node"]["Node"]), worst_status(entry))).collect())
    }

    /// Waits until this host sees exactly these instances of a service passing.
    #[track_caller]
    pub(crate) fn sees_passing(&self, service: &str, hosts: &[&str]) {
        let what = format!("{} sees {service} passing on {hosts:?}", self.name);
        wait_for(&what, Duration::from_secs(20), || {
            let seen = self.instances(service)?;
            let passing: Vec<&str> =
                seen.iter().filter(|(_, status)| *status == "passing").map(|(host, _)| host.as_str()).collect();
            if passing == hosts { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// `live` or `stale`, as the API's answers are marked.
    pub(crate) fn freshness(&self) -> Result<String, String> {
        let (headers, _) = self.api("/v1/catalog/services")?;
        headers.get("x-weft-freshness").cloned().ok_or_else(|| format!("no X-Weft-Freshness among {headers:?}"))
    }

    /// What the API says at a path, whatever it is.
    #[track_caller]
    pub(crate) fn api_text(&self, path: &str) -> String {
        self.curl(&format!("http://127.0.0.1:8500{path}")).expect(path)
    }

    /// The sum of all samples of a metric whose labels contain `label`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.curl("http://127.0.0.1:8500/metrics").expect("/metrics");
        let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, labels) = series.split_once('{').unwrap_or((series, ""));
            (series_name == name && labels.contains(label)).then(|| value.parse::<f64>().ok()).flatten()
        });
        let found: Vec<f64> = samples.collect();
        assert!(!found.is_empty(), "{}: /metrics has no {name} with {label:?}:\n{page}", self.name);
        found.iter().sum()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn worst_status(entry: &Value) -> String {
    let statuses = entry["Checks"].as_array().into_iter().flatten().map(|check| text(&check["Status"]));
    let rank = |status: &String| ["passing", "warning", "critical"].iter().position(|word| word == status);
    statuses.max_by_key(|status| rank(status).unwrap_or(usize::MAX)).unwrap_or_else(|| "passing".to_owned())
}
