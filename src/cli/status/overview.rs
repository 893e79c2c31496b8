//! What is well, what is not, and what to do about it: judged from what the agent told. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cli::checks::Check;
use crate::cli::maint;
use crate::cli::members::Member;
use crate::cli::services::Service;
use crate::model::{Health, MemberState, Protocol};

/// Certificates live for a week and are renewed from a third of it: with less than this left, renewal has failed for days.
const EXPIRY_NEAR_SECONDS: i64 = 2 * 86_400;
/// More names than these are counted, not listed.
const NAMES_MAX: usize = 5;

/// What the agent told.
pub(super) struct Seen<'a> {
    pub(super) host: Host,
    pub(super) members: &'a [Member],
    pub(super) services: &'a [Service],
    pub(super) checks: &'a [Check],
    pub(super) quarantined: Vec<Quarantined>,
}

/// The JSON of `weft status`.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    pub(super) verdict: &'static str,
    pub(super) sentence: String,
    pub(super) problems: Vec<Problem>,
    pub(super) host: Host,
    pub(super) members: BTreeMap<&'static str, usize>,
    pub(super) services: Vec<ServiceLine>,
    /// Of this host: those that do not pass.
    pub(super) checks: Vec<CheckLine>,
    pub(super) maintenance: Vec<maint::Line>,
    pub(super) quarantined: Vec<Quarantined>,
}

/// Something that needs attention.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) next: String,
}

/// This host.
#[derive(Debug, Serialize)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) cluster: String,
    pub(super) domain: String,
    pub(super) agent_version: String,
    pub(super) freshness: String,
    pub(super) certificate: Option<Certificate>,
}

/// A record of another host that the agent failed on and leaves alone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Quarantined {
    /// The host's name, if it is known.
    pub(super) node: Option<String>,
    pub(super) id: String,
    pub(super) version: String,
    pub(super) hash: String,
    pub(super) reason: String,
}

/// This host's.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) expires_in_seconds: i64,
}

/// One service.
#[derive(Debug, Serialize)]
pub(super) struct ServiceLine {
    pub(super) name: String,
    pub(super) usable: usize,
    pub(super) total: usize,
    pub(super) protocol: Protocol,
    pub(super) vip: std::net::Ipv4Addr,
}

/// One check that does not pass.
#[derive(Debug, Serialize)]
pub(super) struct CheckLine {
    pub(super) id: String,
    /// `None` is the host's own.
    pub(super) service: Option<String>,
    pub(super) health: Health,
    pub(super) output: String,
}

/// Judges.
pub(super) fn of(seen: Seen<'_>) -> Overview {
    let mut members = BTreeMap::new();
    for member in seen.members {
        *members.entry(member.state.as_str()).or_default() += 1;
    }
    let line = |service: &Service| ServiceLine {
        name: service.name.clone(),
        usable: service.instances.iter().filter(|instance| instance.usable).count(),
        total: service.instances.iter().filter(|instance| instance.node_state != MemberState::Left).count(),
        protocol: service.protocol,
        vip: service.vip,
    };
    let services: Vec<ServiceLine> = seen.services.iter().map(line).collect();
    let failing = seen.checks.iter().filter(|check| check.status != Health::Passing && check.maintained().is_none());
    let mut checks: Vec<CheckLine> = failing
        .map(|check| CheckLine {
            id: check.id.clone(),
            service: Some(check.service_id.clone()).filter(|id| !id.is_empty()),
            health: check.status,
            output: check.output.clone(),
        })
        .collect();
    checks.sort_by(|a, b| (b.health, &a.id).cmp(&(a.health, &b.id)));
    let maintenance = maint::lines(seen.checks);
    let problems = problems(&seen, &services, &checks, &maintenance);
    let sentence = sentence(&problems, &members, &services);
    let verdict = if problems.is_empty() { "well" } else { "attention" };
    let Seen { host, quarantined, .. } = seen;
    Overview { verdict, sentence, problems, host, members, services, checks, maintenance, quarantined }
}

fn sentence(problems: &[Problem], members: &BTreeMap<&str, usize>, services: &[ServiceLine]) -> String {
    if !problems.is_empty() {
        let what: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
        return format!("Not all is well: {}", what.join("; "));
    }
    let alive = members.get("alive").copied().unwrap_or(0);
    let (usable, total) =
        services.iter().fold((0, 0), |(usable, total), line| (usable + line.usable, total + line.total));
    format!(
        "All is well: {} alive, {} with {usable} of {total} instances usable from here",
        count(alive, "host"),
        count(services.len(), "service")
    )
}

