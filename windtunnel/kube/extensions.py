"""What may be installed beside Kubernetes that Windtunnel uses, and in which version. Data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extension:
    """Kinds of one API group.

    Attributes:
        name: what people call it.
        group: API group.
        versions: those that will do, the one we use first.
        plurals: kinds that must be served.
        purpose: what works with it only.
        parts: parts (``windtunnel.kube.rights``) that cannot work without it; empty: nobody needs it.
        install: what to do where it is missing.
    """

    name: str
    group: str
    versions: tuple[str, ...]
    plurals: tuple[str, ...]
    purpose: str
    install: str
    parts: tuple[str, ...] = ()


EXTENSIONS = (
    Extension(
        "Seldon Core 1", "machinelearning.seldon.io", ("v1",), ("seldondeployments",),
        "releases on Seldon Core 1",
        "install Seldon Core 1 (chart seldon-core-operator), or look at other parts only (--part)",
        ("releases", "guard"),
    ),
    Extension(
        "Seldon Core 2", "mlops.seldon.io", ("v1alpha1",), ("models", "experiments", "servers"),
        "releases on Seldon Core 2", "install Seldon Core 2 (charts seldon-core-v2-crds and seldon-core-v2-setup)",
        ("releases-core2", "guard-core2"),
    ),
    Extension(
        "metrics server", "metrics.k8s.io", ("v1beta1",), ("pods",),
        "autoscaling on CPU (serving.maximum)", "install the metrics-server of your cluster",
    ),
    Extension(
        "KEDA", "keda.sh", ("v1alpha1",), ("scaledobjects",),
        "autoscaling on queue, latency and rate (serving.scale)", "install KEDA (chart kedacore/keda)",
    ),
    Extension(
        "JobSet", "jobset.x-k8s.io", ("v1alpha2",), ("jobsets",),
        "trainings on several nodes", "install JobSet",
    ),
    Extension(
        "Kubeflow Trainer", "trainer.kubeflow.org", ("v1alpha1",),
        ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
        "trainings on several nodes by a runtime (training.pod.trainjob)", "install Kubeflow Trainer 2.2 or newer",
    ),
    Extension(
        "Kueue", "kueue.x-k8s.io", ("v1beta2", "v1beta1"), ("localqueues", "clusterqueues", "workloads"),
        "queues and shares of teams", "install Kueue",
    ),
    Extension(
        "Prometheus operator", "monitoring.coreos.com", ("v1",), ("servicemonitors", "prometheusrules"),
        "the chart's monitoring (monitoring.enabled)", "install kube-prometheus-stack, or leave monitoring.enabled off",
    ),
    Extension(
        "cert-manager", "cert-manager.io", ("v1",), ("certificates", "issuers"),
        "TLS between parts by cert-manager (tls.certManager)", "install cert-manager, or give a secret (tls.secret)",
    ),
)  # fmt: skip
