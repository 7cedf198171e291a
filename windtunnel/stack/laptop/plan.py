"""Which commands make the cluster, in which order. Pure, but for reading the checkout's own files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from windtunnel.errors import StackError

ENGINES = ("kind", "minikube")
NAMESPACE = "windtunnel"
#: The official Airflow chart that ``values-airflow-small.yaml`` is written for, and where it comes from.
AIRFLOW_CHART, AIRFLOW_REPOSITORY = "1.22.0", "https://airflow.apache.org"
#: Images of the ``small`` preset: name, and the arguments whose digests it is built from.
IMAGES = (("registry", ("PYTHON",)), ("airflow", ("PYTHON", "AIRFLOW")))
SECRETS = ("windtunnel", "windtunnel-airflow", "windtunnel-airflow-database")
#: Where to get what is not there.
TOOLS = {
    "kind": "https://kind.sigs.k8s.io, and Docker or Podman",
    "minikube": "https://minikube.sigs.k8s.io",
    "docker": "Docker with Buildx: https://docs.docker.com/engine/install",
    "kubectl": "https://kubernetes.io/docs/tasks/tools",
    "helm": "https://helm.sh/docs/intro/install (3.19 or newer)",
}


@dataclass(frozen=True, slots=True)
class Laptop:
    """What is asked for.

    Attributes:
        engine: ``kind`` or ``minikube``.
        name: of the cluster.
        checkout: folder with ``helm/`` and ``docker/`` of Windtunnel.
        build: whether images are built; else they are taken as the container engine has them.
    """

    engine: str
    name: str
    checkout: Path
    build: bool = True

    @property
    def context(self) -> str:
        """Of the kubeconfig; every command names it, so that no other cluster is ever touched."""
        return f"kind-{self.name}" if self.engine == "kind" else self.name


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        title: what it does, as messages name it.
        argv: the command; ``{NAME}`` stands for what an earlier step has kept.
        keep: name under which what it prints is kept.
        secrets: whether the secrets' manifests are its input.
        unless: a command after whose success this one is not needed.
        mend: what to do when it fails.
    """

    title: str
    argv: tuple[str, ...]
    keep: str | None = None
    secrets: bool = False
    unless: tuple[str, ...] | None = None
    mend: str = "see what it printed above"


def tools(laptop: Laptop) -> list[str]:
    """Programs that have to be on the PATH."""
    return [laptop.engine, *(["docker"] if laptop.build or laptop.engine == "kind" else []), "kubectl", "helm"]


def create(laptop: Laptop) -> Step:
    """The cluster itself."""
    argv = (
        ("kind", "create", "cluster", "--name", laptop.name, "--wait", "5m")
        if laptop.engine == "kind"
        else ("minikube", "start", "--profile", laptop.name, "--memory", "8g", "--cpus", "4")
    )
    return Step("make the cluster", argv, mend="is the container engine running, with 8 GiB of memory to give?")


def delete(laptop: Laptop) -> Step:
    """The cluster with everything in it."""
    argv = (
        ("kind", "delete", "cluster", "--name", laptop.name)
        if laptop.engine == "kind"
        else ("minikube", "delete", "--profile", laptop.name)
    )
    return Step("delete the cluster", argv)


def listing(laptop: Laptop) -> tuple[str, ...]:
    """The command that names the engine's clusters."""
    return (
        ("kind", "get", "clusters") if laptop.engine == "kind" else ("minikube", "profile", "list", "--output", "json")
    )


def images(laptop: Laptop) -> list[Step]:
    """What is done before there is a cluster: images need none, and fail most often.

    Raises:
        StackError: the checkout is none.
    """
    if not laptop.build:
        return []
    steps, looked = [], set()
    for name, needed in IMAGES:
        recipe = _read(laptop.checkout / "docker" / name / "Dockerfile")
        digests = []
        for base in needed:
            found = re.search(rf"^ARG {base}_IMAGE=(\S+)", recipe, re.M)
            if found is None:
                raise StackError(f"docker/{name}/Dockerfile names no {base}_IMAGE", hint="is the checkout whole?")
            digests += ["--build-arg", f"{base}_DIGEST={{{base}}}"]
            if base not in looked:
                looked.add(base)
                argv: tuple[str, ...] = (
                    "docker",
                    "buildx",
                    "imagetools",
                    "inspect",
                    found[1],
                    "--format",
                    "{{.Manifest.Digest}}",
                )
                steps.append(
                    Step(
                        f"look up the digest of {found[1]}",
                        argv,
                        keep=base,
                        mend="can this machine reach the registry?",
                    )
                )
        argv = ("docker", "build", "--file", f"docker/{name}/Dockerfile", *digests, "--tag", _tag(laptop, name), ".")
        steps.append(Step(f"build the image {name}", argv, mend="docker/README.md says what it needs"))
    return steps


