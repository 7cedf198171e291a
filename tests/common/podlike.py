"""A process as a pod's container has it, where this machine lets us: any user of group 0, no rights of root, and a file
system that can be written in the pod's volumes only. Elsewhere the process runs as it is."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: Nobody has this number, as on OpenShift.
USER = 1_234_567
_SCRIPT = """
set -e
mount --make-rprivate /
for one in $POD_VOLUMES; do mount --bind "$one" "$one"; done
mount -o remount,ro,bind /
for one in $(cut -d' ' -f2 /proc/mounts | grep -vE '^/(proc|sys|dev)(/|$)' | sort -u); do
  case " $POD_VOLUMES " in *" $one "*) ;; *) mount -o remount,ro,bind "$one" 2>/dev/null || true ;; esac
done
# Reading is let be: the interpreter may lie in a folder of root's, which no image has.
exec setpriv --reuid=$POD_USER --regid=0 --clear-groups --no-new-privs \\
  --bounding-set=-all,+dac_read_search --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"
"""


def command(argv: Sequence[str]) -> list[str]:
    """``argv`` in such a process. Its environment needs what ``volumes`` says."""
    return ["unshare", "-m", "sh", "-c", _SCRIPT, "pod", *argv] if possible() else list(argv)


def volumes(*folders: Path) -> dict[str, str]:
    """Gives the folders to group 0, as ``fsGroup`` does; the environment that lets them be written."""
    for folder in folders:
        if possible():
            os.chown(folder, 0, 0)
        folder.chmod(0o2770)
    return {"POD_VOLUMES": " ".join(map(str, folders)), "POD_USER": str(USER)}


@functools.cache
def possible() -> bool:
    """Whether this machine lets us: root, with the right to mount."""
    if os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    argv = ["unshare", "-m", "sh", "-c", _SCRIPT, "pod", "sh", "-c", "id -u; ! touch /podlike 2>/dev/null"]
    env = {"PATH": os.environ["PATH"], "POD_VOLUMES": "", "POD_USER": str(USER)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    return done.returncode == 0 and done.stdout.strip() == str(USER)
