#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Puts weft.toml, the files of services.d and the units in place, once `weft validate` has accepted the former."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: weft_files
short_description: Configuration, service files and units of the Weft agent, validated before they are installed
description:
  - Lays weft.toml and the service files out in a folder of their own, with the other files of C(services.d) beside
    them, and lets C(weft validate) read the whole as the agent would.
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
  group: {description: The group that may read weft.toml and the service files., type: str, required: true}
  units: {description: Files that everybody may read, text by path., type: dict, default: {}}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: The Weft authors
"""

RETURN = r"""
changed_files: {description: Paths that were written or removed., type: list, returned: success}
restart: {description: Whether weft.toml changed in a key that needs a restart., type: bool, returned: success}
"""

import grp
import json
import os
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

# What the agent reads; other names in services.d are none of its own and none of ours.
ENDINGS = (".toml", ".json")
RESTART_KEYS = "# restart-keys "


class File:
    """A file as it shall be: its text, None for none, and who may read it."""

    def __init__(self, text, group="root", mode=0o644):
        self.text, self.group, self.mode = text, group, mode


def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path, text):
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def text_of(module, name, value):
    """The text of a service file, or None where there shall be none."""
    if "/" in name or name.startswith(".") or not name.endswith(ENDINGS):
        module.fail_json(msg=f"weft_service_files: {name!r} is no name of a service file; write NAME.toml or NAME.json")
    if isinstance(value, (dict, list)):
        return json.dumps(value, indent=2) + "\n"
    return str(value) if value else None


def service_files_in(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [name for name in names if name.endswith(ENDINGS) and not name.startswith(".")]


def wanted_services(module, folder):
    """The texts of services.d by name: those we were given, and of the others that are there None if they shall go."""
    given = {name: text_of(module, name, value) for name, value in module.params["services"].items()}
    others = [name for name in service_files_in(folder) if name not in given]
    return {**given, **dict.fromkeys(others if module.params["purge"] else [])}


def validate(module, folder, services):
    """Lets `weft validate` read what the agent would."""
    candidate = tempfile.mkdtemp(prefix="weft-candidate-", dir=module.tmpdir)
    try:
        os.mkdir(os.path.join(candidate, "services.d"))
        there = {name: read(os.path.join(folder, name)) for name in service_files_in(folder)}
        for name, text in {**there, **services}.items():
            if text is not None:
                write(os.path.join(candidate, "services.d", name), text)
        config = os.path.join(candidate, "weft.toml")
        write(config, module.params["config"])
        code, out, err = module.run_command([module.params["binary"], "validate", "--config", config])
        if code != 0:
            said = (out + err).replace(candidate, module.params["directory"]).strip()
            module.fail_json(msg=f"weft validate refuses the files; nothing was changed:\n{said}", rc=code)
    finally:
        shutil.rmtree(candidate, ignore_errors=True)


def gid_of(module, group):
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        # In check mode the group may be one that would have been made by now.
        return -1 if module.check_mode else module.fail_json(msg=f"there is no group {group}")


def own(module, path, group, mode):
    """True if mode or owner of what is there had to change."""
    there, gid = os.stat(path), gid_of(module, group)
    if (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (0, gid, mode):
        return False
    if not module.check_mode:
        os.chown(path, 0, gid)
        os.chmod(path, mode)
    return True


def put_folder(module, path, group="root", mode=0o755):
    if os.path.isdir(path):
        return own(module, path, group, mode)
    if not module.check_mode:
        os.makedirs(path)
        own(module, path, group, mode)
    return True


def put_file(module, path, file):
    """True if something had to change."""
    if read(path) == file.text:
        return file.text is not None and own(module, path, file.group, file.mode)
    if module.check_mode:
        return True
    if file.text is None:
        os.unlink(path)
        return True
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    os.close(handle)
    write(temporary, file.text)
    own(module, temporary, file.group, file.mode)
    # Across file systems too, and never half-written where the agent may read it.
    module.atomic_move(temporary, path)
    own(module, path, file.group, file.mode)
    return True


def restart_keys(text):
    return next((line for line in (text or "").splitlines() if line.startswith(RESTART_KEYS)), None)


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/weft"},
            "binary": {"type": "path", "required": True},
            "config": {"type": "str", "required": True},
            "services": {"type": "dict", "default": {}},
            "purge": {"type": "bool", "default": False},
            "group": {"type": "str", "required": True},
            "units": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    directory, group = module.params["directory"], module.params["group"]
    folder = os.path.join(directory, "services.d")
    services = wanted_services(module, folder)
    validate(module, folder, services)

    folders = {directory: ("root", 0o755), folder: (group, 0o750)}
    for path in module.params["units"]:
        folders.setdefault(os.path.dirname(path), ("root", 0o755))
    files = {path: File(text) for path, text in module.params["units"].items()}
    for name, text in services.items():
        files[os.path.join(folder, name)] = File(text, group, 0o640)
    # weft.toml comes last, so that a run that is cut off leaves its change to be seen by the next.
    config = os.path.join(directory, "weft.toml")
    files[config] = File(module.params["config"], group, 0o640)

    before = {path: read(path) for path in files}
    changed = [path for path, (owner, mode) in folders.items() if put_folder(module, path, owner, mode)]
    changed += [path for path, file in files.items() if put_file(module, path, file)]
    diff = [
        {"before_header": path, "after_header": path, "before": before[path] or "", "after": file.text or ""}
        for path, file in files.items() if before[path] != file.text
    ]
    restart = restart_keys(before[config]) != restart_keys(files[config].text)
    module.exit_json(changed=bool(changed), changed_files=changed, restart=restart, diff=diff)


if __name__ == "__main__":
    main()
