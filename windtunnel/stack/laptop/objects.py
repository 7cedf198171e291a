"""What the demo needs besides the charts, as manifests: an object store, a Prometheus, rights, a DAG file, callers.

Pure: plain dicts. For trying out on one machine: one pod each, no backup, no TLS. All pods are of the level
"restricted" of the Pod Security Standards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from windtunnel.kube import rights

Manifest = dict[str, Any]

#: The object store: Apache-2.0, one small process on a folder, images at each release. MinIO's maker has published no
#: community images since October 2025.
STORE_IMAGE = "ghcr.io/versity/versitygw:v1.8.0@sha256:30292fc2eeacc67a36993b01f7a7a5e3361a19cced0e80c1d71cfa2a4b0a2499"
PROMETHEUS_IMAGE = "docker.io/prom/prometheus:v3.14.0"
BUCKET = "windtunnel"
STORE, STORE_PORT = "windtunnel-demo-objects", 7070
PROMETHEUS, PROMETHEUS_PORT = "windtunnel-demo-prometheus", 9090
DAGS, SECRET, BUCKET_JOB, CALLERS = (
    "windtunnel-demo-dags",
    "windtunnel-demo",
    "windtunnel-demo-bucket",
    "windtunnel-demo-callers",
)
#: Keys of ``SECRET`` by which a process knows the object store.
_STORE_KEYS = {"AWS_ACCESS_KEY_ID": "aws-access-key-id", "AWS_SECRET_ACCESS_KEY": "aws-secret-access-key"}
_READ_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
#: Who acts for Airflow, as the official chart names them for a release called ``airflow``.
_AIRFLOW = ("airflow-scheduler", "airflow-triggerer")


def listed(manifests: Iterable[Manifest]) -> str:
    """As the input of ``kubectl apply --filename -``."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})


def all_of_the_demo(namespace: str, airflow_image: str, dag_file: str) -> list[Manifest]:
    """What is there before the charts are installed.

    Args:
        airflow_image: makes the bucket.
        dag_file: text of the DAG file.
    """
    return [
        *object_store(namespace),
        *prometheus(namespace),
        *releases(namespace),
        _object("v1", "ConfigMap", DAGS, namespace, data={"visits.py": dag_file}),
        bucket(namespace, airflow_image),
    ]


def object_store(namespace: str) -> list[Manifest]:
    """An S3-compatible store on a claim: versitygw on a file system."""
    env = [
        _from_secret("ROOT_ACCESS_KEY_ID", "aws-access-key-id"),
        _from_secret("ROOT_SECRET_ACCESS_KEY", "aws-secret-access-key"),
        {"name": "VGW_PORT", "value": f":{STORE_PORT}"},
        {"name": "VGW_REGION", "value": "us-east-1"},
        {"name": "VGW_HEALTH", "value": "/_/health"},
    ]
    container = {
        "name": "store",
        "image": STORE_IMAGE,
        "args": ["posix", "/data"],
        "env": env,
        "ports": [{"name": "s3", "containerPort": STORE_PORT}],
        **_probes("/_/health", "s3"),
        "resources": _resources("50m", "64Mi", "256Mi"),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": STORE}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "100Mi"}},
    ]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}
    return [
        _object("v1", "ServiceAccount", STORE, namespace, automountServiceAccountToken=False),
        _object("v1", "PersistentVolumeClaim", STORE, namespace, spec=claim),
        _service(STORE, namespace, "s3", STORE_PORT),
        _deployment(STORE, namespace, _pod(STORE, container, volumes, user=1000)),
        _inside(STORE, namespace, STORE_PORT),
    ]


def prometheus(namespace: str) -> list[Manifest]:
    """One that scrapes the executors of Seldon in this namespace, for a day."""
    container = {
        "name": "prometheus",
        "image": PROMETHEUS_IMAGE,
        "args": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=1d",
        ],
        "ports": [{"name": "http", "containerPort": PROMETHEUS_PORT}],
        **_probes("/-/ready", "http"),
        "resources": _resources("50m", "128Mi", "512Mi"),
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus", "readOnly": True},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }
    volumes = [
        {"name": "config", "configMap": {"name": PROMETHEUS}},
        {"name": "data", "emptyDir": {"sizeLimit": "2Gi"}},
    ]
    pod = _pod(PROMETHEUS, container, volumes, user=65534, token=True)
    return [
        _object("v1", "ServiceAccount", PROMETHEUS, namespace, automountServiceAccountToken=False),
        *_granted(PROMETHEUS, namespace, _READ_PODS, [PROMETHEUS]),
        _object("v1", "ConfigMap", PROMETHEUS, namespace, data={"prometheus.yml": scraping(namespace)}),
        _service(PROMETHEUS, namespace, "http", PROMETHEUS_PORT),
        _deployment(PROMETHEUS, namespace, pod),
        _inside(PROMETHEUS, namespace, PROMETHEUS_PORT),
    ]


