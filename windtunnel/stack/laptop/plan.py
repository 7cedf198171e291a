"""Which commands make the cluster, in which order. Pure, but for reading the checkout's own files."""

from __future__ import annotations

import re

from windtunnel.errors import StackError
from windtunnel.stack.laptop import dags, demo
from windtunnel.stack.laptop.parts import NAMESPACE, Laptop, Step, read, tag

ENGINES = ("kind", "minikube")
#: The official Airflow chart that ``values-airflow-small.yaml`` is written for, and where it comes from.
AIRFLOW_CHART, AIRFLOW_REPOSITORY = "1.22.0", "https://airflow.apache.org"
#: Stages of a recipe that are built by name; else its last one.
_STAGES = {"trainer": "cpu"}
SECRETS = ("windtunnel", "windtunnel-airflow", "windtunnel-airflow-database")
#: Where to get what is not there.
TOOLS = {
    "kind": "https://kind.sigs.k8s.io, and Docker or Podman",
    "minikube": "https://minikube.sigs.k8s.io",
    "docker": "Docker with Buildx: https://docs.docker.com/engine/install",
    "kubectl": "https://kubernetes.io/docs/tasks/tools",
    "helm": "https://helm.sh/docs/intro/install (3.19 or newer)",
}


def tools(laptop: Laptop) -> list[str]:
    """Programs that have to be on the PATH."""
    return [
        laptop.engine,
        *(["docker"] if laptop.build or laptop.dags or laptop.engine == "kind" else []),
        "kubectl",
        "helm",
    ]


def create(laptop: Laptop) -> Step:
    """The cluster itself."""
    memory, cpus = (14, 6) if laptop.demo else (8, 4)
    argv = (
        ("kind", "create", "cluster", "--name", laptop.name, "--wait", "5m")
        if laptop.engine == "kind"
        else ("minikube", "start", "--profile", laptop.name, "--memory", f"{memory}g", "--cpus", str(cpus))
    )
    return Step("make the cluster", argv, mend=f"is the container engine running, with {memory} GiB of memory to give?")


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
        return dags.steps(laptop)
    steps, looked = [], set()
    for name, needed in laptop.images:
        recipe = read(laptop.checkout / "docker" / name / "Dockerfile")
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
        stage = ("--target", _STAGES[name]) if name in _STAGES else ()
        file = f"docker/{name}/Dockerfile"
        argv = ("docker", "build", "--file", file, *stage, *digests, "--tag", tag(laptop, name), ".")
        steps.append(Step(f"build the image {name}", argv, mend="docker/README.md says what it needs"))
    return [*steps, *dags.steps(laptop)]


def installation(laptop: Laptop) -> list[Step]:
    """What is done in the cluster; each can be repeated.

    Raises:
        StackError: the checkout is none.
    """
    kubectl, helm = laptop.kubectl, laptop.helm
    inside = ("--namespace", NAMESPACE)
    tags = [tag(laptop, name) for name, _ in laptop.images] + ([dags.image(laptop.dags)] if laptop.dags else [])
    values, airflow_values = (
        [word for name in names for word in ("--values", f"helm/windtunnel/{name}.yaml")]
        for names in (
            ("values-small", *(["values-demo"] if laptop.demo else [])),
            ("values-airflow-small", *(["values-airflow-demo"] if laptop.demo else [])),
        )
    )
    if laptop.engine == "kind":
        load = [Step("load the images", ("kind", "load", "docker-image", *tags, "--name", laptop.name))]
    else:
        load = [
            Step(f"load the image {one}", ("minikube", "image", "load", one, "--profile", laptop.name)) for one in tags
        ]
    servers = "release=airflow,component in (api-server,scheduler,dag-processor,triggerer)"
    slow = laptop.slow
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
            given="secrets",
            # The database keeps the password it was made with: secrets that are there stay.
            unless=(*kubectl, "get", "secret", *SECRETS, *inside),
            mend="where only some of them are there, start again with 'windtunnel cluster down'",
        ),
        *(demo.before(laptop) if laptop.demo else []),
        Step(
            "install the registry",
            (*helm, "upgrade", "--install", "windtunnel", "helm/windtunnel", *inside,
             *values, "--wait", "--timeout", "15m"),
            mend=slow,
        ),
        *([demo.public_keys(laptop)] if laptop.demo else []),
        Step(
            # Without --wait: its pods wait for a migration that Helm would start only once they are ready.
            "install Airflow",
            (*helm, "upgrade", "--install", "airflow", "airflow", "--repo", AIRFLOW_REPOSITORY,
             "--version", AIRFLOW_CHART, *inside, *airflow_values, *dags.values(laptop), "--timeout", "15m"),
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
        *([demo.people(laptop)] if laptop.demo else []),
    ]  # fmt: skip


def whole(laptop: Laptop) -> list[Step]:
    """All of ``up``, as ``--dry-run`` prints it."""
    return [*images(laptop), create(laptop), *installation(laptop)]


def check_checkout(laptop: Laptop) -> None:
    """Raises:
    StackError: it has not what is installed from it, or the folder of DAGs has none.
    """
    read(laptop.checkout / "helm" / "windtunnel" / "values-small.yaml")
    tag(laptop, "registry")
    if laptop.dags is not None:
        dags.check(laptop.dags)
