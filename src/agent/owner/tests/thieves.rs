//! Records that somebody sends who has the gossip key and nothing else: in whose name a datagram comes proves nothing.

use super::poison::Other;
use super::*;
use crate::agent::owner::patience;
use crate::model::Record;

/// The record as somebody would send it who has no key to sign it with.
fn forged(record: &Record) -> Record {
    Record::sign(record.header(), record.body(), |_| [7; 64]).unwrap()
}

fn told_by(bench: &mut Bench, sender: NodeId, record: Record) {
    let message = CatalogMessage::Delta(vec![record]);
    bench.owner.on_gossip(gossip::Event::Catalog { sender, message });
}

fn refused(bench: &Bench, reason: &str) -> u64 {
    bench.owner.gate.refusals().iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count)
}

#[tokio::test(start_paused = true)]
async fn false_records_in_a_hosts_name_keep_none_of_its_true_ones_out() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    let teller = other.identity.node;
    for number in 0..1_000 {
        let false_one = forged(&other.record(&format!("s{number}")));
        told_by(&mut bench, teller, false_one);
    }
    assert_eq!(refused(&bench, "signature"), 1_000);
    let true_one = other.record("web");
    told_by(&mut bench, teller, true_one.clone());
    assert!(bench.owner.catalog.get(&true_one.id()).is_some(), "it must wait for digests");
    bench.stop();
}

#[tokio::test(start_paused = true)]
async fn false_records_in_ever_new_names_cost_so_many_checks_a_second_and_no_more() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    let mut tell = |bench: &mut Bench| {
        for number in 0..2 * u64::from(patience::CHECKS_MAX) {
            let sender = NodeId(u128::from(number).to_be_bytes());
            told_by(bench, sender, forged(&other.record("web")));
            // This host's own signature is checked as well, where it is said to have said more than it has.
            let mut header = other.record("web").header().clone();
            (header.origin, header.version.epoch) = (bench.owner.local, u64::MAX);
            told_by(bench, sender, Record::sign(&header, b"", |_| [7; 64]).unwrap());
        }
        refused(bench, "signature") + refused(bench, "own_name")
    };
    let checked = tell(&mut bench);
    assert_eq!(checked, u64::from(patience::CHECKS_MAX));
    assert_eq!(refused(&bench, "over_rate"), 3 * checked);
    // As time passes they are looked at again.
    tokio::time::advance(Duration::from_millis(500)).await;
    let more = tell(&mut bench) - checked;
    assert!(more.abs_diff(u64::from(patience::CHECKS_MAX) / 2) <= 1, "{more} in half a second");
    bench.stop();
}

#[tokio::test(start_paused = true)]
async fn what_somebody_says_in_made_up_names_leaves_room_to_name_who_lies_under_his_own() {
    let (dir, mut other) = (enrolled(), Other::new());
    let mut bench = Bench::start(dir.path(), Vec::new());
    bench.meet(&other);
    for number in 0..5_000_u64 {
        let sender = NodeId(u128::from(number).to_be_bytes());
        told_by(&mut bench, sender, forged(&other.record("web")));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let (now, liar) = (bench.owner.now(), Other::new().identity.node);
    bench.owner.on_pulled(now, liar, vec![forged(&other.record("web"))], true);
    assert!(bench.owner.liars.contains(&liar));
    bench.stop();
}