def scraping(namespace: str) -> str:
    """Prometheus' configuration: the ports named ``metrics`` of pods that Seldon's operator has marked.

    As JSON, which is YAML too.
    """
    rules: list[dict[str, Any]] = [
        {
            "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"],
            "action": "keep",
            "regex": "true",
        },
        {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "action": "keep", "regex": "metrics"},
        {
            "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_path"],
            "action": "replace",
            "target_label": "__metrics_path__",
            "regex": "(.+)",
        },
        {"source_labels": ["__meta_kubernetes_pod_name"], "action": "replace", "target_label": "pod"},
    ]
    job = {
        "job_name": "seldon",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
        "relabel_configs": rules,
    }
    return json.dumps({"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": [job]}, indent=1)


def releases(namespace: str) -> list[Manifest]:
    """Airflow may release on Seldon: the rights that ``windtunnel doctor`` asks for, and no more."""
    return _granted("windtunnel-demo-releases", namespace, rights.rules(rights.part("releases")), _AIRFLOW)


def bucket(namespace: str, image: str) -> Manifest:
    """Makes the bucket once the store answers."""
    container = {
        "name": "bucket",
        "image": image,
        "command": ["python", "-m", "windtunnel_examples.visits.demo.prepare", "bucket", BUCKET],
        "env": [
            *(_from_secret(name, key) for name, key in _STORE_KEYS.items()),
            {"name": "AWS_ENDPOINT_URL_S3", "value": store_url(namespace)},
            {"name": "AWS_DEFAULT_REGION", "value": "us-east-1"},
            {"name": "AWS_MAX_ATTEMPTS", "value": "10"},
        ],
        "resources": _resources("50m", "128Mi", "512Mi"),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = _pod(STORE, container, [{"name": "tmp", "emptyDir": {"sizeLimit": "100Mi"}}], user=50000)
    pod["restartPolicy"] = "OnFailure"
    template = {"metadata": {"labels": _labels(BUCKET_JOB)}, "spec": pod}
    return _object("batch/v1", "Job", BUCKET_JOB, namespace, spec={"backoffLimit": 10, "template": template})


def callers(namespace: str, image: str, url: str, rate: float) -> Manifest:
    """Members who ask for their prediction until the cluster is deleted.

    Args:
        url: of the model behind the gateway.
        rate: requests a second.
    """
    container = {
        "name": "callers",
        "image": image,
        "command": ["python", "-m", "windtunnel_examples.visits.callers", url, f"--rate={rate:g}"],
        "resources": _resources("100m", "256Mi", "512Mi"),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = _pod("default", container, [{"name": "tmp", "emptyDir": {"sizeLimit": "100Mi"}}], user=50000)
    return _deployment(CALLERS, namespace, pod)


def gateway() -> Manifest:
    """Istio's door for everything that Seldon routes; the name is the one its operator is told."""
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    spec = {"selector": {"istio": "ingressgateway"}, "servers": [server]}
    return _object("networking.istio.io/v1", "Gateway", "seldon-gateway", "istio-system", spec=spec)


def keys(namespace: str, files: Mapping[str, str]) -> Manifest:
    """The registry's public keys, for model servers.

    Args:
        files: name to text.
    """
    return _object("v1", "ConfigMap", "windtunnel-keys", namespace, data=dict(files))


def store_url(namespace: str) -> str:
    """Of the object store, inside the cluster."""
    return f"http://{STORE}.{namespace}.svc:{STORE_PORT}"


def _object(api: str, kind: str, name: str, namespace: str, **rest: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": _labels(name)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "windtunnel-demo"}


def _selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


def _service(name: str, namespace: str, port_name: str, port: int) -> Manifest:
    ports = [{"name": port_name, "port": port, "targetPort": port_name}]
    return _object("v1", "Service", name, namespace, spec={"selector": _selector(name), "ports": ports})


def _deployment(name: str, namespace: str, pod: dict[str, Any]) -> Manifest:
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": _selector(name)},
        "template": {"metadata": {"labels": _labels(name)}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", name, namespace, spec=spec)


def _pod(
    account: str, container: dict[str, Any], volumes: Sequence[dict[str, Any]], *, user: int, token: bool = False
) -> dict[str, Any]:
    closed = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": token,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": 0,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{"imagePullPolicy": "IfNotPresent", **container, "securityContext": closed}],
        "volumes": list(volumes),
    }


def _probes(path: str, port: str) -> dict[str, Any]:
    asked = {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5}
    return {
        "startupProbe": {**asked, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**asked, "periodSeconds": 10},
        "livenessProbe": {**asked, "periodSeconds": 30, "failureThreshold": 4},
    }


def _resources(cpu: str, memory: str, most: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": most}}


def _from_secret(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}


def _granted(name: str, namespace: str, rules: list[Any], accounts: Iterable[str]) -> list[Manifest]:
    subjects = [{"kind": "ServiceAccount", "name": one, "namespace": namespace} for one in accounts]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    api = "rbac.authorization.k8s.io/v1"
    return [
        _object(api, "Role", name, namespace, rules=rules),
        _object(api, "RoleBinding", name, namespace, roleRef=role, subjects=subjects),
    ]


def _inside(name: str, namespace: str, port: int) -> Manifest:
    """Only this namespace's pods come in."""
    rule = {"from": [{"podSelector": {}}], "ports": [{"port": port, "protocol": "TCP"}]}
    spec = {"podSelector": {"matchLabels": _selector(name)}, "policyTypes": ["Ingress"], "ingress": [rule]}
    return _object("networking.k8s.io/v1", "NetworkPolicy", name, namespace, spec=spec)
