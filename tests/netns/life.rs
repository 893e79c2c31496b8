//! A service's life: announced after its first passing check and not before; when its agent stops it is withdrawn first,
//! then what is under way ends, and callers that keep connections are told to make new ones.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::answer::{VERSIONS, ask};
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::host::Host;
use crate::parts;
use crate::process::{Process, holds_for, wait_for};
use crate::raw::{self, Exchange};

const WEB: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                   [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"500ms\"\n";

const RAW: &str = "[[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\n\
                   [[service.check]]\ntcp = \"127.0.0.1:8090\"\ninterval = \"1s\"\n";

/// A download of 6 MiB at 2 MiB/s.
const SLOW_FILE: &str = "    location /files/ { alias FOLDER/files/; limit_rate 2m; }\n";
const FILE_BYTES: u64 = 6 << 20;

/// From SIGTERM to the withdrawal on every host.
const WITHDRAWN: Duration = Duration::from_millis(1500);

fn serve(host: &Host) -> Process {
    host.service("web", WEB);
    let files = host.folder().join("web/files");
    fs::create_dir_all(&files).expect("files");
    File::create(files.join("large")).and_then(|file| file.set_len(FILE_BYTES)).expect("a sparse file");
    parts::nginx_with(host, "web", "127.0.0.1:8081", &host.name, SLOW_FILE)
}

/// A slow download in the background; its log tells how it ended.
fn download(host: &Host, version: &str, log: &Path) -> Process {
    let mut command: Command = host.command("curl");
    command.args(["-sS", version, "--max-time", "40", "-o", "/dev/null"]);
    command.args(["-w", "%{http_code} %{size_download}\n", "http://web.mesh.internal/files/large"]);
    Process::start("a slow download", &mut command, log)
}

/// Waits for it, and what it says then.
#[track_caller]
fn finished(mut download: Process) -> String {
    download.finish(Duration::from_secs(20));
    download.printed().trim().to_owned()
}

#[test]
fn an_instance_is_announced_when_it_first_passes_and_withdrawn_before_it_is_drained() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let (b, c) = (&fleet["b"], &fleet["c"]);
    let _web_a = serve(&fleet["a"]);
    let _web_b = serve(b);
    let sickness = parts::sickness(b, "web");
    fs::write(&sickness, "").expect("the mark of sickness");
    fleet.mesh(&["a", "b", "c"]);
    c.sees_passing("web", &["a"]);

    // What has not passed once is not there: not in the catalog, and no request goes to it.
    let announced = |host: &Host| -> Result<Vec<String>, String> {
        let (_, list) = host.api("/v1/catalog/service/web")?;
        let nodes = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        let mut names: Vec<String> =
            nodes.iter().filter_map(|entry| entry["Node"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    };
    holds_for("b's instance has not passed yet", Duration::from_secs(2), || {
        let seen = announced(c)?;
        let served = ask(c, &["http://web.mesh.internal/"]).body;
        if seen == ["a"] && served == "a\n" { Ok(()) } else { Err(format!("announced {seen:?}, served {served:?}")) }
    });
    fs::remove_file(&sickness).expect("the mark of sickness");
    c.sees_passing("web", &["a", "b"]);
    // Once announced it stays, also while it fails.
    fs::write(&sickness, "").expect("the mark of sickness");
    c.sees_passing("web", &["a"]);
    assert_eq!(announced(c).expect("the catalog"), ["a", "b"]);
    fs::remove_file(&sickness).expect("the mark of sickness");
    c.sees_passing("web", &["a", "b"]);

    // Only b is left to serve the downloads.
    let sick_a = parts::sickness(&fleet["a"], "web");
    fs::write(&sick_a, "").expect("the mark of sickness");
    c.sees_passing("web", &["b"]);
    let downloads: Vec<Process> =
        VERSIONS.iter().map(|version| download(c, version, &c.folder().join(format!("{version}.log")))).collect();
    sleep(Duration::from_millis(700));
    fs::remove_file(&sick_a).expect("the mark of sickness");
    c.sees_passing("web", &["a", "b"]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| {
            b.stop_agent();
            start.elapsed()
        });
        wait_for("b's instance is withdrawn", WITHDRAWN, || {
            let seen = c.instances("web")?;
            if seen.get("b").is_some_and(|status| status == "passing") { Err(format!("{seen:?}")) } else { Ok(()) }
        });
        println!("withdrawn {:?} after SIGTERM", start.elapsed());
        for _ in 0..20 {
            assert_eq!(ask(c, &["http://web.mesh.internal/"]).body, "a\n");
        }
        assert!(!stopped.is_finished(), "the agent ended before the downloads did");
        for download in downloads {
            assert_eq!(finished(download), format!("200 {FILE_BYTES}"), "a download that was under way");
        }
        let after = stopped.join().expect("the agent stops");
        println!("ended {after:?} after SIGTERM");
        assert!(after < Duration::from_secs(15), "{after:?}");
    });
}

#[test]
fn callers_of_an_agent_that_stops_finish_their_requests_and_are_told_not_to_make_more() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    let c = &fleet["c"];
    let _web = serve(&fleet["a"]);
    fleet["a"].service("raw", RAW);
    let _raw = Backend::start(&fleet["a"], 8090);
    fleet.mesh(&["a", "c"]);
    c.sees_passing("web", &["a"]);
    c.sees_passing("raw", &["a"]);

    // HTTP/1.1: the answer under way, its headers not yet sent, says that the connection ends with it. HTTP/2: GOAWAY, and
    // the stream under way goes on.
    let logs = VERSIONS.map(|version| c.folder().join(format!("stopping{version}.log")));
    let downloads: Vec<Process> = VERSIONS.iter().zip(&logs).map(|(version, log)| download(c, version, log)).collect();
    let mut nghttp = c.command("nghttp");
    nghttp.args(["-nv", "http://web.mesh.internal/files/large"]);
    let frames = Process::start("nghttp", &mut nghttp, &c.folder().join("nghttp.log"));
    // A connection that has nothing under way is closed at once.
    let kept = |name: &str, path: &str| Exchange {
        patience: Duration::from_secs(15),
        ..Exchange::new(name, format!("GET {path} HTTP/1.1\r\nHost: raw.mesh.internal\r\n\r\n"))
    };
    let kept = [kept("idle", "/sink"), kept("late", "/late")];
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| raw::exchange(c, "raw.mesh.internal", 80, &kept));
        sleep(Duration::from_secs(1));
        let stopped = scope.spawn(|| c.stop_agent());
        for download in downloads {
            assert_eq!(finished(download), format!("200 {FILE_BYTES}"), "a download that was under way");
        }
        let frames = finished(frames);
        assert!(frames.contains("GOAWAY"), "no GOAWAY among {frames}");
        assert!(frames.contains("NO_ERROR"), "{frames}");
        assert!(frames.contains("END_STREAM"), "the stream did not end: {frames}");
        let kept = kept.join().expect("the kept connections");
        for heard in &kept {
            assert_eq!(heard.status(), Some(200), "{}: {}", heard.name, heard.text());
            assert!(
                heard.closed && heard.seconds < 7.0,
                "{} closed {} after {} s",
                heard.name,
                heard.closed,
                heard.seconds
            );
        }
        let late = kept[1].text().to_lowercase();
        assert!(late.contains("connection: close\r\n"), "{late}");
        stopped.join().expect("the agent stops");
    });
}
