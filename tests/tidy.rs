//! Holds the source to the rules of `docs/ARCHITECTURE.md`: the floor table, purity of the cores, one home for bincode,
//! a module doc in every file, and no file so long that a second idea hides in it.
//!
//! Reads `src/**/*.rs` as text, splits it into tokens (comments and literals dropped) and looks at paths. It knows
//! nothing of types: a forbidden thing that hides behind a macro of another crate is not seen.

use std::fs;
use std::path::{Path, PathBuf};

/// A module imports only from lower floors, never from a sibling on its own.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["model"]),
    (1, &["swim", "catalog", "route", "policy", "wire", "lobby", "logbook"]),
    (2, &["access", "config", "store", "identity", "history"]),
    (3, &["gossip", "health", "dns", "proxy", "sources", "api", "ui"]),
    (4, &["agent"]),
    (5, &["cli"]),
    (6, &["main"]),
];

/// Modules that take time and randomness as arguments and return their effects.
const PURE: &[&str] = &["model", "swim", "catalog", "route", "policy", "wire", "lobby"];

/// What a pure module never mentions, its tests included: any of these as consecutive segments of a path.
const IMPURE: &[(&[&str], &str)] = &[
    (&["tokio"], "the runtime"),
    (&["UdpSocket"], "a socket"),
    (&["TcpStream"], "a socket"),
    (&["TcpListener"], "a socket"),
    (&["UnixStream"], "a socket"),
    (&["UnixListener"], "a socket"),
    (&["UnixDatagram"], "a socket"),
    (&["socket2"], "a socket"),
    (&["std", "fs"], "files"),
    (&["Instant", "now"], "the clock"),
    (&["SystemTime"], "the clock"),
    (&["std", "thread"], "threads"),
    (&["thread", "spawn"], "threads"),
    (&["thread", "sleep"], "the clock"),
    (&["thread_rng"], "global randomness"),
    (&["rand", "rng"], "global randomness"),
    (&["rand", "random"], "global randomness"),
    (&["SysRng"], "global randomness"),
    (&["OsRng"], "global randomness"),
    (&["StdRng"], "a generator that changes between versions of rand"),
];

/// The formats on the wire and on disk are each decided in one place.
const BINCODE_HOMES: &[&str] = &["wire", "store"];

/// Past 600 lines look for the second idea; at 700 the build stops.
const FILE_LINES_MAX: usize = 700;

#[test]
fn the_source_keeps_the_rules_of_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect_sources(&root, &mut files);
    assert!(files.len() > 10, "only {} files found under {}", files.len(), root.display());
    let mut violations = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let relative = file.strip_prefix(&root).expect("under src").to_string_lossy().replace('\\', "/");
        violations.extend(violations_of(&relative, &text));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn collect_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every rule that the file `src/{relative}` with this text breaks, as `file:line: what`.
fn violations_of(relative: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |line: usize, what: String| found.push(format!("src/{relative}:{line}: {what}"));
    if !text.starts_with("//!") {
        report(1, "does not start with a `//!` doc that says what lives here".into());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        report(lines, format!("{lines} lines, more than {FILE_LINES_MAX}: a second idea hides in it"));
    }
    let home = module_path(relative);
    // lib.rs only declares the modules.
    let Some(module) = home.first().cloned() else { return found };
    let Some(floor) = floor_of(&module) else {
        report(1, format!("module `{module}` is not in the floor table"));
        return found;
    };
    let paths = paths_of(&home, &tokens_of(text));
    for Reference { line, segments } in &paths {
        if let Some(target) = crate_module(segments)
            && target != module
        {
            match floor_of(target) {
                Some(other) if other < floor => {}
                Some(other) => report(*line, format!("`{module}` (floor {floor}) imports `{target}` (floor {other})")),
                None => report(*line, format!("`{module}` imports `{target}`, which is not in the floor table")),
            }
        }
        if PURE.contains(&module.as_str()) {
            for (pattern, what) in IMPURE {
                if segments.windows(pattern.len()).any(|window| window == *pattern) {
                    report(*line, format!("pure module `{module}` mentions {what}: `{}`", segments.join("::")));
                }
            }
        }
        if segments.iter().any(|segment| segment == "bincode") && !BINCODE_HOMES.contains(&module.as_str()) {
            report(*line, format!("`{module}` mentions bincode, which lives in wire/ and store/ only"));
        }
    }
    found
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// `swim/probe.rs` → `[swim, probe]`; `swim/mod.rs` and `swim.rs` → `[swim]`; `lib.rs` → `[]`.
fn module_path(relative: &str) -> Vec<String> {
    let stem = relative.strip_suffix(".rs").unwrap_or(relative);
    if stem == "lib" {
        return Vec::new();
    }
    let mut segments: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    segments
}

/// The module of this crate that an absolute path names; `weft::` is how `main.rs` calls the library.
fn crate_module(segments: &[String]) -> Option<&str> {
    match segments {
        [root, module, ..] if root == "crate" || root == "weft" => Some(module),
        _ => None,
    }
}

/// A path as written, with `super::` and `self::` resolved to `crate::` and use-trees flattened.
struct Reference {
    line: usize,
    segments: Vec<String>,
}

struct Token {
    line: usize,
    text: String,
}

/// Identifiers, `::` and single punctuation characters; comments, strings, characters and lifetimes dropped.
fn tokens_of(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line) = (0, 1);
    let mut tokens = Vec::new();
    let peek = |index: usize| chars.get(index).copied().unwrap_or('\0');
    while at < chars.len() {
        let (current, next) = (chars[at], peek(at + 1));
        let start = at;
        if current == '/' && next == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if current == '/' && next == '*' {
            at = end_of_block_comment(&chars, at);
        } else if let Some(end) = end_of_string(&chars, at) {
            at = end;
        } else if current == '\'' {
            at = end_of_quote(&chars, at);
        } else if current.is_alphanumeric() || current == '_' {
            while peek(at).is_alphanumeric() || peek(at) == '_' {
                at += 1;
            }
            tokens.push(Token { line, text: chars[start..at].iter().collect() });
        } else if current == ':' && next == ':' {
            at += 2;
            tokens.push(Token { line, text: "::".into() });
        } else {
            at += 1;
            if !current.is_whitespace() {
                tokens.push(Token { line, text: current.into() });
            }
        }
        line += chars[start..at].iter().filter(|character| **character == '\n').count();
    }
    tokens
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

/// The end of a string literal of any kind (`"`, `b"`, `c"`, `r#"`, `br#"`) that starts here, if one does.
fn end_of_string(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while matches!(chars.get(at), Some('b' | 'c' | 'r')) && at < start + 2 {
        at += 1;
    }
    let raw = chars[start..at].contains(&'r');
    let mut hashes = 0;
    while raw && chars.get(at) == Some(&'#') {
        (at, hashes) = (at + 1, hashes + 1);
    }
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        if !raw && chars[at] == '\\' {
            at += 2;
        } else if chars[at] == '"' && (0..hashes).all(|hash| chars.get(at + 1 + hash) == Some(&'#')) {
            return Some(at + 1 + hashes);
        } else {
            at += 1;
        }
    }
    Some(chars.len())
}

