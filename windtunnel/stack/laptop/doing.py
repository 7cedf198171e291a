"""The commands, one after the other. Each is printed before it runs; what a failure leaves is taken away again."""

from __future__ import annotations

import functools
import json
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from windtunnel.errors import StackError
from windtunnel.stack.laptop import inputs, plan
from windtunnel.stack.laptop.parts import GIVEN, NAMESPACE, Laptop, Step

#: Lines of a failed command that its error repeats.
_TAIL = 5


class Machine:
    """Runs programs of this machine.

    Args:
        say: takes each line that is to be seen.
        folder: that they run in.
    """

    def __init__(self, say: Callable[[str], None], folder: str) -> None:
        self.say, self._folder = say, folder

    def do(self, step: Step, kept: dict[str, str], given: Callable[[], str] | None = None) -> None:
        """Run a step; what it keeps goes into ``kept``.

        Args:
            given: makes its input, once it is known to be needed.

        Raises:
            StackError: it failed; the error names the step and ends with what it said last.
        """
        argv = filled(step.argv, kept)
        if step.unless is not None and self.ask(step.unless)[0] == 0:
            self.say(f"# {step.title}: done before")
            return
        text = None if given is None else given()
        self.say(f"$ {shlex.join(argv)}{f'  < {GIVEN[step.given]}' if step.given else ''}")
        last: deque[str] = deque(maxlen=_TAIL)
        out: list[str] = []
        with subprocess.Popen(
            argv,
            cwd=self._folder,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if step.keep is None else None,
            text=True,
            errors="replace",
        ) as process:
            if text is not None and process.stdin is not None:
                try:
                    process.stdin.write(text)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it has ended already, and says why
            assert process.stdout is not None
            for line in process.stdout:
                out.append(line)
                last.append(line.rstrip())
                if step.keep is None:
                    self.say(line.rstrip())
        if process.returncode:
            said = "\n  ".join(last)
            raise StackError(
                f"cannot {step.title}: '{argv[0]}' ended with {process.returncode}{': ' if said else ''}{said}",
                hint=step.mend,
            )
        if step.keep is not None:
            value = "".join(out).strip()
            if not value:
                raise StackError(f"cannot {step.title}: '{argv[0]}' said nothing", hint=step.mend)
            kept[step.keep] = value

    def ask(self, argv: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of a command that changes nothing."""
        done = subprocess.run(
            argv, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout


def filled(argv: Sequence[str], kept: Mapping[str, str]) -> list[str]:
    """With what earlier steps have kept in the places of ``{NAME}``; other braces are left alone."""
    found = list(argv)
    for name, value in kept.items():
        found = [word.replace(f"{{{name}}}", value) for word in found]
    return found


def check_tools(laptop: Laptop) -> None:
    """Raises:
    StackError: a program is missing; it says which, and where to get it.
    """
    missing = [name for name in plan.tools(laptop) if shutil.which(name) is None]
    if missing:
        where = "; ".join(f"{name}: {plan.TOOLS[name]}" for name in missing)
        raise StackError(f"not found on the PATH: {', '.join(missing)}", hint=f"install {where}")


def exists(laptop: Laptop, machine: Machine) -> bool:
    """Whether the engine has a cluster of that name."""
    code, out = machine.ask(plan.listing(laptop))
    if code:
        return False  # minikube says so of none at all
    if laptop.engine == "kind":
        return laptop.name in out.split()
    try:
        found = json.loads(out)
    except ValueError:
        return False
    return any(one.get("Name") == laptop.name for kind in ("valid", "invalid") for one in found.get(kind) or [])


def up(laptop: Laptop, machine: Machine) -> bool:
    """Make the cluster and install everything; what is there already is brought up to date.

    Returns:
        Whether the cluster was made now.

    Raises:
        StackError: a step failed. A cluster that was made by this call is deleted again; one that was there stays.
    """
    check_tools(laptop)
    plan.check_checkout(laptop)
    kept: dict[str, str] = {}
    for step in plan.images(laptop):
        machine.do(step, kept, _input(step, laptop, machine))
    made = not exists(laptop, machine)
    try:
        if made:
            machine.do(plan.create(laptop), kept)
        for step in plan.installation(laptop):
            machine.do(step, kept, _input(step, laptop, machine))
    except BaseException:
        if made:
            _undo(laptop, machine)
        raise
    return made


def _input(step: Step, laptop: Laptop, machine: Machine) -> Callable[[], str] | None:
    return functools.partial(inputs.of, step, laptop, machine.ask) if step.given else None


def _undo(laptop: Laptop, machine: Machine) -> None:
    try:
        machine.do(plan.delete(laptop), {})
    except StackError as error:  # what went wrong first is what shall be told
        machine.say(f"# {error.message}: delete it yourself")


def down(laptop: Laptop, machine: Machine) -> bool:
    """Delete the cluster.

    Returns:
        Whether there was one.

    Raises:
        StackError: the engine is not there, or could not.
    """
    if shutil.which(laptop.engine) is None:
        raise StackError(f"not found on the PATH: {laptop.engine}", hint=f"install {plan.TOOLS[laptop.engine]}")
    if not exists(laptop, machine):
        return False
    machine.do(plan.delete(laptop), {})
    return True


def status(laptop: Laptop, machine: Machine) -> list[dict[str, Any]] | None:
    """Its pods: ``name``, ``ready``, ``says``; None where there is no such cluster.

    Raises:
        StackError: it does not answer, or a program is missing.
    """
    check_tools(Laptop(laptop.engine, laptop.name, laptop.checkout, build=False))
    if not exists(laptop, machine):
        return None
    argv = ("kubectl", "--context", laptop.context, "get", "pods", "--namespace", NAMESPACE, "--output", "json")
    code, out = machine.ask(argv)
    if code:
        raise StackError(f"the cluster {laptop.name} does not answer", hint=f"try {shlex.join(argv)}")
    return [_pod(one) for one in json.loads(out).get("items") or []]


def _pod(one: Mapping[str, Any]) -> dict[str, Any]:
    found = one.get("status") or {}
    phase = str(found.get("phase"))
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in found.get("conditions") or [])
    waits = [
        str(state["waiting"].get("reason"))
        for container in [*(found.get("initContainerStatuses") or []), *(found.get("containerStatuses") or [])]
        if (state := container.get("state") or {}).get("waiting")
    ]
    return {
        "name": str(one["metadata"]["name"]),
        "ready": ready or phase == "Succeeded",
        "says": ", ".join(dict.fromkeys(waits)) or phase,
    }
