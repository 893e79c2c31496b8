//! Which service a program of this host calls as: what the kernel says of the program's socket, and the rules by which
//! that is a service's. Pure; who asks the kernel is `identity::attest`.
//!
//! A rule is made of the keys of a service file. All of its keys must hold. Of several services whose rules hold the most
//! specific is meant; where two are as specific as each other nobody is, and that is told.

use std::collections::HashMap;

use super::ServiceName;

/// What the kernel says of the program that made a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The user that it ran as when it made the socket.
    pub uid: u32,
    /// Its control group at that time, from the root of the cgroup2 tree: `/system.slice/billing.service`. `None` where
    /// the kernel did not say, or the group is gone.
    pub cgroup: Option<std::sync::Arc<str>>,
}

/// The keys of a service file that say which programs are the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallerKeys {
    /// A systemd unit, `billing.service`, or a template for all of its instances, `billing@.service`.
    pub unit: Option<String>,
    /// A user.
    pub user: Option<CallerUser>,
    /// A control group and all below it.
    pub cgroup: Option<String>,
}

impl CallerKeys {
    /// True if none was written: the service's programs are those of the unit of its name.
    pub fn is_empty(&self) -> bool {
        self.unit.is_none() && self.user.is_none() && self.cgroup.is_none()
    }
}

/// A user, as the file names it and as the kernel does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerUser {
    /// As written.
    pub name: String,
    /// `None` where this host has no such user: then the rule holds for nobody.
    pub uid: Option<u32>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerRule {
    /// Who is meant.
    pub service: ServiceName,
    /// By which programs.
    pub keys: CallerKeys,
    /// From a file, and so root's word; what came by the API gives way to it.
    pub from_file: bool,
}

/// Whom a program calls as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerVerdict<'a> {
    /// This service.
    Service(&'a ServiceName),
    /// No rule holds.
    Nobody,
    /// These two, by rules as specific as each other; so nobody.
    Tie(&'a ServiceName, &'a ServiceName),
}

/// All rules of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    rules: Vec<CallerRule>,
    /// The rules that name a whole unit, by it: most do, and a host may have thousands.
    by_unit: HashMap<String, Vec<usize>>,
    others: Vec<usize>,
}

/// Ranks of keys; a rule's is their sum, so each outweighs all below it.
const RANK_USER: u8 = 1;
const RANK_WRITTEN: u8 = 2;
const RANK_TEMPLATE: u8 = 4;
const RANK_UNIT: u8 = 8;
const RANK_CGROUP: u8 = 16;
const RANK_FILE: u8 = 32;

impl Callers {
    /// Takes the rules; one without keys gets the unit of its service's name.
    pub fn new(rules: Vec<CallerRule>) -> Callers {
        let mut callers = Callers { rules, ..Callers::default() };
        for (index, rule) in callers.rules.iter().enumerate() {
            match unit_of(rule) {
                Some(unit) if !is_template(&unit) => callers.by_unit.entry(unit).or_default().push(index),
                _ => callers.others.push(index),
            }
        }
        callers
    }

    /// True if no program of this host can be any service.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whom the program calls as.
    pub fn judge(&self, program: &Program) -> CallerVerdict<'_> {
        let units = program.cgroup.as_deref().map(Units::of).unwrap_or_default();
        let named = |unit: Option<&str>| unit.and_then(|unit| self.by_unit.get(unit)).into_iter().flatten();
        let candidates = named(units.system).chain(named(units.user.map(|(_, unit)| unit))).chain(&self.others);
        let mut best: Option<(u8, &ServiceName)> = None;
        let mut tie = None;
        for rule in candidates.filter_map(|index| self.rules.get(*index)) {
            let Some(rank) = rank(rule, program, &units) else { continue };
            match best {
                Some((highest, _)) if highest > rank => {}
                Some((highest, service)) if highest == rank => {
                    if *service != rule.service {
                        tie = Some((service, &rule.service));
                    }
                }
                _ => (best, tie) = (Some((rank, &rule.service)), None),
            }
        }
        match (best, tie) {
            (_, Some((one, other))) => CallerVerdict::Tie(one.min(other), one.max(other)),
            (Some((_, service)), None) => CallerVerdict::Service(service),
            (None, None) => CallerVerdict::Nobody,
        }
    }
}

/// The unit that the rule asks for.
fn unit_of(rule: &CallerRule) -> Option<String> {
    match rule.keys.is_empty() {
        true => Some(format!("{}.service", rule.service)),
        false => rule.keys.unit.clone(),
    }
}

fn is_template(unit: &str) -> bool {
    unit.split_once('@').is_some_and(|(_, rest)| rest.starts_with('.'))
}

