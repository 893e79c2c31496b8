//! Files to [`Config`]: which files, in what order, and all of their mistakes together.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::consul::Found;
use super::document::{self, FILE_BYTES_MAX, Place};
use super::section::Section;
use super::service::{self, Form};
use super::{Config, ConfigError, ConfigErrors, ServiceDefinition, check, consul, reading, rules};

/// A directory with more files than this is not a `services.d`.
const FILES_MAX: usize = 10_000;

impl Config {
    /// Reads `path` and the `services.d/` beside it, if there is one, in the order of file names.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let mut errors = Vec::new();
        let text = read_file(path).unwrap_or_else(|error| {
            let advice = "create it (an empty file makes a first host) or name another with --config";
            errors.push(unreadable(path, &error, advice));
            String::new()
        });
        let mut services = Vec::new();
        for file in service_files(&path.with_file_name("services.d"), &mut errors) {
            match read_file(&file) {
                Ok(text) => services.push((file, text)),
                Err(error) => {
                    errors.push(unreadable(&file, &error, "make it readable to the user `weft`, or remove it"));
                }
            }
        }
        Config::assemble(path, &text, &services, errors)
    }

    /// The same from text: `weft.toml` alone, its services as `[[service]]` tables. `path` is what messages name.
    pub fn from_text(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
        Config::assemble(path, text, &[], Vec::new())
    }

    fn assemble(
        path: &Path,
        text: &str,
        service_texts: &[(PathBuf, String)],
        mut errors: Vec<ConfigError>,
    ) -> Result<Config, ConfigErrors> {
        let (fields, syntax) = document::parse_toml(path, text);
        let top = Section::new("", Place::whole(path), fields);
        let mut found = Vec::new();
        let mut draft = reading::read(path, top, &mut found);
        let (mut services, mut checks) = (std::mem::take(&mut draft.services), std::mem::take(&mut draft.checks));
        keep_what_tells(syntax, found, &mut errors);
        for (file, text) in service_texts {
            let found = read_services(file, text, &mut errors);
            services.extend(found.services);
            checks.extend(found.checks);
        }
        let checks = consul::attach(checks, &mut services, &mut errors);
        rules::check(&draft, &services, &checks, &mut errors);
        if errors.is_empty() {
            let services: Vec<ServiceDefinition> = services.into_iter().map(|service| service.definition).collect();
            let checks = checks.into_iter().map(|check| check.definition).collect();
            return Ok(Config { services, checks, ..draft.config });
        }
        errors.sort_by_key(|error| (file_order(path, service_texts, error), error.line));
        Err(ConfigErrors(errors))
    }
}

fn file_order(path: &Path, service_texts: &[(PathBuf, String)], error: &ConfigError) -> usize {
    if error.file == path {
        return 0;
    }
    service_texts.iter().position(|(file, _)| *file == error.file).map_or(usize::MAX, |at| at + 1)
}

fn read_services(file: &Path, text: &str, errors: &mut Vec<ConfigError>) -> Found {
    let mut found = Vec::new();
    let place = Place::whole(file);
    if file.extension().is_some_and(|extension| extension == "json") {
        let (fields, syntax) = document::parse_json(file, text, r#"write {"service": {"name": "...", "port": ...}}"#);
        let is_whole = syntax.is_empty();
        errors.extend(syntax);
        return if is_whole { consul::read(&place, fields, errors) } else { Found::default() };
    }
    let (fields, syntax) = document::parse_toml(file, text);
    let mut top = Section::new("", place, fields);
    let tables = top.sections("service", &mut found);
    let services = tables.into_iter().filter_map(|table| service::read(table, Form::Weft, &mut found)).collect();
    let tables = top.sections("check", &mut found);
    let checks = tables.into_iter().filter_map(|table| check::read_loose(table, Form::Weft, &mut found)).collect();
    top.finish(&mut found);
    keep_what_tells(syntax, found, errors);
    Found { services, checks }
}

/// A line that is not TOML tells that; what its remains look like to the reader tells nothing.
pub(super) fn keep_what_tells(syntax: Vec<ConfigError>, mut found: Vec<ConfigError>, errors: &mut Vec<ConfigError>) {
    found.retain(|error| !syntax.iter().any(|broken| broken.line == error.line));
    errors.extend(syntax);
    errors.append(&mut found);
}

/// The files of `services.d/`. Hidden files and those of other endings (editors' copies, packages' leftovers) are not ours.
fn service_files(directory: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            errors.push(unreadable(directory, &error, "make it a directory that the user `weft` can read"));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => files.extend(is_service_file(&entry.path()).then(|| entry.path())),
            Err(error) => errors.push(unreadable(directory, &error, "look at the disk")),
        }
        if files.len() > FILES_MAX {
            let message = format!("more than {FILES_MAX} service files");
            errors.push(Place::whole(directory).error(message, "put several [[service]] tables into one file"));
            break;
        }
    }
    files.sort();
    files
}

fn is_service_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let ending = path.extension().is_some_and(|extension| extension == "toml" || extension == "json");
    ending && !hidden
}

pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

pub(super) fn unreadable(path: &Path, error: &io::Error, advice: &str) -> ConfigError {
    Place::whole(path).error(format!("cannot be read: {error}"), advice)
}
