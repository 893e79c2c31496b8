//! The overview as text. Pure.

use std::fmt::Write;

use super::overview::{Overview, count, span};
use crate::cli::color::painted_as;
use crate::cli::output::{Plain, Table};

/// Outputs of checks are up to 4 KiB; here one line of them is shown, up to so many characters.
const OUTPUT_CHARS_MAX: usize = 100;

/// The whole text.
pub(super) fn of(overview: &Overview, painted: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write(&mut text, overview, painted);
    text
}

fn write(text: &mut String, overview: &Overview, painted: bool) -> std::fmt::Result {
    let (opening, rest) = overview.sentence.split_once(':').unwrap_or((&overview.sentence, ""));
    painted_as(text, overview.verdict, opening, painted)?;
    writeln!(text, ":{}", Plain(rest))?;
    for problem in &overview.problems {
        writeln!(text, "\n  {}\n    next: {}", Plain(&problem.what), Plain(&problem.next))?;
    }

    let host = &overview.host;
    writeln!(
        text,
        "\nHOST     {} (cluster {}, weft {})",
        Plain(&host.name),
        Plain(&host.cluster),
        Plain(&host.agent_version)
    )?;
    let members: Vec<String> = overview.members.iter().map(|(state, number)| format!("{number} {state}")).collect();
    writeln!(text, "MEMBERS  {}", members.join(", "))?;
    let certificate = match &host.certificate {
        Some(certificate) if certificate.expires_in_seconds <= 0 => "expired".to_owned(),
        Some(certificate) => format!("expires in {}", span(certificate.expires_in_seconds)),
        None => "not told by the agent".to_owned(),
    };
    writeln!(text, "CERT     {certificate}")?;
    for line in &overview.maintenance {
        let what = line.service.as_deref().unwrap_or("this host");
        let reason = if line.reason.is_empty() { "no reason given" } else { &line.reason };
        writeln!(text, "MAINT    {}: {}", Plain(what), Plain(reason))?;
    }

    if overview.services.is_empty() {
        writeln!(text, "\nNo service is known.")?;
    } else {
        let mut table = Table::new(&["SERVICE", "USABLE", "PROTOCOL", "VIP"]);
        for line in &overview.services {
            let usable = format!("{}/{}", line.usable, line.total);
            table.row([&*line.name, &usable, line.protocol.as_str(), &line.vip.to_string()]);
        }
        write!(text, "\n{}", table.painted(painted))?;
    }

    if !overview.checks.is_empty() {
        let number = count(overview.checks.len(), "check");
        writeln!(
            text,
            "\n{number} of this host that {} not pass:",
            if overview.checks.len() == 1 { "does" } else { "do" }
        )?;
        let mut table = Table::new(&["CHECK", "SERVICE", "HEALTH", "OUTPUT"]);
        for check in &overview.checks {
            let service = check.service.as_deref().unwrap_or_default();
            table.row([&*check.id, service, check.health.as_str(), &first_line(&check.output)]);
        }
        write!(text, "{}", table.painted(painted))?;
    }
    Ok(())
}

fn first_line(output: &str) -> String {
    let line = output.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let shown: String = line.chars().take(OUTPUT_CHARS_MAX).collect();
    if shown.len() < line.len() || output.trim().lines().count() > 1 { format!("{shown} ...") } else { shown }
}
