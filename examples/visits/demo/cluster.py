"""``windtunnel cluster demo``: the life of ``visits`` on a cluster, read back from Airflow, the registry and Seldon.

Three chapters of the demo's four: a first version, a better one, a harmful one that its gate takes back. The fourth,
drift and retraining, needs labels, which nobody hands in there.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

from windtunnel.errors import StackError, WindtunnelError
from windtunnel.registry.client import RegistryClient
from windtunnel.serving.seldon import manifest, record
from windtunnel.stack.laptop import Laptop, Machine, inputs, objects
from windtunnel.stack.laptop.forward import Forward
from windtunnel.stack.laptop.parts import NAMESPACE
from windtunnel_examples.visits.careless import HARMS
from windtunnel_examples.visits.demo.airflow_api import AirflowApi
from windtunnel_examples.visits.demo.show import Telling, final_tables, machine
from windtunnel_examples.visits.demo.story import FIRST_RECIPE, MODEL, RELEASE, TRAIN, NotProven, Story, require

CHAPTERS = 3
_PASSWORDS = "/opt/airflow/simple_auth_manager_passwords.json.generated"


def main(laptop: Laptop, using: Machine, *, harm: str = "errors", json_output: bool = False) -> int:
    """Fly; the exit code is 0 only if every step was read back as true.

    Args:
        using: runs ``kubectl``.
        harm: ``errors``, ``slow``, ``wrong`` or ``crash``: how the harmful version hurts.
        json_output: print what happened as JSON on stdout.
    """
    if harm not in HARMS:
        raise StackError(f"unknown harm {harm!r}", hint=f"expected one of {', '.join(HARMS)}")
    tell, began = Telling(), time.monotonic()
    told: dict[str, Any] = {"ok": False, "steps": [], "versions": [], "time": {}, "urls": {}, "log_ins": []}
    story: ClusterStory | None = None
    with ExitStack() as open_:
        try:
            tell.chapter("Airflow and the registry of the cluster answer")
            airflow = open_.enter_context(Forward(laptop, "airflow-api-server", 8080))
            registry = open_.enter_context(Forward(laptop, "windtunnel-registry", 5000))
            api = AirflowApi(airflow.url, "admin", airflow_password(laptop, using))
            open_.callback(api.close)
            client = open_.enter_context(
                RegistryClient(registry.url, "service", inputs.password(laptop, using.ask), timeout=30)
            )
            story = ClusterStory(api, ClusterFacts(laptop, using, client), tell, harm)
            for dag_id in (TRAIN, RELEASE):
                api.wait_for_dag(dag_id, 300)
                api.unpause(dag_id)
            story.fly()
        except KeyboardInterrupt:
            told["error"] = "interrupted"
            tell.say("interrupted; the cluster goes on, and so does what was begun in it", "✗")
        except WindtunnelError as error:
            told["error"] = str(error)
            tell.say(str(error), "✗")
        finally:
            tell.quiet()
        if story is not None and story.steps:
            try:
                told |= story.told()
            except WindtunnelError as error:
                tell.say(f"what happened cannot be told whole: {error}", "✗")
    told["seconds"] = round(time.monotonic() - began, 1)
    if told["versions"]:
        final_tables(told, tell.console)
    if json_output:
        machine(told)
    if told["ok"]:
        tell.say(f"every step proven in {told['seconds'] / 60:.1f} minutes", "✓")
        return 0
    return 130 if told.get("error") == "interrupted" else 1


def airflow_password(laptop: Laptop, using: Machine) -> str:
    """Of ``admin``, as Airflow's simple log-in made it at its first start.

    Raises:
        StackError: the pod does not tell.
    """
    argv = reading_password(laptop)
    code, out = using.ask(argv)
    try:
        if code == 0:
            return str(json.loads(out)["admin"])
    except (ValueError, KeyError, TypeError):
        pass
    raise StackError("Airflow's API server does not tell the password of admin", hint=f"try {' '.join(argv)}")


def reading_password(laptop: Laptop) -> tuple[str, ...]:
    """The command that prints Airflow's own passwords."""
    return (*laptop.kubectl, "exec", "--namespace", NAMESPACE, "deployment/airflow-api-server", "--", "cat", _PASSWORDS)


class ClusterFacts:
    """What really happened, by each system's own interface.

    Args:
        registry: of the cluster.
    """

    def __init__(self, laptop: Laptop, using: Machine, registry: RegistryClient) -> None:
        self._laptop, self._using, self.registry = laptop, using, registry

    def champion(self) -> Any:
        """The registry's; None without one."""
        return self.registry.champion(MODEL)

    def ever_champion(self) -> list[str]:
        """Every version that was champion at some time."""
        return [row.version for row in self.registry.champion_history(MODEL)]

    def live(self) -> dict[str, Any]:
        """The model's SeldonDeployment.

        Raises:
            StackError: there is none, or the cluster does not answer.
        """
        argv = (*self._laptop.kubectl, "get", "seldondeployment", MODEL, "--namespace", NAMESPACE, "--output", "json")
        code, out = self._using.ask(argv)
        if code:
            raise StackError(f"the SeldonDeployment {MODEL} cannot be read", hint=f"try {' '.join(argv)}")
        return dict(json.loads(out))

    def weights(self) -> dict[str, int]:
        """Percent of the traffic by version, as Seldon is told."""
        return dict(manifest.weights(self.live()))

    def said(self) -> str:
        """What the last look decided, and why."""
        return str(self.live()["metadata"].get("annotations", {}).get(record.SAID, ""))

    def answers(self) -> dict[str, int]:
        """How many answers the callers had by version; under the empty name those that name none.

        Raises:
            StackError: the callers say nothing.
        """
        where = ("--namespace", NAMESPACE, f"deployment/{objects.CALLERS}", "--tail", "1")
        code, out = self._using.ask((*self._laptop.kubectl, "logs", *where))
        try:
            found = json.loads(out.strip().splitlines()[-1])["by_version"] if code == 0 else None
            return {version: sum(codes.values()) for version, codes in found.items()}
        except (ValueError, LookupError, AttributeError, TypeError):
            raise StackError("the callers say nothing", hint=f"look at deployment/{objects.CALLERS}") from None


