"""py-consul against the agent on 127.0.0.1:8500, as its documentation uses it.

`read` needs a service `metrics` with the tags `primary` and `v1` on this host; `write TOKEN` registers what it needs.
"""

import sys
import threading
import time

import consul
import consul.exceptions


def until(what, attempt, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        seen = attempt()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def read(c):
    me = c.agent.self()["Config"]
    assert me["Datacenter"] == "proving" and me["NodeName"] == "consul-01", me
    assert [m["Name"] for m in c.agent.members()] == ["consul-01"]
    assert c.agent.members()[0]["Status"] == 1
    assert "metrics" in c.agent.services()
    assert c.agent.services(filter_expr="Port == 1") == {}
    assert c.agent.service_definition("metrics")["Port"] == 8428
    assert isinstance(c.agent.checks(), dict)
    assert c.status.leader() and c.status.peers()
    assert c.catalog.datacenters() == ["proving"]

    index, nodes = c.catalog.nodes()
    assert int(index) >= 1 and nodes[0]["Node"] == "consul-01", nodes
    index, services = c.catalog.services()
    assert sorted(services["metrics"]) == ["primary", "v1"], services
    index, instances = c.catalog.service("metrics", tag="primary")
    assert instances[0]["ServicePort"] == 8428 and instances[0]["Address"] == "10.77.0.1", instances
    index, node = c.catalog.node("consul-01")
    assert "metrics" in node["Services"], node
    index, nobody = c.catalog.node("nobody")
    assert nobody is None

    index, entries = c.health.service("metrics", passing=True, tag=["primary", "v1"], near="_agent")
    assert entries[0]["Service"]["ID"] == "metrics", entries
    assert c.health.service("metrics", filter_expr='"v2" in Service.Tags')[1] == []
    assert c.health.service("unheard-of", passing=True)[1] == []
    index, checks = c.health.node("consul-01")
    assert checks[0]["CheckID"] == "serfHealth", checks
    assert any(check["CheckID"] == "serfHealth" for check in c.health.state("passing")[1])
    assert c.health.checks("metrics")[1] == []

    started = time.monotonic()
    index, _ = c.health.service("metrics")
    again, entries = c.health.service("metrics", index=index, wait="1s")
    assert again == index and entries, (index, again)
    assert 0.9 <= time.monotonic() - started <= 3, "it waits for as long as it is asked to"

    assert c.agent.metrics()["Gauges"]
    assert "weft_members" in c.agent.metrics(format_prometheus=True)
    try:
        c.kv.put("key", "value")
    except consul.ConsulException as error:
        assert "501" in str(error), error
    else:
        raise AssertionError("there is no key-value store")
    try:
        c.health.service("metrics", filter_expr="((")
    except consul.exceptions.BadRequest:
        pass
    else:
        raise AssertionError("no expression")


def write(c):
    registered = c.agent.service.register(
        "web",
        service_id="web-1",
        port=8080,
        tags=["primary"],
        meta={"version": "1"},
        weights={"Passing": 10, "Warning": 1},
        check=consul.Check.ttl("30s"),
    )
    assert registered is True
    local = c.agent.services()["web-1"]
    assert local["Port"] == 8080 and local["Meta"] == {"version": "1"}, local
    assert local["Weights"] == {"Passing": 10, "Warning": 1}, local
    assert c.agent.checks()["service:web-1"]["Status"] == "critical"
    assert c.health.service("web", passing=True)[1] == [], "nobody has said that it is well"

    # A waiting reader is told when the report comes.
    index, _ = c.health.service("web")
    told = []

    def wait():
        seen = index
        while not told:
            seen, entries = consul.Consul().health.service("web", index=seen, wait="20s", passing=True)
            if entries:
                told.append(entries)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert c.agent.check.ttl_pass("service:web-1", notes="all well")
    waiting.join(timeout=20)
    assert told and told[0][0]["Service"]["ID"] == "web-1", told
    assert c.agent.checks()["service:web-1"]["Output"] == "all well"
    until("the catalog has it", lambda: "web" in c.catalog.services()[1])

    def status():
        entries = c.health.service("web")[1]
        return {check["CheckID"]: check["Status"] for entry in entries for check in entry["Checks"]}

    assert c.agent.check.ttl_warn("service:web-1")
    until("it warns", lambda: status().get("service:web-1") == "warning")
    assert c.agent.check.ttl_fail("service:web-1")
    until("it fails", lambda: status().get("service:web-1") == "critical")
    assert c.agent.check.ttl_pass("service:web-1")
    until("it passes", lambda: c.health.service("web", passing=True)[1])

    assert c.agent.service.maintenance("web-1", "true", "new disk")
    until("it is maintained", lambda: status().get("_service_maintenance:web-1") == "critical")
    assert c.agent.checks()["_service_maintenance:web-1"]["Notes"] == "new disk"
    assert c.agent.service.maintenance("web-1", "false")
    until("it is back", lambda: c.health.service("web", passing=True)[1])

    assert c.agent.maintenance("true", "new kernel")
    until("the host is maintained", lambda: not c.health.service("web", passing=True)[1])
    assert c.agent.maintenance("false")
    until("the host is back", lambda: c.health.service("web", passing=True)[1])

    assert c.agent.check.register("memory", check=consul.Check.ttl("30s"), check_id="mem", service_id="web-1")
    assert c.agent.check.ttl_pass("mem")
    assert c.agent.checks()["mem"]["ServiceID"] == "web-1"
    assert c.agent.check.deregister("mem")
    assert "mem" not in c.agent.checks()

    for wrong in [{"name": ""}, {"name": "web", "port": -1}]:
        try:
            c.agent.service.register(**wrong)
        except consul.exceptions.BadRequest:
            continue
        raise AssertionError(wrong)

    assert c.agent.service.deregister("web-1")
    assert "web-1" not in c.agent.services()
    until("it is gone", lambda: "web" not in c.catalog.services()[1])


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](consul.Consul(token=sys.argv[2] if len(sys.argv) > 2 else None))
    print(f"py-consul: {sys.argv[1]} done")