/// A character literal is skipped whole; of a lifetime only the quote.
fn end_of_quote(chars: &[char], start: usize) -> usize {
    if chars.get(start + 1) == Some(&'\\') {
        let close = chars.iter().skip(start + 3).position(|character| *character == '\'');
        close.map_or(chars.len(), |offset| start + 3 + offset + 1)
    } else if chars.get(start + 2) == Some(&'\'') {
        start + 3
    } else {
        start + 1
    }
}

/// Every path in the file; `home` is the module that the file is.
fn paths_of(home: &[String], tokens: &[Token]) -> Vec<Reference> {
    let mut found = Vec::new();
    // One entry per open brace: the inline module it opens, if it opens one.
    let mut braces: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here: Vec<String> = home.iter().cloned().chain(braces.iter().flatten().cloned()).collect();
        let text = tokens[at].text.as_str();
        let next = tokens.get(at + 1).map_or("", |token| token.text.as_str());
        match text {
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                braces.push(Some(next.to_owned()));
                at += 3;
            }
            "{" => {
                braces.push(None);
                at += 1;
            }
            "}" => {
                braces.pop();
                at += 1;
            }
            "use" => at = flatten_use(&here, tokens, at + 1, &[], &mut found),
            _ if is_word(text) && next == "::" => {
                let start = at;
                let mut segments = vec![text.to_owned()];
                while tokens.get(at + 1).is_some_and(|token| token.text == "::")
                    && tokens.get(at + 2).is_some_and(|token| is_word(&token.text))
                {
                    segments.push(tokens[at + 2].text.clone());
                    at += 2;
                }
                found.push(Reference { line: tokens[start].line, segments: resolve(&here, segments) });
                at += 1;
            }
            _ => {
                if is_word(text) {
                    found.push(Reference { line: tokens[at].line, segments: vec![text.to_owned()] });
                }
                at += 1;
            }
        }
    }
    found
}

