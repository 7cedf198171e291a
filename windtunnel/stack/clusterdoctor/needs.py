"""What models need of a cluster, by their descriptions: extensions, runtimes, and the pods that they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.kube.client import Client
from windtunnel.spec import Model, Pod, Resources, Serving
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon

PAGE = "docs/how-to/train-on-several-nodes.md"


def extensions_of(models: Sequence[Model], parts: Sequence[str], seldon: Seldon | None = None) -> dict[str, list[str]]:
    """Names of extensions (``windtunnel.kube.extensions``) -> the models that cannot do without, with the key.

    Args:
        parts: that are looked at; others' needs are not asked for.
    """
    out: dict[str, list[str]] = {}
    for model in models:
        for name, key in (*_of_training(model, parts), *_of_release(model, parts, seldon)):
            out.setdefault(name, []).append(f"{model.name} ({key})")
    return out


def _of_training(model: Model, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "training" not in parts:
        return
    training = model.training
    pod = training.pod if model.training_target == "kubernetes" else None
    if pod is not None and training.nodes > 1:
        yield "JobSet", "training.nodes"
        if pod.trainjob is not None:
            yield "Kubeflow Trainer", "training.pod.trainjob"
    queues = {f"steps.{step.name}.pod.queue": step.pod for step in model.steps if step.target == "kubernetes"}
    for key, of in {"training.pod.queue": pod, **queues}.items():
        if of is not None and of.queue is not None:
            yield "Kueue", key


def _of_release(model: Model, parts: Sequence[str], seldon: Seldon | None) -> Iterator[tuple[str, str]]:
    if "releases" in parts and model.target == "kubernetes" and model.serving.maximum is not None:
        yield "KEDA" if seldon is not None and seldon.autoscaler == "keda" else "metrics server", "serving.maximum"


def runtimes(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """The runtimes of Kubeflow Trainer that models name: there, and such that a training can be made by them."""
    from windtunnel.tracking.pods import trainjob

    if "training" not in cluster.parts:
        return
    seen: set[tuple[str, str]] = set()
    for model in cluster.models:
        pod = model.training.pod
        if pod is None or pod.trainjob is None or model.training.nodes == 1 or model.training_target != "kubernetes":
            continue
        by, kind = pod.trainjob, trainjob.runtime_kind(pod.trainjob)
        if (kind.name, by.runtime) in seen:
            continue
        seen.add((kind.name, by.runtime))
        name, found = f"runtime {by.runtime}", client.get(kind, by.runtime)
        if found is None:
            yield Finding(
                name, "fail", f"there is no {kind.name} {by.runtime}; {model.name} trains by it", f"see {PAGE}"
            )
            continue
        look = trainjob.look(
            found, trainjob.train_job(_spec(model), _pictured(pod), _place(client), model.training.nodes)
        )
        if look.refused:
            yield Finding(name, "fail", "; ".join(look.refused), f"set these in the runtime, or take that of {PAGE}")
        elif look.told:
            yield Finding(name, "warn", "; ".join(look.told), f"set these in the runtime, or take that of {PAGE}")
        else:
            yield Finding(name, "ok", f"{kind.name}; {model.name} can be trained by it")


def releases(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """What the first task of each model's release would refuse by these settings, and what nobody can see there."""
    from windtunnel.serving.seldon import limits

    served = [model for model in cluster.models if model.target == "kubernetes"]
    if not served or not {"releases", "releases-core2"} & {*cluster.parts}:
        return
    if cluster.seldon is None:
        names = ", ".join(model.name for model in served)
        yield Finding("releases", "warn", f"not looked at: {names}", "name the settings of Seldon: --seldon FILE")
        return
    for model in served:
        yield judge_release(model, limits.refusals(model, cluster.seldon, first=True), cluster.seldon)


