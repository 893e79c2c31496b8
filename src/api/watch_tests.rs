//! Who is woken by what.

use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::api::specimen;
use crate::model::ServiceName;

struct World {
    hub: Arc<Hub>,
    directory: Arc<ArcSwap<Directory>>,
    own: Arc<ArcSwap<Local>>,
    changes: watch::Sender<u64>,
}

const LONG: Duration = Duration::from_secs(600);

impl World {
    fn new() -> World {
        let directory = Arc::new(ArcSwap::from_pointee(specimen::directory()));
        let own = Arc::new(ArcSwap::from_pointee(specimen::local()));
        let hub = Hub::new(directory.clone(), own.clone());
        let (changes, receiver) = watch::channel(0);
        tokio::spawn(hub.clone().run(receiver));
        World { hub, directory, own, changes }
    }

    /// Publishes what `change` makes of the present, at the next index.
    async fn publish(&self, change: impl FnOnce(&mut Directory)) {
        let mut next = Directory::clone(&self.directory.load());
        next.index += 1;
        change(&mut next);
        self.changes.send_replace(next.index);
        self.directory.store(Arc::new(next));
        self.changes.send_replace(self.directory.load().index);
        settle().await;
    }

    async fn wait(&self, resource: Resource) -> JoinHandle<()> {
        let known = self.hub.index(&resource, &self.directory.load());
        self.wait_from(resource, known).await
    }

    async fn wait_from(&self, resource: Resource, known: u64) -> JoinHandle<()> {
        let hub = self.hub.clone();
        let waiting = tokio::spawn(async move { hub.wait(resource, known, LONG).await });
        settle().await;
        waiting
    }
}

/// Lets every task that is ready run.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn service(name: &str) -> Resource {
    Resource::Service(name.into())
}

/// Something about the service changes.
fn touch(name: &'static str) -> impl FnOnce(&mut Directory) {
    move |directory| {
        let index = directory.index;
        let service = directory.services.get_mut(name).unwrap();
        Arc::make_mut(service).index = index;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_to_one_service_wakes_those_who_wait_for_it_and_nobody_else() {
    let world = World::new();
    let billing = world.wait(service("billing")).await;
    let legacy = world.wait(service("legacy")).await;
    let absent = world.wait(service("unheard-of")).await;
    let (nodes, services) = (world.wait(Resource::Nodes).await, world.wait(Resource::Services).await);
    world.publish(touch("billing")).await;
    assert!(billing.is_finished());
    assert!(![&legacy, &absent, &nodes, &services].iter().any(|waiting| waiting.is_finished()));
    world.publish(|directory| directory.nodes_index = directory.index).await;
    assert!(nodes.is_finished() && !services.is_finished() && !legacy.is_finished());
    world.publish(|directory| directory.services_index = directory.index).await;
    assert!(services.is_finished() && !legacy.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_or_goes_wakes_those_who_wait_for_it() {
    let world = World::new();
    let coming = world.wait(service("new")).await;
    let other = world.wait(service("newer")).await;
    let going = world.wait(service("legacy")).await;
    world
        .publish(|directory| {
            let mut new = Service::clone(&directory.services["billing"]);
            (new.name, new.index) = (ServiceName::parse("new").unwrap(), directory.index);
            directory.services.insert(new.name.clone(), Arc::new(new));
        })
        .await;
    assert!(coming.is_finished() && !other.is_finished());
    world
        .publish(|directory| {
            directory.services.remove("legacy");
            directory.absent_index = directory.index;
        })
        .await;
    assert!(going.is_finished() && !other.is_finished(), "what is not there is not changed by what goes");
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_not_the_present_one_is_answered_at_once_and_a_wait_ends_by_itself() {
    let world = World::new();
    for known in [1, 40, 999] {
        assert!(world.wait_from(service("billing"), known).await.is_finished(), "{known}");
    }
    let start = Instant::now();
    world.hub.wait(service("billing"), 41, Duration::from_secs(10)).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(world.hub.state().slots.is_empty(), "nothing is kept of those who have gone");
}

#[tokio::test(start_paused = true)]
async fn a_node_changes_with_its_services_also_with_one_that_moves_away() {
    let world = World::new();
    let (web, db) = (Resource::Node("web-02".into()), Resource::Node("db-01".into()));
    // Nobody waits between two queries; what happens then must not be missed either.
    let known = world.hub.index(&web, &world.directory.load());
    let other = world.wait(db).await;
    let without_web = |directory: &mut Directory| {
        let index = directory.index;
        let billing = Arc::make_mut(directory.services.get_mut("billing").unwrap());
        billing.instances.retain(|(node, _)| node.facts.name.as_str() != "web-02");
        billing.index = index;
    };
    world.publish(without_web).await;
    assert!(world.wait_from(web.clone(), known).await.is_finished());
    assert!(other.is_finished(), "db-01 has billing too");
    let web = world.wait(web).await;
    world.publish(touch("billing")).await;
    assert!(!web.is_finished(), "billing has left web-02");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_is_told_by_is_never_ahead_of_the_directory_it_is_told_from() {
    let world = World::new();
    let web = Resource::Node("web-01".into());
    let before = world.directory.load_full();
    world.hub.index(&web, &before);
    world.publish(touch("billing")).await;
    assert_eq!(world.hub.index(&web, &before), before.index);
    assert_eq!(world.hub.index(&web, &world.directory.load()), before.index + 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_of_this_host_is_waited_for_by_its_content() {
    let world = World::new();
    let (worker, billing) = (Resource::Own("worker".into()), Resource::Own("billing".into()));
    let (worker, billing) = (world.wait(worker).await, world.wait(billing).await);
    let mut next = specimen::local();
    let changed = next.services.get_mut("worker").unwrap();
    changed.instance.port = 9090;
    next.index += 1;
    world.own.store(Arc::new(next));
    tokio::time::sleep(2 * OWN_LOOK_INTERVAL).await;
    settle().await;
    assert!(worker.is_finished() && !billing.is_finished());
}