/// Reads one use-tree from `at`, adds each leaf below `prefix`, and returns where it ended.
fn flatten_use(here: &[String], tokens: &[Token], at: usize, prefix: &[String], found: &mut Vec<Reference>) -> usize {
    let mut at = at;
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = flatten_use(here, tokens, at, &segments, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "as" => at += 2,
            word if is_word(word) || word == "*" => {
                segments.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    let line = tokens.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    found.push(Reference { line, segments: resolve(here, segments) });
    // A stray token must not hold the reader on the spot.
    if tokens.get(at).is_some_and(|token| matches!(token.text.as_str(), "}" | ",")) { at } else { at + 1 }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// `super::x` and `self::x`, as written in module `here`, from the crate's root on.
fn resolve(here: &[String], segments: Vec<String>) -> Vec<String> {
    let climbs = segments.iter().take_while(|segment| *segment == "super").count();
    let skipped = usize::from(segments.first().is_some_and(|first| first == "self"));
    if climbs + skipped == 0 {
        return segments;
    }
    let kept = here.len().saturating_sub(climbs);
    let rest = segments.into_iter().skip(climbs + skipped);
    std::iter::once("crate".to_owned()).chain(here[..kept].iter().cloned()).chain(rest).collect()
}

// Each rule must catch what it is for.

fn broken(relative: &str, body: &str) -> Vec<String> {
    violations_of(relative, &format!("//! Doc.\n{body}"))
}

#[track_caller]
fn assert_caught(relative: &str, body: &str, part: &str) {
    let found = broken(relative, body);
    assert_eq!(found.len(), 1, "{body:?} gives {found:?}");
    assert!(found[0].contains(part), "{part:?} is not in {:?}", found[0]);
}

#[track_caller]
fn assert_allowed(relative: &str, body: &str) {
    assert_eq!(broken(relative, body), Vec::<String>::new(), "{body:?}");
}

#[test]
fn a_file_without_a_module_doc_is_caught() {
    assert_eq!(violations_of("dns/answer.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(violations_of("dns/answer.rs", "// no\n//! Late.\n").len(), 1);
    assert_allowed("dns/answer.rs", "use std::fmt;\n");
}

#[test]
fn a_file_of_701_lines_is_caught() {
    assert_caught("dns/answer.rs", &"\n".repeat(FILE_LINES_MAX), "701 lines");
    assert_allowed("dns/answer.rs", &"\n".repeat(FILE_LINES_MAX - 1));
}

#[test]
fn an_import_from_a_higher_floor_is_caught() {
    assert_caught("swim/mod.rs", "use crate::agent::Owner;", "`swim` (floor 1) imports `agent` (floor 4)");
    assert_caught("store/file.rs", "fn f() { crate::gossip::bind(); }", "imports `gossip`");
    assert_caught("model/id.rs", "#[cfg(test)]\nmod tests {\n use crate::wire::encode;\n}", "src/model/id.rs:4:");
    assert_allowed("agent/mod.rs", "use crate::{dns, gossip::{self, Event}, model::NodeId, swim::Swim};");
    assert_allowed("main.rs", "fn main() { weft::cli::run(); }");
}

#[test]
fn an_import_from_a_sibling_is_caught() {
    assert_caught("dns/server.rs", "use crate::proxy::Pool;", "`dns` (floor 3) imports `proxy` (floor 3)");
    assert_caught("swim/mod.rs", "use super::catalog::Catalog;", "imports `catalog`");
    assert_caught("swim/probe.rs", "use super::super::catalog::Catalog;", "imports `catalog`");
    assert_caught("dns/mod.rs", "mod tests { use super::super::api::Bound; }", "imports `api`");
    assert_caught("api/mod.rs", "use crate::{model::NodeId,\n ui::page};", "src/api/mod.rs:3: `api`");
    assert_allowed("swim/probe.rs", "use super::catalog;\nmod tests { use super::super::Swim; use crate::swim::x; }");
}

#[test]
fn a_module_outside_the_floor_table_is_caught() {
    assert_caught("utils.rs", "", "`utils` is not in the floor table");
    assert_caught("cli/mod.rs", "use crate::utils::x;", "imports `utils`, which is not in the floor table");
}

#[test]
fn impure_words_in_a_pure_module_are_caught() {
    for (body, part) in [
        ("use tokio::sync::mpsc;", "the runtime"),
        ("fn f(s: &std::net::UdpSocket) {}", "a socket"),
        ("use std::net::{IpAddr, TcpStream};", "a socket"),
        ("use std::net::TcpListener as L;", "a socket"),
        ("use std::{fmt, fs};", "files"),
        ("fn f() { Instant::now(); }", "the clock"),
        ("fn f() { std::time::SystemTime::now(); }", "the clock"),
        ("use std::thread;", "threads"),
        ("fn f() { rand::rng(); }", "global randomness"),
        ("fn f() { thread_rng(); }", "global randomness"),
        ("mod tests {\n fn f() { tokio::main(); }\n}", "src/swim/mod.rs:3:"),
    ] {
        assert_caught("swim/mod.rs", body, part);
        assert_allowed("gossip/mod.rs", body);
    }
    assert_allowed("wire/seal.rs", "// tokio\n/* std::fs /* nested */ SystemTime */\nconst A: &str = \"tokio::x\";");
    assert_allowed(
        "wire/seal.rs",
        "const A: &str = r#\"a \" tokio::x\"#; const B: char = '\"'; fn f<'a>(a: &'a str) {}",
    );
    assert_allowed("swim/mod.rs", "use rand_chacha::ChaCha8Rng;\nuse rand::Rng;");
}

#[test]
fn bincode_outside_wire_and_store_is_caught() {
    assert_caught("gossip/mod.rs", "fn f() { bincode::encode(); }", "mentions bincode");
    assert_caught("identity/mod.rs", "use bincode as b;", "mentions bincode");
    assert_allowed("wire/codec.rs", "use bincode::config;");
    assert_allowed("store/mod.rs", "use bincode::config;");
}
