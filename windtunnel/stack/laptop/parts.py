"""What is asked for, one command, and where the checkout's own files are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import StackError

NAMESPACE = "windtunnel"
#: Images of the ``small`` preset: name, and the arguments whose digests it is built from.
IMAGES = (("registry", ("PYTHON",)), ("airflow", ("PYTHON", "AIRFLOW")))
#: And those that the demo adds.
DEMO_IMAGES = (("trainer", ("PYTHON",)), ("model-server", ("PYTHON",)), ("collector", ("PYTHON",)))
#: What is the input of which commands: key of ``Step.given``, and what the printed command says of it.
GIVEN = {
    "dag recipe": "a recipe of three lines",
    "secrets": "secrets made now",
    "demo secrets": "secrets made now",
    "demo objects": "manifests of the demo",
    "gateway": "a Gateway",
    "keys": "the registry's public keys",
    "callers": "a Deployment",
}


@dataclass(frozen=True, slots=True)
class Laptop:
    """What is asked for.

    Attributes:
        engine: ``kind`` or ``minikube``.
        name: of the cluster.
        checkout: folder with ``helm/`` and ``docker/`` of Windtunnel.
        build: whether images are built; else they are taken as the container engine has them.
        demo: whether what the demo flies with is installed, too.
        dags: folder with a person's own DAG files; None: none.
    """

    engine: str
    name: str
    checkout: Path
    build: bool = True
    demo: bool = False
    dags: Path | None = None

    @property
    def images(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Name of each image, and the arguments whose digests it is built from."""
        return IMAGES + DEMO_IMAGES if self.demo else IMAGES

    @property
    def context(self) -> str:
        """Of the kubeconfig; every command names it, so that no other cluster is ever touched."""
        return f"kind-{self.name}" if self.engine == "kind" else self.name

    @property
    def kubectl(self) -> tuple[str, ...]:
        """How each command of it begins."""
        return ("kubectl", "--context", self.context)

    @property
    def helm(self) -> tuple[str, ...]:
        """How each command of it begins."""
        return ("helm", "--kube-context", self.context)

    @property
    def slow(self) -> str:
        """What to do where something does not become ready."""
        return f"{' '.join(self.kubectl)} --namespace {NAMESPACE} get pods,events says what it waits for"


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        title: what it does, as messages name it.
        argv: the command; ``{NAME}`` stands for what an earlier step has kept.
        keep: name under which what it prints is kept.
        given: what its input is, a key of ``GIVEN``.
        unless: a command after whose success this one is not needed.
        mend: what to do when it fails.
    """

    title: str
    argv: tuple[str, ...]
    keep: str | None = None
    given: str | None = None
    unless: tuple[str, ...] | None = None
    mend: str = "see what it printed above"


def tag(laptop: Laptop, name: str) -> str:
    """Of an image, as the chart's presets name it."""
    chart = read(laptop.checkout / "helm" / "windtunnel" / "Chart.yaml")
    found = re.search(r'^appVersion: "?([^"\s]+)"?$', chart, re.M)
    if found is None:
        raise StackError("helm/windtunnel/Chart.yaml says no appVersion", hint="is the checkout whole?")
    return f"windtunnel/{name}:{found[1]}"


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"{path} cannot be read: {error.strerror}",
            hint="run it in a checkout of Windtunnel, or name one (--checkout): chart and images are made from it",
        ) from error
