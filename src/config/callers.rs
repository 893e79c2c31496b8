//! Which programs of this host are a service: the keys `unit`, `user` and `cgroup` of its file. Bodies of the API may not
//! have them: whoever registers a service could call in its name.

use std::fs::File;
use std::io::Read as _;

use crate::model::{CallerKeys, CallerUser};

use super::check_kind;
use super::section::{Fault, Section};
use super::service::Form;
use super::{ConfigError, value};

const KEYS: [&str; 3] = ["unit", "user", "cgroup"];
const PASSWD: &str = "/etc/passwd";
/// Some ten thousand users.
const PASSWD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// useradd(8) allows 32; directories have longer ones.
const USER_BYTES_MAX: usize = 256;
/// Linux's own limit of a path.
const CGROUP_BYTES_MAX: usize = 4096;
/// What the kernel says of users that are unknown in a user namespace (user_namespaces(7)): all of them.
const OVERFLOW_UID: u32 = 65_534;

/// Takes the keys.
pub(super) fn read(section: &mut Section, form: Form, errors: &mut Vec<ConfigError>) -> CallerKeys {
    if form == Form::Api {
        for key in KEYS {
            if let Some(field) = section.set_aside(key) {
                let message = format!("`{}` cannot be set by the API", section.named(key));
                let advice = "it says which programs may call in the service's name: write the service into a file of \
                              services.d, or leave the key out for the systemd unit of the service's name";
                errors.push(field.place.error(message, advice));
            }
        }
        return CallerKeys::default();
    }
    CallerKeys {
        unit: section.text("unit", errors, unit).map(|spot| spot.value),
        user: section.text("user", errors, user).map(|spot| spot.value),
        cgroup: section.text("cgroup", errors, cgroup).map(|spot| spot.value),
    }
}

fn unit(text: &str) -> Result<String, Fault> {
    let unit = check_kind::unit(text)?;
    if unit.ends_with(".service") || unit.ends_with(".scope") {
        return Ok(unit);
    }
    let message = format!("{:?} is a unit that runs no programs", value::start_of(text));
    Err(Fault::new(message, r#"write the service's, like "billing.service", or a template for all of its instances"#))
}

fn user(text: &str) -> Result<CallerUser, Fault> {
    let fault = |message: String, advice: &str| Err(Fault::new(message, advice));
    let shown = value::start_of(text);
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ':' && c != '/';
    if text.is_empty() || text.len() > USER_BYTES_MAX || !text.chars().all(plain) {
        return fault(format!("{shown:?} is no user"), r#"write a name of /etc/passwd, like "billing", or a number"#);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let uid = if is_number { text.parse().ok() } else { passwd().and_then(|passwd| uid_of(&passwd, text)) };
    match uid {
        None if is_number => fault(format!("{shown:?} is no user's number"), "write one below 4294967295"),
        Some(OVERFLOW_UID | u32::MAX) => {
            let message = format!("the user {shown:?} stands for everybody who has none");
            fault(message, "run the service as a user of its own")
        }
        uid => Ok(CallerUser { name: text.to_owned(), uid }),
    }
}

fn passwd() -> Option<String> {
    let mut text = Vec::new();
    File::open(PASSWD).ok()?.take(PASSWD_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// passwd(5): name, password, number.
fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let uid = (fields.next() == Some(name)).then(|| fields.nth(1))??;
        uid.parse().ok()
    })
}

fn cgroup(text: &str) -> Result<String, Fault> {
    let parts: Vec<&str> = text.strip_prefix('/').unwrap_or_default().split('/').collect();
    let is_part = |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains(char::is_control);
    if text.len() <= CGROUP_BYTES_MAX && parts.iter().all(is_part) {
        return Ok(text.to_owned());
    }
    let message = format!("{:?} is no control group", value::start_of(text));
    Err(Fault::new(
        message,
        r#"write its path from the root, like "/system.slice/billing.service", as /proc/PID/cgroup has it"#,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ServiceDefinition, service_registration};
    use std::path::Path;

    fn read_file(name: &str, text: &str) -> Result<Vec<ServiceDefinition>, String> {
        Config::from_text(text, Path::new(name)).map(|config| config.services).map_err(|errors| errors.to_string())
    }

    fn toml(keys: &str) -> Result<CallerKeys, String> {
        let text = format!("[[service]]\nname = \"billing\"\nport = 80\n{keys}\n");
        read_file("x.toml", &text).map(|mut services| services.remove(0).callers)
    }

    #[test]
    fn the_keys_are_read_and_without_them_there_are_none() {
        assert!(toml("").unwrap().is_empty());
        let keys = toml("unit = \"billing@.service\"\nuser = \"root\"\ncgroup = \"/a.slice/b.service\"").unwrap();
        let user = Some(CallerUser { name: "root".into(), uid: Some(0) });
        let (unit, cgroup) = (Some("billing@.service".into()), Some("/a.slice/b.service".into()));
        assert_eq!(keys, CallerKeys { unit, user, cgroup });
        assert_eq!(toml("user = \"1001\"").unwrap().user.unwrap().uid, Some(1001));
        assert_eq!(toml("user = \"no-such-user-here\"").unwrap().user.unwrap().uid, None);
    }

    #[test]
    fn what_is_no_unit_user_or_group_is_refused_with_its_line_and_advice() {
        for (keys, parts) in [
            ("unit = \"billing\"", ["x.toml:4", "no systemd unit"]),
            ("unit = \"billing.timer\"", ["runs no programs", "billing.service"]),
            ("user = \"a b\"", ["x.toml:4", "is no user"]),
            ("user = \"99999999999\"", ["no user's number", "4294967295"]),
            ("user = \"65534\"", ["stands for everybody", "a user of its own"]),
            ("user = 1001", ["user must be text", "x.toml:4"]),
            ("cgroup = \"system.slice\"", ["no control group", "/proc/PID/cgroup"]),
            ("cgroup = \"/\"", ["no control group", "x.toml:4"]),
            ("cgroup = \"/a/../b\"", ["no control group", "x.toml:4"]),
        ] {
            let error = toml(keys).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{keys}: {error}");
        }
    }

    #[test]
    fn the_api_cannot_say_who_a_service_is() {
        for key in ["Unit", "user", "Cgroup"] {
            let body = format!("{{\"Name\": \"billing\", \"{key}\": \"x.service\"}}");
            let error = service_registration(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("cannot be set by the API") && error.contains("services.d"), "{error}");
        }
    }

    #[test]
    fn users_are_found_by_whole_names() {
        let passwd = "root:x:0:0::/root:/bin/sh\nrubbish\nbilling:x:1001:1001::/:/bin/false\nbroken:x:y:\n";
        assert_eq!(uid_of(passwd, "billing"), Some(1001));
        assert!(["bill", "broken", "x", "rubbish"].iter().all(|name| uid_of(passwd, name).is_none()));
    }
}
