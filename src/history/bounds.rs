//! Who may have how many lines: each subject some in a row and then one now and then, and each host likewise for all of its
//! subjects together, since subjects are what it invents. Of what is left out the latest is held, and written when its turn
//! comes, so that the last line about a subject is how things stand. Time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::event::{Event, Kind};
use crate::logbook::Allowance;

/// Lines about one subject in a row, and then one each [`SUBJECT_EVERY`]: a service that flaps on thirty hosts for a week
/// writes a tenth of what there is room for a day.
pub(super) const SUBJECT_MAX: u32 = 20;
const SUBJECT_EVERY: Duration = Duration::from_secs(600);
/// Lines about one host and all that runs on it, and then one each [`HOST_EVERY`].
const HOST_MAX: u32 = 400;
const HOST_EVERY: Duration = Duration::from_secs(30);
/// Subjects that are counted apart; those beyond are counted together.
const SUBJECTS_MAX: usize = 8192;
/// Between two looks for subjects that need not be remembered any more.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// What lines are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Of {
        kind: Kind,
        node: String,
        service: String,
        name: String,
    },
    /// For all of which there was no place.
    Others,
}

#[derive(Debug)]
struct Told {
    allowance: Allowance,
    /// The latest of what was left out.
    held: Option<Event>,
}

#[derive(Debug, Default)]
pub(super) struct Bounds {
    subjects: HashMap<Subject, Told>,
    hosts: HashMap<String, Allowance>,
    held: usize,
    pruned: Option<Instant>,
}

/// Whether a host may have one more line; it is taken.
fn host_has(hosts: &mut HashMap<String, Allowance>, event: &Event, now: Instant) -> bool {
    let fresh = || Allowance::new(HOST_MAX, HOST_EVERY, now);
    let host = hosts.entry(event.node.clone()).or_insert_with(fresh);
    host.has(now) && host.take(now).is_some()
}

impl Bounds {
    /// The event, if it may have a line, with how many before it had none.
    pub(super) fn admit(&mut self, now: Instant, event: Event) -> Option<Event> {
        self.make_room(now);
        let Event { kind, node, service, .. } = &event;
        let name = if event.instance.is_empty() { &event.subject } else { &event.instance };
        let subject = Subject::Of { kind: *kind, node: node.clone(), service: service.clone(), name: name.clone() };
        let has_place = self.subjects.len() < SUBJECTS_MAX || self.subjects.contains_key(&subject);
        let subject = if has_place { subject } else { Subject::Others };
        let fresh = || Told { allowance: Allowance::new(SUBJECT_MAX, SUBJECT_EVERY, now), held: None };
        let told = self.subjects.entry(subject).or_insert_with(fresh);
        if told.allowance.has(now) && host_has(&mut self.hosts, &event, now) {
            let omitted = told.allowance.take(now).unwrap_or_default();
            self.held -= usize::from(told.held.take().is_some());
            return Some(Event { omitted, ..event });
        }
        told.allowance.omit();
        self.held += usize::from(told.held.replace(event).is_none());
        None
    }

    /// The latest of each subject that may have a line now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        if self.held == 0 {
            return due;
        }
        for told in self.subjects.values_mut() {
            let Some(event) = &told.held else { continue };
            if !told.allowance.has(now) || !host_has(&mut self.hosts, event, now) {
                continue;
            }
            let omitted = told.allowance.take(now).unwrap_or_default();
            // It is one of those that were left out.
            due.extend(told.held.take().map(|event| Event { omitted: omitted.saturating_sub(1), ..event }));
        }
        self.held -= due.len();
        due
    }

    /// The latest of each subject, whether it may have a line or not.
    pub(super) fn rest(&mut self) -> Vec<Event> {
        self.held = 0;
        let held = self.subjects.values_mut().filter_map(|told| {
            let event = told.held.take()?;
            Some(Event { omitted: told.allowance.told().saturating_sub(1), ..event })
        });
        held.collect()
    }

    fn make_room(&mut self, now: Instant) {
        let is_crowded = self.subjects.len() >= SUBJECTS_MAX || self.hosts.len() >= SUBJECTS_MAX;
        let is_due = self.pruned.is_none_or(|at| now.saturating_duration_since(at) >= PRUNE_EVERY);
        if is_crowded && is_due {
            self.pruned = Some(now);
            self.subjects.retain(|_, told| told.held.is_some() || !told.allowance.is_whole(now));
            self.hosts.retain(|_, host| !host.is_whole(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(node: &str, instance: &str, words: &str) -> Event {
        let words = words.to_owned();
        Event { node: node.into(), instance: instance.into(), words, ..Event::new(Kind::Health, "critical") }
    }

    #[test]
    fn a_subject_that_flaps_has_a_line_now_and_then_that_counts_the_rest_and_others_have_theirs() {
        let (mut bounds, start) = (Bounds::default(), Instant::now());
        let flap = |bounds: &mut Bounds, at| bounds.admit(at, event("a", "web", "x"));
        assert_eq!((0..100).filter(|_| flap(&mut bounds, start).is_some()).count(), 20);
        assert!(bounds.admit(start, event("b", "web", "x")).is_some());
        assert_eq!(bounds.due(start), []);
        let due = bounds.due(start + SUBJECT_EVERY);
        assert_eq!(due.iter().map(|event| event.omitted).collect::<Vec<_>>(), [79], "and itself is the eightieth");
        assert_eq!(bounds.due(start + SUBJECT_EVERY * 2), [], "there is nothing to tell");
        assert_eq!(flap(&mut bounds, start + SUBJECT_EVERY * 2).map(|event| event.omitted), Some(0));
    }

    #[test]
    fn a_host_that_invents_subjects_has_no_more_lines_for_it() {
        let (mut bounds, start) = (Bounds::default(), Instant::now());
        let invented =
            (0..10_000).filter(|number| bounds.admit(start, event("mad", &number.to_string(), "x")).is_some());
        assert_eq!(invented.count(), 400);
        assert!(bounds.subjects.len() <= SUBJECTS_MAX + 1 && bounds.held <= SUBJECTS_MAX + 1);
        assert_eq!(bounds.due(start + HOST_EVERY).len(), 1);
        assert_eq!(bounds.rest().len(), bounds.subjects.len() - 401);
    }

    #[test]
    fn subjects_that_are_calm_again_make_room() {
        let (mut bounds, start) = (Bounds::default(), Instant::now());
        for number in 0..SUBJECTS_MAX {
            bounds.admit(start, event(&number.to_string(), "web", "x"));
        }
        bounds.admit(start + SUBJECT_EVERY, event("new", "web", "x"));
        assert_eq!((bounds.subjects.len(), bounds.hosts.len()), (1, 1));
    }
}
