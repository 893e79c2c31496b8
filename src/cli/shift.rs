//! `weft shift`: moves a share of a service's calls to a part of its instances. It states the service's split and keeps all
//! else of what is stated.

use std::collections::BTreeMap;

use clap::builder::NonEmptyStringValueParser;
use serde::{Deserialize, Serialize};

use super::client::{Client, encode};
use super::decide::{Key, usage};
use super::output::{CliError, EXIT_NOT_FOUND, Globals, print, print_json};
use super::traffic::{Form, in_words};
use crate::model::{PLATFORM_DEFAULT, ServiceName, Share, Subset};
use crate::policy::document::{Difference, Document};

/// The other world.
const PLATFORM_OTHER: &str = "kubernetes";

/// Move a share of a service's calls to a part of its instances
///
/// A part is platform=kubernetes, platform=vm, tag=TAG, zone=ZONE or meta.KEY=VALUE. The rest of the calls goes to the other
/// part of the split; where there is none yet, platform=kubernetes stands beside platform=vm, and else --from says which.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weft shift billing --to platform=kubernetes --percent 10 --operator ~/anna.pem
  weft shift billing --to tag=v2 --from tag=v1 --percent 50
  weft shift billing --to platform=kubernetes --percent 100")]
pub(super) struct Args {
    /// The service that is called
    service: ServiceName,
    /// Which instances get the share
    #[arg(long, value_name = "KEY=VALUE", value_parser = NonEmptyStringValueParser::new())]
    to: String,
    /// Which instances get the rest
    #[arg(long, value_name = "KEY=VALUE", value_parser = NonEmptyStringValueParser::new())]
    from: Option<String>,
    /// How many of a hundred calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    percent: u32,
    #[command(flatten)]
    key: Key,
}

#[derive(Serialize)]
struct Done<'a> {
    service: &'a str,
    changed: bool,
    number: Option<u64>,
    differences: &'a [Difference],
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<(), CliError> {
    let to = subset(&args.to)?;
    let from = args.from.as_deref().map(subset).transpose()?;
    let operator = args.key.load()?;
    let client = Client::connect(globals.api.clone())?;
    let service = &args.service;
    let form = Form::fetch(&client, service)?;
    form.refuse_on_trial(service)?;
    let before = form.document(service)?;
    let rest = rest(&before.policy().split, &to, from)?;
    let part_of_rest = args.from.as_deref().unwrap_or("the rest of the calls");
    for (part, asked, weight) in [(&to, args.to.as_str(), args.percent), (&rest, part_of_rest, 100 - args.percent)] {
        if weight > 0 {
            must_have_instances(&client, service, part, asked)?;
        }
    }
    let shares = [(to, args.percent), (rest, 100 - args.percent)];
    let mut policy = before.policy().clone();
    policy.split = shares.into_iter().map(|(subset, weight)| Share { subset, weight }).collect();
    // Only the split is taken over: what is said of other groups stays as it was written.
    let mut groups = Document::of(policy).said().clone();
    groups.retain(|group, _| group == "split");
    let document = before.with(&groups).map_err(|error| CliError::failed(error.to_string(), ""))?;
    let differences = before.differences(&document);
    let number = match differences.is_empty() {
        true => None,
        false => Some(form.state(&client, &operator, service, Some(&document), None)?),
    };
    if globals.json {
        let (service, changed) = (service.as_str(), number.is_some());
        return print_json(&Done { service, changed, number, differences: &differences });
    }
    match number {
        None => print(&format_args!("{service}: nothing changes\n")),
        Some(number) => print(&format_args!("{service} is stated, number {number}:\n{}", in_words(&differences))),
    }
}

/// `KEY=VALUE` to a subset.
fn subset(text: &str) -> Result<Subset, CliError> {
    let wrong = || {
        let advice = "write platform=kubernetes, platform=vm, tag=TAG, zone=ZONE or meta.KEY=VALUE";
        usage(format!("{text:?} is no part of a service's instances"), advice)
    };
    let (key, value) = text.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(wrong)?;
    let table = match key {
        "platform" | "tag" | "zone" => serde_json::json!({ "weight": 1, key: value }),
        key => match key.strip_prefix("meta.").filter(|name| !name.is_empty()) {
            Some(name) => serde_json::json!({ "weight": 1, "meta": { name: value } }),
            None => return Err(wrong()),
        },
    };
    let document = Document::parse(&serde_json::json!({ "split": [table] }).to_string());
    let document = document.map_err(|error| usage(error.to_string(), ""))?;
    document.policy().split.first().map(|share| share.subset.clone()).ok_or_else(wrong)
}

