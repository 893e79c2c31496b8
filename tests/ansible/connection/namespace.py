# SPDX-License-Identifier: Apache-2.0
"""Reaches a host that is a set of namespaces on this machine, as ssh would reach one elsewhere."""

from __future__ import annotations

DOCUMENTATION = """
name: namespace
short_description: Run in the namespaces of a process
description:
  - Everything runs in the namespaces and below the root of one process, the host's init.
author: The Weft authors
options:
  init:
    description: Process id of the host's init.
    vars: [{name: namespace_init}]
    type: int
    required: true
"""

import shlex
import subprocess

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

# A hanging command ends before the test runner's patience does.
SECONDS_MAX = 60


class Connection(ConnectionBase):
    transport = "namespace"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def _enter(self, command, **streams):
        init = str(self.get_option("init"))
        words = ["nsenter", "--target", init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root",
                 "--wd", "--", "/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8",
                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "/bin/sh", "-c", command]
        return subprocess.run(words, capture_output=True, timeout=SECONDS_MAX, check=False, **streams)

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._enter(cmd, input=in_data or b"")
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as file:
            done = self._enter(f"cat > {shlex.quote(out_path)}", stdin=file)
        if done.returncode != 0:
            raise AnsibleConnectionFailure(f"cannot write {out_path}: {done.stderr.decode(errors='replace')}")

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        done = self._enter(f"cat {shlex.quote(in_path)}", stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise AnsibleConnectionFailure(f"cannot read {in_path}: {done.stderr.decode(errors='replace')}")
        with open(out_path, "wb") as file:
            file.write(done.stdout)

    def close(self):
        self._connected = False
