#!/usr/bin/env python3
"""N Weft agents in one network namespace, on 127.0.1.x: what a fleet's gossip costs and how soon it knows.

    gossip.py AGENT N        (root; AGENT is a weft binary)

Measures what the same test of Serf does: from starting all agents at once until each knows all; bytes, packets, CPU and
memory of an idle agent; kill -9 of one, until the first, the median and the last of the others hold it for failed. Agents
are enrolled before the clock starts. Bytes are the namespace's loopback counters, IP headers included."""
import os, re, selectors, shutil, signal, statistics as st, subprocess, sys, tempfile, time

AGENT, N = os.path.abspath(sys.argv[1]), int(sys.argv[2])
JOIN_S, CALM_S, STEADY_S, DEATH_S = 120, 20, 30, 60
HZ = os.sysconf("SC_CLK_TCK")
NAMESPACE = f"weft-bench-{os.getpid()}"
INSIDE = ["ip", "netns", "exec", NAMESPACE]
CHANGED = re.compile(rb"member changed node=(\S+) .*state=(\S+)")


def shell(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout


def loopback():
    lines = shell(*INSIDE, "cat", "/proc/net/dev").splitlines()
    fields = next(line for line in lines if "lo:" in line).split(":")[1].split()
    return int(fields[0]), int(fields[1])


def cpu_s(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / HZ


def rss_mb(pid):
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def address(i):
    return f"127.0.{1 + i // 250}.{1 + i % 250}"


def configure(folder, i):
    ip = address(i)
    with open(f"{folder}/weft.toml", "w") as file:
        file.write(
            f'[node]\nname = "n{i}"\nadvertise = "{ip}"\n'
            f'[cluster]\nname = "bench"\nseeds = ["{address(0)}:7946"]\n'
            f'[gossip]\nlisten = "{ip}:7946"\n[mesh]\nlisten = "{ip}:7947"\n'
            f'[dns]\nlisten = ["{ip}:8600"]\nupstreams = []\n'
            f'[api]\nlisten = "{ip}:8500"\nsocket = "{folder}/weft.sock"\n'
            f'[proxy]\ncapture = "bind"\ncapture_listen = "{ip}:15001"\nworkers = 1\n'
        )


def start(folder):
    words = [*INSIDE, AGENT, "agent", "--config", f"{folder}/weft.toml", "--data-dir", f"{folder}/data"]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def enrol(root, folders):
    shell(*INSIDE, AGENT, "ca", "init", "--data-dir", f"{folders[0]}/data", "--cluster", "bench", "--node", "n0")
    issuer = start(folders[0])
    try:
        for line in issuer.stdout:
            if b"weft is ready" in line:
                break
        for i, folder in enumerate(folders[1:], 1):
            token = shell(*INSIDE, AGENT, "token", "create", "--data-dir", f"{folders[0]}/data", "--issuer",
                          f"{address(0)}:7947").strip()
            shell(*INSIDE, AGENT, "enroll", "--token", token, "--data-dir", f"{folder}/data", "--node", f"n{i}")
    finally:
        issuer.terminate()
        issuer.wait()


class Watch:
    """What each agent's log says of the others, and when it was read."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.rest, self.alive, self.failed, self.accused = {}, {}, {}, {}

    def add(self, i, process):
        os.set_blocking(process.stdout.fileno(), False)
        self.selector.register(process.stdout, selectors.EVENT_READ, i)
        self.rest[i], self.alive[i] = b"", {f"n{i}".encode()}

    def pump(self, wait_s):
        for key, _ in self.selector.select(wait_s):
            try:
                data = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            if not data:
                self.selector.unregister(key.fileobj)
                continue
            *lines, self.rest[key.data] = (self.rest[key.data] + data).split(b"\n")
            for line in lines:
                self.take(key.data, CHANGED.search(line))

    def take(self, i, found):
        if found is None:
            return
        node, state = found.groups()
        if state == b"alive":
            self.alive[i].add(node)
        elif state == b"failed":
            self.alive[i].discard(node)
            self.failed.setdefault(node, {})[i] = time.time()
        elif state == b"suspect":
            self.accused[node] = self.accused.get(node, 0) + 1

    def pump_for(self, seconds):
        end = time.time() + seconds
        while time.time() < end:
            self.pump(0.2)


def measure(folders):
    watch, agents = Watch(), []
    try:
        begin = time.time()
        for i, folder in enumerate(folders):
            agents.append(start(folder))
            watch.add(i, agents[-1])
        spawned = time.time() - begin
        complete = lambda: all(len(alive) == N for alive in watch.alive.values())
        while time.time() - begin < JOIN_S and not complete():
            watch.pump(0.02)
        print(f"N={N} spawn={spawned:.2f}s converged={time.time() - begin:.2f}s all={complete()}")
        watch.pump_for(CALM_S)
        # `ip netns exec` replaces itself by the agent: the pids are the agents'.
        pids = [agent.pid for agent in agents]
        before, cpu_before, at = loopback(), sum(map(cpu_s, pids)), time.time()
        watch.pump_for(STEADY_S)
        after, cpu_after, span = loopback(), sum(map(cpu_s, pids)), time.time() - at
        accused = {node.decode(): count for node, count in watch.accused.items()}
        print(f"steady: {(after[0] - before[0]) / span / N:.0f} B/s/node {(after[1] - before[1]) / span / N:.1f} pkt/s/node "
              f"cpu={(cpu_after - cpu_before) / span / N * 1000:.2f} ms/s/node "
              f"rss={st.mean(map(rss_mb, pids)):.1f} MB; accused so far: {accused}; failed so far: "
              f"{ {node.decode(): len(by) for node, by in watch.failed.items()} }")
        watch.accused.clear()
        watch.failed.clear()
        victim = N // 2
        agents[victim].kill()
        killed = time.time()
        seen = lambda: watch.failed.get(f"n{victim}".encode(), {})
        while time.time() - killed < DEATH_S and len(seen()) < N - 1:
            watch.pump(0.02)
        delays = [at - killed for at in seen().values()]
        others = sorted(node.decode() for node in watch.accused if node != f"n{victim}".encode())
        print(f"detect: seen by {len(delays)}/{N - 1} first={min(delays):.2f}s median={st.median(delays):.2f}s "
              f"last={max(delays):.2f}s; others accused: {others}")
    finally:
        for agent in agents:
            agent.kill()
        for agent in agents:
            agent.wait()


def main():
    shell("ip", "netns", "add", NAMESPACE)
    root = tempfile.mkdtemp(prefix="weft-bench-")
    try:
        shell(*INSIDE, "ip", "link", "set", "lo", "up")
        folders = [f"{root}/n{i}" for i in range(N)]
        for i, folder in enumerate(folders):
            os.mkdir(folder)
            configure(folder, i)
        enrol(root, folders)
        measure(folders)
    finally:
        shell("ip", "netns", "del", NAMESPACE)
        shutil.rmtree(root)


main()