def judge_release(model: Model, refused: Sequence[str], seldon: Seldon) -> Finding:
    """One model's finding.

    Args:
        refused: as ``windtunnel.serving.seldon.limits.refusals`` says it.
    """
    name = f"releases of {model.name}"
    if refused:
        mend = "change the description, or the settings of Seldon, as it says: docs/reference/seldon.md"
        return Finding(name, "fail", "; ".join(refused), mend)
    text = f"nothing is refused by these settings (api {seldon.api})"
    if model.serving.log and seldon.predictions is None:
        text += "; its rows are read from the home of whoever looks, for the settings name no predictions"
    return Finding(name, "ok", text)


@dataclass(frozen=True, slots=True)
class Made:
    """A pod that Windtunnel would make.

    Attributes:
        who: in words.
        spec: as its manifest says; containers with the resources that are written, and no others.
        count: how many of them at once.
        queue: the LocalQueue of Kueue that has to admit them.
    """

    who: str
    spec: Mapping[str, Any]
    count: int = 1
    queue: str | None = None


def pods(cluster: Cluster, namespace: str) -> list[Made]:
    """The pods of the models; without models those of a model that says nothing of resources."""
    out: list[Made] = []
    if "training" in cluster.parts:
        for model in cluster.models:
            out += _training_pods(model, namespace)
        if not cluster.models:
            out.append(Made("a training with the usual resources", _training_pod("any", Resources(), Pod())))
    if any(part in cluster.parts for part in ("releases", "releases-core2")):
        serving = {f"a server of {m.name}": m.serving for m in cluster.models if m.target == "kubernetes"}
        if not cluster.models:
            serving = {"a server with the usual resources": Serving()}
        out += [Made(who, _server_pod(one), one.least) for who, one in serving.items()]
    return out


def described(models: Sequence[Model], namespace: str) -> Iterator[tuple[str, Pod]]:
    """The pods of trainings and steps that run in this namespace, by whose they are."""
    for model in models:
        for who, pod, _, _ in _in_pods(model):
            if pod is not None and pod.namespace in (None, namespace):
                yield who, pod


def _in_pods(model: Model) -> Iterator[tuple[str, Pod | None, Resources, int]]:
    """Whose, what is described of it, what it asks for, how many at once."""
    training = model.training
    if model.training_target == "kubernetes":
        yield f"the training of {model.name}", training.pod, training.resources, training.nodes
    for step in model.steps:
        if step.target == "kubernetes":
            who = f"step {step.name} of {model.name}"
            yield who, step.pod or training.pod, step.resources or training.resources, 1


def _training_pods(model: Model, namespace: str) -> Iterator[Made]:
    for who, pod, resources, count in _in_pods(model):
        if pod is None or pod.namespace in (None, namespace):  # others' limits are others'
            made = _training_pod(model.name, resources, pod or Pod())
            yield Made(who, made, count, pod.queue if pod is not None else None)


def _training_pod(model: str, resources: Resources, pod: Pod) -> Mapping[str, Any]:
    from windtunnel.tracking.contract import RunSpec
    from windtunnel.tracking.pods.manifest import Place, training_pod

    spec = RunSpec("doctor", model, "a:b", resources=resources.model_dump(mode="json"))
    made: Mapping[str, Any] = training_pod(spec, _pictured(pod), Place(["python"]))["spec"]
    return made


def _pictured(pod: Pod) -> Pod:
    """With an image, which limits say nothing of."""
    return pod if pod.image else pod.model_copy(update={"image": "any"})


def _server_pod(serving: Serving) -> Mapping[str, Any]:
    from windtunnel.serving.desired import Server
    from windtunnel.serving.seldon import Seldon, manifest

    # Which image it is, limits say nothing of.
    plain = serving.model_copy(update={"environment": None}).model_dump(mode="json")
    server = Server(digest="", source="", port=0, settings={"serving": plain})
    return manifest.pod("any", "1", server, Seldon(image="any", registry="http://any"))


def _spec(model: Model) -> Any:
    from windtunnel.tracking.contract import RunSpec

    resources = model.training.resources.model_dump(mode="json")
    return RunSpec("doctor", model.name, model.training.entry_point, resources=resources)


def _place(client: Client) -> Any:
    from windtunnel.tracking.pods.manifest import Place

    return Place(["python"], namespace=client.namespace)
