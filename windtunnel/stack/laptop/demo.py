"""What the demo's flight needs, as commands: an object store, Istio, Seldon Core, Prometheus, callers. Pure.

Seldon Core 1, not Core 2: it is what ``target: kubernetes`` uses unless told, it is one operator and Istio's three
small parts, and each version is one pod; Core 2 is an operator, a scheduler, a gateway, two more processes that want
Kafka, and a claim, an agent and a copier beside each model server.
"""

from __future__ import annotations

from windtunnel.stack.laptop import objects
from windtunnel.stack.laptop.parts import NAMESPACE, Laptop, Step, read, tag

SELDON_CHART, SELDON_REPOSITORY = "1.18.2", "https://storage.googleapis.com/seldon-charts"
ISTIO_CHART, ISTIO_REPOSITORY = "1.30.0", "https://istio-release.storage.googleapis.com/charts"
#: What a person is told before it is installed.
LICENCE = (
    f"Seldon Core {SELDON_CHART} is not open source: its Business Source License 1.1 allows use that is not production "
    "(trying it out is such use), and production use only to non-profit educational institutions, until it becomes "
    "Apache-2.0 four years after its release. It is fetched from its maker, Seldon Technologies, and is no part of "
    "Windtunnel. See https://github.com/SeldonIO/seldon-core/blob/v1.18.2-release/LICENSE."
)
#: Requests a second of the callers.
RATE = 20.0
MODEL = "visits"
SECRETS = (objects.SECRET, "windtunnel-registry", "windtunnel-collector")
_DAG_FILE = "examples/visits/cluster_dags.py"
_ONLINE = "can this machine reach the chart's place?"


def before(laptop: Laptop) -> list[Step]:
    """What is there before the charts of the registry and of Airflow."""
    kubectl, helm, inside = laptop.kubectl, laptop.helm, ("--namespace", NAMESPACE)
    istio = ("--namespace", "istio-system", "--create-namespace", "--wait", "--timeout", "10m")

    def chart(release: str, name: str, repository: str, version: str, *more: str) -> tuple[str, ...]:
        return (*helm, "upgrade", "--install", release, name, "--repo", repository, "--version", version, *more)

    return [
        Step(
            "make the demo's secrets",
            (*kubectl, "create", *inside, "--filename", "-"),
            given="demo secrets",
            # The object store keeps the keys it was made with.
            unless=(*kubectl, "get", "secret", *SECRETS, *inside),
            mend="where only some of them are there, start again with 'windtunnel cluster down'",
        ),
        Step("make the object store and Prometheus", applying(laptop, NAMESPACE), given="demo objects"),
        Step(
            "wait for the bucket",
            (*kubectl, "wait", "--for=condition=Complete", f"job/{objects.BUCKET_JOB}", *inside, "--timeout=10m"),
            mend=laptop.slow,
        ),
        Step(
            "wait for Prometheus",
            (*kubectl, "rollout", "status", f"deployment/{objects.PROMETHEUS}", *inside, "--timeout=10m"),
            mend=laptop.slow,
        ),
        Step(
            "install Istio's definitions",
            chart("istio-base", "base", ISTIO_REPOSITORY, ISTIO_CHART, *istio),
            mend=_ONLINE,
        ),
        Step(
            "install Istio",
            chart(
                "istiod", "istiod", ISTIO_REPOSITORY, ISTIO_CHART, *istio,
                "--set", "autoscaleEnabled=false",
                "--set", "resources.requests.cpu=50m", "--set", "resources.requests.memory=192Mi",
            ),
            mend=_ONLINE,
        ),
        Step(
            "install Istio's gateway",
            chart(
                "istio-ingressgateway", "gateway", ISTIO_REPOSITORY, ISTIO_CHART, *istio,
                "--set", "service.type=ClusterIP", "--set", "autoscaling.enabled=false",
                "--set", "resources.requests.cpu=50m", "--set", "resources.requests.memory=64Mi",
            ),
            mend=_ONLINE,
        ),
        Step("open Istio's gateway", applying(laptop, "istio-system"), given="gateway"),
        Step(
            "install Seldon Core",
            chart(
                "seldon-core", "seldon-core-operator", SELDON_REPOSITORY, SELDON_CHART,
                "--namespace", "seldon-system", "--create-namespace", "--wait", "--timeout", "10m",
                "--set", "istio.enabled=true", "--set", "istio.gateway=istio-system/seldon-gateway",
                "--set", "usageMetrics.enabled=false",
                "--set", "executor.resources.cpuRequest=50m", "--set", "executor.resources.memoryRequest=64Mi",
            ),
            mend=_ONLINE,
        ),
    ]  # fmt: skip


def public_keys(laptop: Laptop) -> Step:
    """Model servers serve only what is signed by these."""
    title = "give the registry's public keys to model servers"
    return Step(title, applying(laptop, NAMESPACE), given="keys", mend=laptop.slow)


def people(laptop: Laptop) -> Step:
    """Somebody has to ask, or no gate has anything to compare."""
    return Step("start the callers", applying(laptop, NAMESPACE), given="callers")


def applying(laptop: Laptop, namespace: str) -> tuple[str, ...]:
    """The command that brings manifests to be, as often as it runs."""
    how = ("--server-side", "--force-conflicts", "--field-manager", "windtunnel-cluster")
    return (*laptop.kubectl, "apply", *how, "--namespace", namespace, "--filename", "-")


def reading_password(laptop: Laptop) -> tuple[str, ...]:
    """Prints the secret ``windtunnel`` as JSON; what it prints is never shown."""
    return (*laptop.kubectl, "get", "secret", "windtunnel", "--namespace", NAMESPACE, "--output", "json")


def reading_keys(laptop: Laptop) -> tuple[str, ...]:
    """Prints the registry's public keys as one JSON object, file name to text."""
    code = (
        "import json, os, pathlib; "
        "folder = pathlib.Path(os.environ['WINDTUNNEL_HOME'], 'keys'); "
        "print(json.dumps({one.name: one.read_text() for one in sorted(folder.iterdir()) if one.is_file()}))"
    )
    where = ("--namespace", NAMESPACE, "deployment/windtunnel-registry")
    return (*laptop.kubectl, "exec", *where, "--", "python", "-c", code)


def inference_url() -> str:
    """Where the callers ask, inside the cluster."""
    gateway = f"http://istio-ingressgateway.istio-system.svc/seldon/{NAMESPACE}/{MODEL}"
    return f"{gateway}/v2/models/{MODEL}/infer"


def dag_file(laptop: Laptop) -> str:
    """The text of the DAG file.

    Raises:
        StackError: the checkout has none.
    """
    return read(laptop.checkout / _DAG_FILE)


def airflow_image(laptop: Laptop) -> str:
    """What the demo's own containers run."""
    return tag(laptop, "airflow")
