"""What the kinds of object are called in the API's paths."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    Attributes:
        group: API group; empty for the core group.
        version: of the group, ``v1``.
        plural: name in paths, ``pods``.
        name: name in manifests, ``Pod``.
        namespaced: whether its objects live in a namespace.
    """

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """``apiVersion`` of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str | None = None, sub: str | None = None) -> str:
        """Path of the collection, of one object, or of one object's subresource (``status``)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([name] if name else []), *([sub] if sub else [])]
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def where(self, namespace: str, name: str | None = None) -> str:
        """How a message names it: ``SeldonDeployment visits in namespace models``."""
        what = f"{self.name} {name}" if name else f"objects of kind {self.name}"
        return f"{what} in namespace {namespace}" if self.namespaced else what


POD = Kind("", "v1", "pods", "Pod")
SERVICE = Kind("", "v1", "services", "Service")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
DEFINITION = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
ACCESS_REVIEW = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
ACCESS_REVIEW_OF = Kind("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota")
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
SELDON_DEPLOYMENT = Kind("machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment")
EVENT = Kind("", "v1", "events", "Event")
JOB_SET = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
#: Kueue 0.15 to 0.19 serve both, those before the second only, those after the first only.
WORKLOADS = tuple(Kind("kueue.x-k8s.io", version, "workloads", "Workload") for version in ("v1beta2", "v1beta1"))
LIMIT_RANGE = Kind("", "v1", "limitranges", "LimitRange")
SECRET = Kind("", "v1", "secrets", "Secret")
TRAIN_JOB = Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
RUNTIME = Kind("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime")
CLUSTER_RUNTIME = Kind(
    "trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", namespaced=False
)
