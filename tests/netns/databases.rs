//! Redis and PostgreSQL by mesh name, with their own clients: any protocol rides on the mesh, and no database takes a
//! caller from another host for its own host.

use std::time::Duration;

use crate::fleet::Fleet;
use crate::parts::{PASSWORD, call_who_speaks_first, postgres, psql, psql_session, redis, speaks_first};
use crate::process::wait_for;

/// How soon a moved tag must be followed by every host: a reload, one gossip round, and what a busy machine adds.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(5);

fn database(tag: &str) -> String {
    format!(
        "[[service]]\nname = \"pg\"\nport = 5432\ntags = [\"{tag}\"]\n\
         [[service.check]]\ntcp = \"127.0.0.1:5432\"\ninterval = \"1s\"\n"
    )
}

#[test]
fn redis_is_called_by_name() {
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    let _redis = redis(&fleet["a"]);
    fleet["a"].service("cache", "[[service]]\nname = \"cache\"\nport = 6379\n");
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("cache", &["a"]);
    let cli = |arguments: &[&str]| {
        let words = [&["-h", "cache.mesh.internal"], arguments].concat();
        fleet["b"].run("redis-cli", words).expect("redis-cli").trim().to_owned()
    };
    // Redis spares callers from 127.0.0.1 the password. The mesh does not come from there, so Redis refuses it until it is
    // told otherwise.
    let spared = fleet["b"].run("redis-cli", ["-h", "cache.mesh.internal", "ping"]);
    assert!(spared.stdout.contains("DENIED"), "{}{}", spared.stdout, spared.stderr);
    fleet["a"].run("redis-cli", ["-h", "127.0.0.1", "config", "set", "protected-mode", "no"]).expect("a local setting");
    assert_eq!(cli(&["set", "greeting", "hello across hosts"]), "OK");
    assert_eq!(cli(&["get", "greeting"]), "hello across hosts");
    // A conversation of many questions on one connection, and one large answer.
    assert_eq!(cli(&["-r", "500", "incr", "count"]).lines().last(), Some("500"));
    assert_eq!(cli(&["setrange", "large", "9999999", "x"]), "10000000");
    let large = fleet["b"].run("redis-cli", ["-h", "cache.mesh.internal", "--raw", "get", "large"]);
    assert_eq!(large.expect("a large answer").trim_end_matches('\n').len(), 10_000_000);
}

#[test]
fn postgresql_sends_100_mb_and_asks_a_mesh_caller_for_the_password_it_spares_its_own_host() {
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    let _postgres = postgres(&fleet["a"]);
    fleet["a"].service("pg", &database("primary"));
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("pg", &["a"]);

    let rows = "select repeat('m', 1023) from generate_series(1, 102400)";
    let result = psql(&fleet["b"], "pg.mesh.internal", Some(PASSWORD), rows).expect("a 100 MB result");
    assert_eq!(result.len(), 1024 * 102_400);

    let own = psql(&fleet["a"], "127.0.0.1", None, "select 'trusted'").expect("the host itself is trusted");
    assert_eq!(own.trim(), "trusted");
    // From another host and from its own by mesh name: both come through the mesh, and neither is `localhost`.
    for caller in ["b", "a"] {
        for password in [None, Some("guessed")] {
            let refused = psql(&fleet[caller], "pg.mesh.internal", password, "select 'let in'");
            assert!(!refused.ok, "{caller} with {password:?} was let in: {}", refused.stdout);
            assert!(refused.stderr.contains("password"), "{caller} with {password:?}: {}", refused.stderr);
        }
    }
    let seen = psql(&fleet["b"], "pg.mesh.internal", Some(PASSWORD), "select host(inet_client_addr())");
    assert_eq!(seen.expect("the caller's address").trim(), "127.63.0.1");
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let Some(fleet) = Fleet::raise(&["a", "b"]) else { return };
    let _greeter = speaks_first(&fleet["a"], 2525);
    fleet["a"].service("mail", "[[service]]\nname = \"mail\"\nport = 2525\n");
    fleet.mesh(&["a", "b"]);
    fleet["b"].sees_passing("mail", &["a"]);
    call_who_speaks_first(&fleet["b"], "mail.mesh.internal", 2525);
}

#[test]
fn primary_follows_its_tag_and_the_old_connections_are_closed() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let _postgres = ["a", "b"].map(|name| postgres(&fleet[name]));
    fleet["a"].service("pg", &database("primary"));
    fleet["b"].service("pg", &database("replica"));
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("pg", &["a", "b"]);
    let who = |name: &str| {
        let done = psql(&fleet["c"], name, Some(PASSWORD), "show cluster_name");
        if done.ok { Ok(done.stdout.trim().to_owned()) } else { Err(done.stderr) }
    };
    assert_eq!(who("primary.pg.mesh.internal"), Ok("a".to_owned()));
    assert_eq!(who("replica.pg.mesh.internal"), Ok("b".to_owned()));
    let mut to_primary = psql_session(&fleet["c"], "primary.pg.mesh.internal", "select pg_sleep(600)");
    let mut to_any = psql_session(&fleet["c"], "pg.mesh.internal", "select pg_sleep(600)");
    wait_for("both sessions are open", FOLLOW_DEADLINE, || {
        let asleep =
            "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()";
        let count =
            |host: &str| psql(&fleet[host], "127.0.0.1", None, asleep).stdout.trim().parse::<u32>().unwrap_or(0);
        let open = count("a") + count("b");
        if open == 2 { Ok(()) } else { Err(format!("{open} open")) }
    });

    // A failover: first nobody is primary, then the other is.
    fleet["a"].service("pg", &database("replica"));
    fleet["a"].reload();
    wait_for("the session with the old primary is closed", FOLLOW_DEADLINE, || {
        to_primary.ended().map(|_| ()).ok_or_else(|| "it goes on".to_owned())
    });
    assert_eq!(to_primary.ended(), Some(false), "{}", to_primary.printed());
    fleet["b"].service("pg", &database("primary"));
    fleet["b"].reload();
    wait_for("primary is b", FOLLOW_DEADLINE, || match who("primary.pg.mesh.internal") {
        Ok(host) if host == "b" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for _ in 0..10 {
        assert_eq!(who("primary.pg.mesh.internal"), Ok("b".to_owned()));
        assert_eq!(who("replica.pg.mesh.internal"), Ok("a".to_owned()));
    }
    assert_eq!(to_any.ended(), None, "a session that asked for no tag ends with none: {}", to_any.printed());
}
