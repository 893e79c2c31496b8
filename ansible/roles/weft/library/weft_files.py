#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Puts weft.toml and the files of services.d in place together, once `weft validate` has accepted them together."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: weft_files
short_description: Configuration and service files of the Weft agent, validated before they are installed
description:
  - Lays the files out in a folder of their own, with the other files of C(services.d) beside them, and lets
    C(weft validate) read the whole as the agent would.
  - Only when that succeeds the files that differ are replaced, each whole. Otherwise nothing changes and the module
    fails with what C(weft validate) printed.
options:
  directory: {description: The agent's configuration folder., type: path, default: /etc/weft}
  binary: {description: The C(weft) that validates., type: path, required: true}
  config: {description: The text of weft.toml., type: str, required: true}
  services:
    description: Files of services.d, text by name. Empty text or null removes the file; a mapping is written as JSON.
    type: dict
    default: {}
  purge: {description: Remove files of services.d that are not in O(services)., type: bool, default: false}
  group: {description: The group that may read the files., type: str, required: true}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: The Weft authors
"""

RETURN = r"""
changed_files: {description: Paths that were written or removed., type: list, returned: success}
restart: {description: Whether a key of weft.toml changed that needs a restart., type: bool, returned: success}
"""

import grp
import json
import os
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

FILE_MODE = 0o640
# What the agent reads; other names in services.d are not its own and not ours.
ENDINGS = (".toml", ".json")
RESTART_KEYS = "# restart-keys "


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def text_of(module, name, value):
    """The text of a service file, or None where there shall be none."""
    if "/" in name or name.startswith(".") or not name.endswith(ENDINGS):
        module.fail_json(msg=f"weft_service_files: {name!r} is no name of a service file; write NAME.toml or NAME.json")
    if isinstance(value, (dict, list)):
        return json.dumps(value, indent=2) + "\n"
    return str(value) if value else None


def service_files_in(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in names if name.endswith(ENDINGS) and not name.startswith("."))


def wanted(module):
    """Every file that the agent would read, by path below the folder; None where it shall go."""
    folder = os.path.join(module.params["directory"], "services.d")
    ours = {name: text_of(module, name, value) for name, value in module.params["services"].items()}
    others = {name: None if module.params["purge"] else read(os.path.join(folder, name))
              for name in service_files_in(folder) if name not in ours}
    files = {os.path.join("services.d", name): text for name, text in {**others, **ours}.items()}
    files["weft.toml"] = module.params["config"]
    return files


def validate(module, files):
    candidate = tempfile.mkdtemp(prefix="weft-candidate-", dir=module.tmpdir)
    try:
        os.mkdir(os.path.join(candidate, "services.d"), 0o700)
        for path, text in files.items():
            if text is not None:
                write(os.path.join(candidate, path), text)
        config = os.path.join(candidate, "weft.toml")
        code, out, err = module.run_command([module.params["binary"], "validate", "--config", config])
        if code != 0:
            said = (out + err).replace(candidate, module.params["directory"]).strip()
            module.fail_json(msg=f"weft validate refuses the files; nothing was changed:\n{said}", rc=code)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


def write(path, text):
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def restart_keys(text):
    return next((line for line in (text or "").splitlines() if line.startswith(RESTART_KEYS)), None)


def install(module, path, text):
    if text is None:
        os.unlink(path)
        return
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    os.close(handle)
    write(temporary, text)
    # Across file systems too, and never half-written where the agent may read it.
    module.atomic_move(temporary, path)


def owned(module, path):
    """Whether mode or owner had to change: root writes, the agent's group reads, nobody else."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    try:
        gid = grp.getgrnam(module.params["group"]).gr_gid
    except KeyError:
        module.fail_json(msg=f"there is no group {module.params['group']}")
    same = (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (os.geteuid(), gid, FILE_MODE)
    if not same and not module.check_mode:
        os.chown(path, os.geteuid(), gid)
        os.chmod(path, FILE_MODE)
    return not same


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/weft"},
            "binary": {"type": "path", "required": True},
            "config": {"type": "str", "required": True},
            "services": {"type": "dict", "default": {}},
            "purge": {"type": "bool", "default": False},
            "group": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    files = wanted(module)
    validate(module, files)
    directory, changed, diff = module.params["directory"], [], []
    before = read(os.path.join(directory, "weft.toml"))
    # weft.toml comes last, so that a run that is cut off leaves its changes to be seen by the next.
    for name in sorted(files, key=lambda name: (name == "weft.toml", name)):
        path, text = os.path.join(directory, name), files[name]
        old = read(path)
        if old != text:
            diff.append({"before_header": path, "after_header": path, "before": old or "", "after": text or ""})
            if not module.check_mode:
                install(module, path, text)
        ours = name == "weft.toml" or os.path.basename(name) in module.params["services"]
        reowned = ours and text is not None and owned(module, path)
        if old != text or reowned:
            changed.append(path)
    restart = before is None or restart_keys(before) != restart_keys(files["weft.toml"])
    module.exit_json(changed=bool(changed), changed_files=changed, restart=restart, diff=diff)


if __name__ == "__main__":
    main()