/// Who gets the rest of the calls.
fn rest(split: &[Share], to: &Subset, from: Option<Subset>) -> Result<Subset, CliError> {
    if let Some(from) = from {
        return if from == *to { Err(usage("--from and --to are the same", "name two parts")) } else { Ok(from) };
    }
    let others: Vec<&Subset> = split.iter().map(|share| &share.subset).filter(|subset| *subset != to).collect();
    match others.as_slice() {
        [other] => return Ok((*other).clone()),
        [] => {}
        _ => {
            let advice = "give --from to share the calls between two of them, or state the split with weft apply";
            return Err(usage(format!("its split has {} other parts", others.len()), advice));
        }
    }
    let alone = |platform: &str| Subset { platform: Some(platform.to_owned()), ..Subset::default() };
    let worlds = [alone(PLATFORM_DEFAULT), alone(PLATFORM_OTHER)];
    match &worlds {
        [one, other] if one == to => Ok(other.clone()),
        [one, other] if other == to => Ok(one.clone()),
        _ => Err(usage("nothing says who gets the rest of the calls", "say which instances do: --from KEY=VALUE")),
    }
}

/// Calls that go to a part without instances are lost.
fn must_have_instances(client: &Client, service: &ServiceName, part: &Subset, asked: &str) -> Result<(), CliError> {
    let services: Vec<Listed> = client.get_json(&format!("/v1/weft/services?name={}", encode(service.as_str())))?.value;
    if services.iter().flat_map(|service| &service.instances).any(|instance| instance.takes(part)) {
        return Ok(());
    }
    let sentence = format!("no instance of {service} can take calls for {asked}: they would have nowhere to go");
    Err(CliError::failed(sentence, format!("start one first; weft services {service}")).exiting(EXIT_NOT_FOUND))
}

#[derive(Deserialize)]
struct Listed {
    instances: Vec<Placed>,
}

/// An instance, as far as subsets ask.
#[derive(Deserialize)]
struct Placed {
    zone: String,
    tags: Vec<String>,
    platform: String,
    meta: BTreeMap<String, String>,
    usable: bool,
}

impl Placed {
    fn takes(&self, part: &Subset) -> bool {
        let has_tag = part.tag.as_ref().is_none_or(|tag| self.tags.iter().any(|each| each == tag.as_str()));
        let in_zone = part.zone.as_ref().is_none_or(|zone| *zone == self.zone);
        let on_platform = part.platform.as_ref().is_none_or(|platform| *platform == self.platform);
        let has_meta = part.meta.iter().all(|(key, value)| self.meta.get(key) == Some(value));
        self.usable && has_tag && in_zone && on_platform && has_meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest_of(split: &[&str], to: &str, from: Option<&str>) -> Result<Subset, u8> {
        let shares = split.iter().map(|part| Share { subset: subset(part).unwrap(), weight: 1 });
        let from = from.map(|from| subset(from).unwrap());
        rest(&shares.collect::<Vec<_>>(), &subset(to).unwrap(), from).map_err(|error| error.exit_code)
    }

    #[test]
    fn a_part_is_named_by_one_key() {
        assert_eq!(subset("platform=vm").unwrap().platform.as_deref(), Some("vm"));
        assert_eq!(subset("tag=a=b").unwrap().tag.unwrap().as_str(), "a=b");
        assert_eq!(subset("meta.rack=r12").unwrap().meta["rack"], "r12");
        for wrong in ["v2", "tag=", "rack=r12", "meta.=x", "platform=Big World"] {
            assert!(subset(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_rest_goes_to_the_other_part_of_the_split_or_to_the_other_world_or_where_it_is_said() {
        let part = |text| Ok(subset(text).unwrap());
        assert_eq!(rest_of(&[], "platform=kubernetes", None), part("platform=vm"));
        assert_eq!(rest_of(&[], "platform=vm", None), part("platform=kubernetes"));
        assert_eq!(rest_of(&["tag=v1", "tag=v2"], "tag=v2", None), part("tag=v1"));
        assert_eq!(rest_of(&["tag=v1"], "tag=v3", None), part("tag=v1"));
        assert_eq!(rest_of(&["tag=v1", "tag=v2"], "tag=v3", Some("tag=v1")), part("tag=v1"));
        assert!(rest_of(&[], "tag=v2", None).is_err());
        assert!(rest_of(&["tag=v1", "tag=v2"], "tag=v3", None).is_err());
        assert!(rest_of(&[], "tag=v2", Some("tag=v2")).is_err());
    }
}
