//! The binary as a person at a terminal meets it: what it prints, and with which exit code it ends.

mod canned;
mod fake;
mod following;
mod policies;
mod verbs;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn weft(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft")).args(arguments).output().expect("the weft binary")
}

/// Everything it printed, standard output first.
fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn validate(config: &Path) -> Output {
    weft(&["validate", "--config", config.to_str().expect("a path in UTF-8")])
}

/// Each expected mistake stands on a line of its own as `FILE:LINE: message; advice`, and there is no other.
#[track_caller]
fn assert_mistakes(output: &Output, expected: &[(&Path, usize, &str)]) {
    let text = printed(output);
    assert!(!output.status.success(), "mistakes must show in the exit code:\n{text}");
    for (file, line, part) in expected {
        let start = format!("{}:{line}:", file.display());
        let found: Vec<&str> = text.lines().filter(|printed| printed.starts_with(&start)).collect();
        assert_eq!(found.len(), 1, "{start} stands on {} lines of:\n{text}", found.len());
        assert!(found[0].contains(part), "{part:?} is missing in {:?}", found[0]);
        let advice = found[0].split_once("; ").map_or("", |(_, advice)| advice);
        assert!(!advice.trim().is_empty(), "no advice in {:?}", found[0]);
    }
    let located =
        text.lines().filter(|line| expected.iter().any(|(file, ..)| line.starts_with(&*file.to_string_lossy())));
    assert_eq!(located.count(), expected.len(), "more mistakes than were made:\n{text}");
}

#[test]
fn validate_lists_five_mistakes_each_with_line_and_advice() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("weft.toml");
    let text = "[node]\n\
                name = \"web 01\"\n\
                [cluster]\n\
                sedes = [\"10.0.0.10:7946\"]\n\
                [dns]\n\
                listen = [\"127.0.0.1\"]\n\
                [proxy]\n\
                vip_range = \"127.64.0.0/99\"\n\
                capture = \"divert\"\n";
    fs::write(&config, text).expect("weft.toml");
    let expected: [(&Path, usize, &str); 5] = [
        (&config, 2, "web 01"),
        (&config, 4, "seeds"),
        (&config, 6, "127.0.0.1"),
        (&config, 8, "127.64.0.0/99"),
        (&config, 9, "divert"),
    ];
    assert_mistakes(&validate(&config), &expected);
}

#[test]
fn validate_lists_the_mistakes_of_service_files_beside_those_of_the_config() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("weft.toml");
    let service = folder.path().join("services.d").join("billing.toml");
    fs::create_dir(service.parent().expect("services.d")).expect("services.d");
    fs::write(&config, "[node]\nnmae = \"web-01\"\n").expect("weft.toml");
    let text = "[[service]]\nname = \"billing\"\nport = 80800\nprotocol = \"htpt\"\n\
                [[service.check]]\nhttp = \"http://127.0.0.1:8080/health\"\ninterval = \"soon\"\n";
    fs::write(&service, text).expect("a service file");
    let expected: [(&Path, usize, &str); 4] =
        [(&config, 2, "name"), (&service, 3, "80800"), (&service, 4, "http"), (&service, 7, "soon")];
    assert_mistakes(&validate(&config), &expected);
}

#[test]
fn validate_accepts_the_config_that_a_package_would_install() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("weft.toml");
    let service = folder.path().join("services.d").join("billing.toml");
    fs::create_dir(service.parent().expect("services.d")).expect("services.d");
    fs::write(&config, "[node]\nname = \"web-01\"\nadvertise = \"10.0.0.11\"\n").expect("weft.toml");
    fs::write(&service, "[[service]]\nname = \"billing\"\nport = 8080\n").expect("a service file");
    let output = validate(&config);
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = weft(&["validate", "--config", "/nonexistent/weft.toml"]);
    assert!(!output.status.success());
    assert!(printed(&output).contains("/nonexistent/weft.toml"), "{}", printed(&output));
}