class ClusterStory(Story):
    """The chapters, as a cluster proves them."""

    facts: Any
    #: Pods are made, images unpacked, all on one laptop.
    run_limit_s = 3000.0

    def __init__(self, api: AirflowApi, facts: Any, tell: Telling, harm: str) -> None:
        super().__init__(api, facts, tell, harm)

    def fly(self) -> None:
        """The three chapters in order.

        Raises:
            NotProven: one is not as told, or an earlier demo has flown here.
        """
        there = self.facts.registry.versions(MODEL)
        if there:
            raise NotProven(
                f"{MODEL} has {len(there)} versions in this cluster already: the story begins with none",
                hint="begin again with 'windtunnel cluster down' and 'windtunnel cluster demo --no-build'",
            )
        self.first_version()
        self.better_recipe()
        self.harmful_version()

    def first_version(self) -> None:
        with self._chapter("A first version is trained in a pod and released on Seldon") as step:
            run = self._release_of(self._train("first", "first recipe", {"params": FIRST_RECIPE}))
            require(run.state == "success", f"{RELEASE} ended success", step)
            new = self._champion()
            self._serves_all(new, step)

    def better_recipe(self) -> None:
        with self._chapter("A better recipe goes 5, 25, 50, 75, 100 % and becomes champion") as step:
            old = self._champion()
            run = self._release_of(self._train("better", "better recipe", {}))
            require(run.state == "success", f"{RELEASE} ended success", step)
            done = {t["task_id"] for t in self.api.tasks(RELEASE, run.run_id) if t["state"] == "success"}
            gates = sorted(t for t in done if t.endswith(".gate") and t.startswith("step_"))
            require(len(gates) == 4, f"Airflow shows four gates passed: {', '.join(gates)}", step)
            new = self._champion()
            require(new.version != old.version, f"the registry's champion is {new.semver}, no more {old.semver}", step)
            self._serves_all(new, step)

    def harmful_version(self) -> None:
        with self._chapter(f"A harmful version ({self.harm}) passes offline, and its gate stops it") as step:
            good = self._champion()
            train = self._train("harmful", f"careless recipe ({self.harm})", {"params": {"remember_peers": self.harm}})
            version = self._version_of(train)
            run = self._release_of(train)
            require(run.state == "failed", f"{RELEASE} ended failed", step)
            states = {t["task_id"]: t["state"] for t in self.api.tasks(RELEASE, run.run_id)}
            stopped = [task for task, state in states.items() if task.endswith(".gate") and state == "failed"]
            require(bool(stopped), f"Airflow shows the gate that stopped it: {', '.join(stopped)}", step)
            require(states.get("rollback") == "success", "Airflow shows task rollback succeeded", step)
            found = self.facts.registry.version(MODEL, version)
            require(found.state == "rolled_back", f"the registry has {found.semver} as rolled_back", step)
            evaluated = self._outcome(version, "evaluation")
            require(evaluated == "PASS", f"its offline evaluation was {evaluated}", step)
            require(self._champion().version == good.version, f"{good.semver} is still champion", step)
            require(version not in self.facts.ever_champion(), f"{found.semver} was never champion", step)
            require(not self.facts.weights().get(version), "Seldon sends it nothing any more", step)
            require("roll_back" in self.facts.said(), f"its last look said: {self.facts.said()}", step)
            self._serves_all(good, step)

    def _serves_all(self, version: Any, step: Any) -> None:
        """Seldon is told so, and the callers see it."""
        share = self.facts.weights().get(version.version)
        require(share == 100, f"Seldon gives {version.semver} {share} % of the requests", step)
        before = self.facts.answers().get(version.version, 0)
        now = self._wait(
            f"answers of {version.semver}", lambda: max(self.facts.answers().get(version.version, 0) - before, 0)
        )
        require(now > 0, f"{version.semver} goes on answering the callers ({now} answers meanwhile)", step)

    def _flow(self, told: Any) -> None:
        """The callers of a cluster ask at one rate."""

    def told(self) -> dict[str, Any]:
        """Everything, for the tables and for machines."""
        answers = self.facts.answers()
        versions = [
            {
                "version": one.version,
                "semver": one.semver,
                "recipe": self.recipes.get(one.version, ""),
                "state": one.state,
                "digest": one.digest,
                "evaluation": self._outcome(one.version, "evaluation"),
                "rollout": self._outcome(one.version, "rollout"),
                "answers": answers.get(one.version, 0),
            }
            for one in sorted(self.facts.registry.versions(MODEL), key=lambda found: int(found.version))
        ]
        return {
            "ok": len(self.steps) == CHAPTERS and all(step.ok for step in self.steps),
            "harm": self.harm,
            "steps": [vars(step) for step in self.steps],
            "versions": versions,
            "harmful": None,
            "time": self.time,
        }
