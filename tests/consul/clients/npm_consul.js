// npm's `consul` against the agent on 127.0.0.1:8500, as its documentation uses it.
//
// `read` needs a service `metrics` with the tags `primary` and `v1` on this host; `write TOKEN` registers what it needs.

const assert = require("assert");
const Consul = require("consul");

const consul = new Consul({ defaults: { token: process.argv[3] } });

async function until(what, attempt, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const seen = await attempt();
    if (seen) return seen;
    assert(Date.now() < deadline, `${what}: not within ${seconds} s`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

async function read() {
  const { Config } = await consul.agent.self();
  assert.deepStrictEqual([Config.Datacenter, Config.NodeName], ["proving", "consul-01"]);
  assert.strictEqual((await consul.agent.members())[0].Status, 1);
  assert((await consul.agent.services()).metrics);
  assert.strictEqual(typeof (await consul.agent.checks()), "object");
  assert(await consul.status.leader());
  assert.strictEqual((await consul.status.peers()).length, 1);

  assert.deepStrictEqual(await consul.catalog.datacenters(), ["proving"]);
  assert.strictEqual((await consul.catalog.node.list())[0].Node, "consul-01");
  assert((await consul.catalog.node.services("consul-01")).Services.metrics);
  assert.deepStrictEqual((await consul.catalog.service.list()).metrics.sort(), ["primary", "v1"]);
  assert.strictEqual((await consul.catalog.service.nodes("metrics"))[0].ServicePort, 8428);

  const passing = await consul.health.service({ service: "metrics", passing: true, tag: "primary" });
  assert.strictEqual(passing[0].Service.ID, "metrics");
  assert.strictEqual((await consul.health.node("consul-01"))[0].CheckID, "serfHealth");
  assert((await consul.health.state("passing")).length > 0);
  assert.deepStrictEqual(await consul.health.checks("metrics"), []);

  const [first] = await new Promise((resolve, reject) => {
    const watch = consul.watch({ method: consul.health.service, options: { service: "metrics", wait: "1s" } });
    watch.on("change", (data) => {
      watch.end();
      resolve(data);
    });
    watch.on("error", reject);
  });
  assert.strictEqual(first.Service.ID, "metrics");
  await assert.rejects(consul.kv.set("key", "value"), /501|not implemented/i);
}

async function write() {
  await consul.agent.service.register({
    name: "web",
    id: "web-1",
    port: 8080,
    tags: ["primary"],
    check: { ttl: "30s" },
  });
  assert.strictEqual((await consul.agent.services())["web-1"].Port, 8080);
  assert.strictEqual((await consul.agent.checks())["service:web-1"].Status, "critical");

  const seen = [];
  const watch = consul.watch({
    method: consul.health.service,
    options: { service: "web", passing: true, wait: "20s" },
  });
  watch.on("change", (data) => seen.push(data.length));
  watch.on("error", (error) => assert.fail(error));
  await consul.agent.check.pass({ id: "service:web-1", note: "all well" });
  await until("the watch tells of it", () => seen.at(-1) === 1);

  const status = async () => {
    const entries = await consul.health.service("web");
    const checks = entries.flatMap((entry) => entry.Checks);
    return Object.fromEntries(checks.map((check) => [check.CheckID, check.Status]));
  };
  await consul.agent.check.warn("service:web-1");
  await until("it warns", async () => (await status())["service:web-1"] === "warning");
  await consul.agent.check.fail("service:web-1");
  await until("it fails", async () => (await status())["service:web-1"] === "critical");
  await until("the watch tells of it", () => seen.at(-1) === 0);
  await consul.agent.check.pass("service:web-1");
  await until("the watch tells of it", () => seen.at(-1) === 1);

  await consul.agent.service.maintenance({ id: "web-1", enable: true, reason: "new disk" });
  await until("the watch tells of it", () => seen.at(-1) === 0);
  await consul.agent.service.maintenance({ id: "web-1", enable: false });
  await until("the watch tells of it", () => seen.at(-1) === 1);

  await consul.agent.check.register({ name: "memory", id: "mem", serviceid: "web-1", ttl: "30s" });
  await consul.agent.check.pass("mem");
  await consul.agent.check.deregister("mem");
  assert(!("mem" in (await consul.agent.checks())));

  await assert.rejects(consul.agent.service.register({ name: "web", port: -1 }));
  await consul.agent.service.deregister("web-1");
  await until("it is gone", async () => !("web" in (await consul.catalog.service.list())));
  watch.end();
}

const part = process.argv[2];
({ read, write })[part]().then(
  () => {
    console.log(`npm consul: ${part} done`);
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