/// How specific a rule is that holds; `None` if it does not.
fn rank(rule: &CallerRule, program: &Program, units: &Units<'_>) -> Option<u8> {
    let mut rank = if rule.from_file { RANK_FILE } else { 0 };
    if !rule.keys.is_empty() {
        rank += RANK_WRITTEN;
    }
    if let Some(user) = &rule.keys.user {
        (user.uid? == program.uid).then_some(())?;
        rank += RANK_USER;
    }
    if let Some(wanted) = unit_of(rule) {
        // A user's own manager runs units of any name: they count only where the file names that user as well.
        let of_user = units.user.filter(|(uid, _)| *uid == program.uid && rule.keys.user.is_some());
        let found = [units.system, of_user.map(|(_, unit)| unit)];
        found.into_iter().flatten().any(|unit| is_unit(&wanted, unit)).then_some(())?;
        rank += if is_template(&wanted) { RANK_TEMPLATE } else { RANK_UNIT };
    }
    if let Some(wanted) = &rule.keys.cgroup {
        let rest = program.cgroup.as_deref()?.strip_prefix(wanted.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(())?;
        rank += RANK_CGROUP;
    }
    Some(rank)
}

/// True if `unit` is the one that is wanted, or an instance of the template that is.
fn is_unit(wanted: &str, unit: &str) -> bool {
    if !is_template(wanted) {
        return wanted == unit;
    }
    let Some((template, suffix)) = wanted.split_once('@') else { return false };
    let instance = unit.split_once('@').filter(|(name, _)| *name == template);
    instance.and_then(|(_, rest)| rest.strip_suffix(suffix)).is_some_and(|instance| !instance.is_empty())
}

/// The units that a control group belongs to, as systemd itself tells them (`cg_path_get_unit`): the first that stands
/// below slices. What is below a unit is the unit's own to arrange, and proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Units<'a> {
    /// The system manager's.
    system: Option<&'a str>,
    /// That of a user's manager, and whose manager it is.
    user: Option<(u32, &'a str)>,
}

impl<'a> Units<'a> {
    fn of(path: &'a str) -> Units<'a> {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).map(unescaped);
        let system = parts.by_ref().find(|part| !part.ends_with(".slice")).filter(|part| is_unit_name(part));
        let manager = system.and_then(|unit| unit.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok());
        let user = manager.and_then(|uid: u32| {
            let unit = parts.find(|part| !part.ends_with(".slice")).filter(|part| is_unit_name(part))?;
            Some((uid, unit))
        });
        Units { system, user }
    }
}

/// systemd puts `_` before a name that the kernel's own files could have.
fn unescaped(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

/// True for units that have processes.
fn is_unit_name(part: &str) -> bool {
    const SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    SUFFIXES.iter().any(|suffix| part.len() > suffix.len() && part.ends_with(suffix)) && !part.starts_with(['.', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(uid: u32, cgroup: &str) -> Program {
        Program { uid, cgroup: Some(cgroup.into()) }
    }

    /// `file:NAME[ unit=..][ user=UID][ cgroup=..]`, or `api:NAME`.
    fn rule(text: &str) -> CallerRule {
        let mut words = text.split(' ');
        let (from, name) = words.next().unwrap().split_once(':').unwrap();
        let mut keys = CallerKeys::default();
        for (key, value) in words.map(|word| word.split_once('=').unwrap()) {
            match key {
                "unit" => keys.unit = Some(value.into()),
                "user" => keys.user = Some(CallerUser { name: value.into(), uid: value.parse().ok() }),
                _ => keys.cgroup = Some(value.into()),
            }
        }
        CallerRule { service: ServiceName::parse(name).unwrap(), keys, from_file: from == "file" }
    }

    fn judged(rules: &[&str], program: &Program) -> String {
        let callers = Callers::new(rules.iter().map(|text| rule(text)).collect());
        match callers.judge(program) {
            CallerVerdict::Service(service) => service.to_string(),
            CallerVerdict::Nobody => "nobody".into(),
            CallerVerdict::Tie(one, other) => format!("{one}|{other}"),
        }
    }

    #[test]
    fn the_unit_is_the_first_below_the_slices() {
        let units = |path| {
            let Units { system, user } = Units::of(path);
            (system.unwrap_or("-").to_owned(), user.map(|(uid, unit)| format!("{uid} {unit}")).unwrap_or_default())
        };
        let plain = |unit: &str| (unit.to_owned(), String::new());
        assert_eq!(units("/system.slice/billing.service"), plain("billing.service"));
        assert_eq!(units("/system.slice/system-web.slice/web@1.service"), plain("web@1.service"));
        assert_eq!(units("/a.slice/a-b.slice/x.service/y.service"), plain("x.service"), "what is below is x's own");
        assert_eq!(units("/system.slice/docker.service/billing.service"), plain("docker.service"));
        assert_eq!(units("/system.slice/_cpu.service"), plain("cpu.service"));
        assert_eq!(units(r"/system.slice/a\x2db.service"), plain(r"a\x2db.service"));
        assert_eq!(units("/user.slice/user-7.slice/session-3.scope"), plain("session-3.scope"));
        let of_user = "/user.slice/user-7.slice/user@7.service/app.slice/billing.service";
        assert_eq!(units(of_user), ("user@7.service".into(), "7 billing.service".into()));
        for none in ["", "/", "/init", "/billing/x.service", "/.service", "/system.slice", "/kube/pod"] {
            assert_eq!(units(none), plain("-"), "{none}");
        }
    }

    #[test]
    fn without_keys_the_unit_of_the_services_name_is_the_service() {
        let rules = ["file:billing"];
        assert_eq!(judged(&rules, &program(1, "/system.slice/billing.service")), "billing");
        assert_eq!(judged(&rules, &program(1, "/system.slice/billing.service/worker")), "billing");
        assert_eq!(judged(&rules, &program(1, "/system.slice/billing2.service")), "nobody");
        assert_eq!(judged(&rules, &Program { uid: 1, cgroup: None }), "nobody");
        let forged = "/user.slice/user-7.slice/user@7.service/app.slice/billing.service";
        assert_eq!(judged(&rules, &program(7, forged)), "nobody", "anybody can name a unit of their own manager so");
    }

    #[test]
    fn a_users_own_unit_counts_where_the_file_names_the_user() {
        let path = "/user.slice/user-7.slice/user@7.service/app.slice/billing.service";
        let rules = ["file:billing unit=billing.service user=7"];
        assert_eq!(judged(&rules, &program(7, path)), "billing");
        assert_eq!(judged(&rules, &program(8, path)), "nobody");
        assert_eq!(judged(&rules, &program(8, &path.replace("user@7", "user@8"))), "nobody");
    }

    #[test]
    fn every_key_of_a_rule_must_hold() {
        let rules = ["file:billing unit=billing.service user=7 cgroup=/system.slice"];
        assert_eq!(judged(&rules, &program(7, "/system.slice/billing.service")), "billing");
        assert_eq!(judged(&rules, &program(8, "/system.slice/billing.service")), "nobody");
        assert_eq!(judged(&rules, &program(7, "/other.slice/billing.service")), "nobody");
        let unknown = ["file:billing user=nosuch"];
        assert_eq!(judged(&unknown, &program(0, "/")), "nobody");
        let below = ["file:billing cgroup=/a/b"];
        assert_eq!(judged(&below, &program(0, "/a/b/c")), "billing");
        assert_eq!(judged(&below, &program(0, "/a/bc")), "nobody");
    }

    #[test]
    fn a_template_is_all_of_its_instances_and_nothing_else() {
        let rules = ["file:web unit=web@.service"];
        assert_eq!(judged(&rules, &program(0, "/system.slice/system-web.slice/web@1.service")), "web");
        for other in ["web.service", "web@.service", "webx@1.service", "web@1.scope"] {
            assert_eq!(judged(&rules, &program(0, &format!("/system.slice/{other}"))), "nobody", "{other}");
        }
    }

    #[test]
    fn the_most_specific_rule_decides_and_a_tie_nobody() {
        let at = program(7, "/system.slice/x@1.service");
        let in_order = ["user=7", "unit=x@.service", "unit=x@1.service", "cgroup=/system.slice/x@1.service"];
        for (index, lower) in in_order.iter().enumerate() {
            for higher in &in_order[index + 1..] {
                let rules = [format!("file:low {lower}"), format!("file:high {higher}")];
                assert_eq!(judged(&[&rules[0], &rules[1]], &at), "high", "{rules:?}");
                assert_eq!(judged(&[&rules[1], &rules[0]], &at), "high", "{rules:?}");
            }
            let rules = [format!("file:b {lower}"), format!("file:a {lower}")];
            assert_eq!(judged(&[&rules[0], &rules[1]], &at), "a|b", "{rules:?}");
            assert_eq!(judged(&[&rules[0], "file:b user=7", &format!("file:b {lower}")], &at), "b");
        }
        let same = program(7, "/system.slice/a.service");
        assert_eq!(judged(&["file:a", "file:b unit=a.service"], &same), "b", "written goes before the default");
        assert_eq!(judged(&["file:b user=7", "api:a"], &same), "b", "a file's goes before the API's");
        assert_eq!(judged(&["file:c user=7", "file:d user=7", "file:a"], &same), "a", "a tie below does not matter");
    }
}