def installation(laptop: Laptop) -> list[Step]:
    """What is done in the cluster; each can be repeated.

    Raises:
        StackError: the checkout is none.
    """
    kubectl = ("kubectl", "--context", laptop.context)
    helm = ("helm", "--kube-context", laptop.context)
    inside = ("--namespace", NAMESPACE)
    tags = [_tag(laptop, name) for name, _ in IMAGES]
    if laptop.engine == "kind":
        load = [Step("load the images", ("kind", "load", "docker-image", *tags, "--name", laptop.name))]
    else:
        load = [
            Step(f"load the image {tag}", ("minikube", "image", "load", tag, "--profile", laptop.name)) for tag in tags
        ]
    servers = "release=airflow,component in (api-server,scheduler,dag-processor,triggerer)"
    slow = f"kubectl --context {laptop.context} {' '.join(inside)} get pods,events says what it waits for"
    return [
        *load,
        Step(
            "make the namespace",
            (*kubectl, "create", "namespace", NAMESPACE),
            unless=(*kubectl, "get", "namespace", NAMESPACE),
        ),
        Step(
            "make the secrets",
            (*kubectl, "create", *inside, "--filename", "-"),
            secrets=True,
            # The database keeps the password it was made with: secrets that are there stay.
            unless=(*kubectl, "get", "secret", *SECRETS, *inside),
            mend="where only some of them are there, start again with 'windtunnel cluster down'",
        ),
        Step(
            "install the registry",
            (*helm, "upgrade", "--install", "windtunnel", "helm/windtunnel", *inside,
             "--values", "helm/windtunnel/values-small.yaml", "--wait", "--timeout", "15m"),
            mend=slow,
        ),
        Step(
            # Without --wait: its pods wait for a migration that Helm would start only once they are ready.
            "install Airflow",
            (*helm, "upgrade", "--install", "airflow", "airflow", "--repo", AIRFLOW_REPOSITORY,
             "--version", AIRFLOW_CHART, *inside, "--values", "helm/windtunnel/values-airflow-small.yaml",
             "--timeout", "15m"),
            mend=slow,
        ),
        Step(
            "wait for Airflow",
            (*kubectl, "wait", "--for=condition=Ready", "pod", *inside, "--selector", servers, "--timeout=15m"),
            mend=slow,
        ),
        Step(
            "check the registry: log in, write, read the audit",
            (*helm, "test", "windtunnel", *inside, "--logs"),
            mend="its log is above",
        ),
    ]  # fmt: skip


def whole(laptop: Laptop) -> list[Step]:
    """All of ``up``, as ``--dry-run`` prints it."""
    return [*images(laptop), create(laptop), *installation(laptop)]


def check_checkout(laptop: Laptop) -> None:
    """Raises:
    StackError: it has not what is installed from it.
    """
    _read(laptop.checkout / "helm" / "windtunnel" / "values-small.yaml")
    _tag(laptop, "registry")


def _tag(laptop: Laptop, name: str) -> str:
    chart = _read(laptop.checkout / "helm" / "windtunnel" / "Chart.yaml")
    found = re.search(r'^appVersion: "?([^"\s]+)"?$', chart, re.M)
    if found is None:
        raise StackError("helm/windtunnel/Chart.yaml says no appVersion", hint="is the checkout whole?")
    return f"windtunnel/{name}:{found[1]}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"{path} cannot be read: {error.strerror}",
            hint="run it in a checkout of Windtunnel, or name one (--checkout): chart and images are made from it",
        ) from error