/// The worst first.
fn problems(
    seen: &Seen<'_>,
    services: &[ServiceLine],
    checks: &[CheckLine],
    maintenance: &[maint::Line],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |what: String, next: String| problems.push(Problem { what, next });
    if seen.host.freshness == "stale" {
        let next = "look at the network and at cluster.seeds; `weft members` shows who was there";
        add("this host has no contact with the others".into(), next.into());
    }
    match seen.host.certificate.as_ref().map(|certificate| certificate.expires_in_seconds) {
        Some(left) if left <= 0 => {
            let next = "reach an issuer on its mesh port, or enrol again: weft token create, then weft enroll";
            add("the certificate of this host has expired".into(), next.into());
        }
        Some(left) if left < EXPIRY_NEAR_SECONDS => {
            let next = "its renewal fails: journalctl -u weft says why; an issuer must answer on its mesh port";
            add(format!("the certificate of this host expires in {}", span(left)), next.into());
        }
        _ => {}
    }
    let failed: Vec<&str> = names(seen.members, |member| member.state == MemberState::Failed);
    if let Some(first) = failed.first() {
        let next = format!("look at {first}; if it will not come back: weft force-leave {first}");
        add(format!("{} failed ({})", has(failed.len(), "host"), listed(&failed)), next);
    }
    let cut: Vec<&str> = names(seen.members, |member| member.mesh == "unreachable");
    if !cut.is_empty() {
        let what =
            format!("the mesh port of {} does not answer this host ({})", count(cut.len(), "host"), listed(&cut));
        add(what, "look at firewalls between the two: TCP port 7947".into());
    }
    if let Some(first) = seen.quarantined.first() {
        let mut hosts: Vec<&str> =
            seen.quarantined.iter().map(|record| record.node.as_deref().unwrap_or(&record.id)).collect();
        hosts.dedup();
        let what = format!("{} in quarantine here, of {}", count(seen.quarantined.len(), "record"), listed(&hosts));
        let next = format!("upgrade weft on this host, and report record {}: {}", first.hash, first.reason);
        add(what, next);
    }
    let idle = services.iter().filter(|line| line.usable == 0 && line.total > 0);
    let idle: Vec<&str> = idle.map(|line| line.name.as_str()).collect();
    if let Some(first) = idle.first() {
        let what = format!("{} no usable instance ({})", has(idle.len(), "service"), listed(&idle));
        add(what, format!("weft explain {first}"));
    }
    let critical = checks.iter().filter(|check| check.health == Health::Critical).count();
    if critical > 0 {
        add(format!("{} critical on this host", count(critical, "check")), "what they say is below".into());
    }
    if let Some(line) = maintenance.iter().find(|line| line.service.is_none()) {
        let reason = if line.reason.is_empty() { String::new() } else { format!(" ({})", line.reason) };
        add(format!("this host is in maintenance{reason}"), "when it is done: weft maint off".into());
    }
    problems
}

fn names(members: &[Member], which: impl Fn(&Member) -> bool) -> Vec<&str> {
    members.iter().filter(|member| which(member)).map(|member| member.name.as_str()).collect()
}

fn listed(names: &[&str]) -> String {
    let (shown, rest) = names.split_at(names.len().min(NAMES_MAX));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

/// `1 host`, `2 hosts`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn has(number: usize, what: &str) -> String {
    format!("{} {}", count(number, what), if number == 1 { "has" } else { "have" })
}

/// The two largest units of a time to come.
pub(in crate::cli) fn span(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let first = parts.iter().position(|(number, _)| *number > 0).unwrap_or(parts.len() - 1);
    let shown = parts.iter().skip(first).take(2).enumerate().filter(|(at, (number, _))| *at == 0 || *number > 0);
    shown.map(|(_, (number, unit))| format!("{number} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(freshness: &str, seconds: i64, checks: &[Check]) -> Overview {
        let host = Host {
            name: "web-01".into(),
            id: "01".into(),
            cluster: "prod".into(),
            domain: "mesh.internal".into(),
            agent_version: "0.1.0".into(),
            freshness: freshness.into(),
            certificate: Some(Certificate { expires_in_seconds: seconds }),
        };
        of(Seen { host, members: &[], services: &[], checks, quarantined: Vec::new() })
    }

    fn check(id: &str, status: Health) -> Check {
        let (name, notes, output) = (String::new(), "disks".to_owned(), "refused".to_owned());
        Check { id: id.into(), name, status, notes, output, service_id: String::new() }
    }

    #[test]
    fn a_mesh_without_problems_is_well() {
        let told = overview("live", 6 * 86_400, &[check("a", Health::Passing), check("b", Health::Warning)]);
        assert_eq!((told.verdict, told.problems.len(), told.checks.len()), ("well", 0, 1));
        assert!(told.sentence.starts_with("All is well: 0 hosts alive, 0 services"), "{}", told.sentence);
    }

    #[test]
    fn every_problem_is_in_the_sentence_and_says_what_to_do_next() {
        let checks = [check("_node_maintenance", Health::Critical), check("disk", Health::Critical)];
        let told = overview("stale", 3600, &checks);
        let expected = "Not all is well: this host has no contact with the others; the certificate of this host expires \
                        in 1 h; 1 check critical on this host; this host is in maintenance (disks)";
        assert_eq!(told.sentence, expected);
        assert!(told.problems.iter().all(|problem| !problem.next.is_empty()));
        assert_eq!(told.checks.len(), 1, "maintenance is no failing check");
    }

    #[test]
    fn records_in_quarantine_are_named_by_their_hosts() {
        let record = |node: Option<&str>| Quarantined {
            node: node.map(str::to_owned),
            id: "ee".into(),
            version: "3.7".into(),
            hash: "5e".into(),
            reason: "it took 1200 ms to judge".into(),
        };
        let host = overview("live", 6 * 86_400, &[]).host;
        let quarantined = vec![record(Some("db-01")), record(Some("db-01")), record(None)];
        let told = of(Seen { host, members: &[], services: &[], checks: &[], quarantined });
        assert_eq!(told.problems[0].what, "3 records in quarantine here, of db-01, ee");
        assert_eq!(told.problems[0].next, "upgrade weft on this host, and report record 5e: it took 1200 ms to judge");
    }

    #[test]
    fn a_time_to_come_is_said_in_two_units() {
        let said = [-5, 0, 59, 60, 3661, 86_400, 6 * 86_400 + 3 * 3600 + 5].map(span);
        assert_eq!(said, ["0 s", "0 s", "59 s", "1 min", "1 h 1 min", "1 d", "6 d 3 h"]);
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
