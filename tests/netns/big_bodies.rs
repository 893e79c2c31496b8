//! Bodies far larger than memory should hold, both ways and to slow ends: they arrive whole, and the agents stay small.

use std::fs::{self, File};
use std::io::Write;
use std::thread::{scope, sleep};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::answer::curl;
use crate::backend::Backend;
use crate::fleet::Fleet;
use crate::host::Host;
use crate::parts;

const SERVICES: &str = "[[service]]\nname = \"web\"\nport = 8081\nprotocol = \"http\"\n\
                        [[service.check]]\nhttp = \"http://127.0.0.1:8081/health\"\ninterval = \"1s\"\n\
                        [[service]]\nname = \"raw\"\nport = 8090\nprotocol = \"http\"\n\
                        [[service.check]]\ntcp = \"127.0.0.1:8090\"\ninterval = \"1s\"\n";

const GIB: u64 = 1 << 30;
/// What one agent may grow by while a body of 1 GiB passes; four streams' windows and buffers, and the allocator's slack.
const GROWTH_KIB_MAX: u64 = 32 * 1024;
/// How long slow ends are watched.
const SLOW: &str = "4";

/// Random bytes, so that what was lost, doubled or moved shows in the sum.
fn random_file(host: &Host, name: &str, megabytes: usize) -> String {
    let path = host.folder().join(name);
    let mut file = File::create(&path).expect("a file");
    let mut random = ChaCha8Rng::seed_from_u64(5417);
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..megabytes {
        random.fill_bytes(&mut bytes);
        file.write_all(&bytes).expect("a file");
    }
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn sum(host: &Host, file: &str) -> String {
    let printed = host.run("sha256sum", [file]).expect("sha256sum");
    printed.split(' ').next().expect("a sum").to_owned()
}

#[test]
fn a_gibibyte_passes_in_either_direction_and_slow_ends_are_waited_for_while_memory_stays_flat() {
    let Some(fleet) = Fleet::raise(&["a", "c"]) else { return };
    let (a, c) = (&fleet["a"], &fleet["c"]);
    a.service("all", SERVICES);
    let files = a.folder().join("web/files");
    fs::create_dir_all(&files).expect("files");
    File::create(files.join("large")).and_then(|file| file.set_len(GIB)).expect("a sparse file");
    let random = random_file(a, "web/files/random", 64);
    let large = c.folder().join("large");
    File::create(&large).and_then(|file| file.set_len(GIB)).expect("a sparse file");
    let _web = parts::nginx_with(a, "web", "127.0.0.1:8081", "a", "    location /files/ { alias FOLDER/files/; }\n");
    let _raw = Backend::start(a, 8090);
    fleet.mesh(&["a", "c"]);
    c.sees_passing("web", &["a"]);
    c.sees_passing("raw", &["a"]);

    let (web, raw) = ("http://web.mesh.internal", "http://raw.mesh.internal");
    // Connections, buffers and windows as they are in use.
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        curl(c, &[version, "-o", "/dev/null", &format!("{web}/files/random")]);
    }
    let whole = c.folder().join("whole");
    let whole = whole.to_str().expect("a path in UTF-8");
    curl(c, &["-o", whole, &format!("{web}/files/random")]);
    assert_eq!(sum(c, whole), sum(a, &random), "a download");
    let told = curl(c, &["-H", "Expect:", "-T", whole, &format!("{raw}/sink")]);
    assert_eq!(told.trim(), format!("a {} {}", 64 << 20, sum(a, &random)), "an upload");

    let hosts = [a, c];
    let before = hosts.map(Host::agent_rss_kib);
    let grown = |what: &str| {
        for (host, before) in hosts.into_iter().zip(before) {
            let growth = host.agent_rss_peak_kib().saturating_sub(before);
            println!("{what}: the agent of {} grew by {growth} KiB from {before} KiB", host.name);
            assert!(growth < GROWTH_KIB_MAX, "{what}: the agent of {} grew by {growth} KiB", host.name);
        }
    };
    let large = large.to_str().expect("a path in UTF-8");
    let speed = "%{size_download} %{size_upload} %{time_total}";
    for (version, name) in [("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2")] {
        let down = curl(c, &[version, "-o", "/dev/null", "-w", speed, &format!("{web}/files/large")]);
        println!("1 GiB down, {name}: {down}");
        assert!(down.starts_with(&format!("{GIB} ")), "{name}: {down}");
        grown("1 GiB down");
        let up =
            curl(c, &[version, "-H", "Expect:", "-o", "/dev/null", "-w", speed, "-T", large, &format!("{raw}/sink")]);
        println!("1 GiB up, {name}: {up}");
        assert!(up.contains(&format!(" {GIB} ")), "{name}: {up}");
        grown("1 GiB up");
    }

    // A reader of 1 MiB/s and a service that takes 4 MiB/s, in both protocols at once; nobody holds for them what they
    // do not take, and others go on.
    scope(|scope| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            scope.spawn(move || {
                let slow = ["-sS", version, "--limit-rate", "1M", "--max-time", SLOW, "-o", "/dev/null"];
                c.run("curl", [&slow[..], &[&format!("{web}/files/large")]].concat());
            });
            scope.spawn(move || {
                let slow = ["-sS", version, "--max-time", SLOW, "-H", "Expect:", "-T", large];
                c.run("curl", [&slow[..], &[&format!("{raw}/slow")]].concat());
            });
        }
        sleep(Duration::from_secs(1));
        for _ in 0..20 {
            let time: f64 = curl(c, &["-o", "/dev/null", "-w", "%{time_total}", web]).parse().expect("a time");
            assert!(time < 2.0, "{time} s for a small request beside slow ones");
        }
    });
    grown("slow ends");
}
