"""What Airflow is told about this provider (entry point ``apache_airflow_provider``)."""

from __future__ import annotations

from typing import Any

_PACKAGE = "windtunnel_airflow"
_NAME = "Windtunnel"
_TRACKING = f"{_PACKAGE}.tracking_server"
_MLFLOW = "MLflow"


def get_provider_info() -> dict[str, Any]:
    """Provider info, valid against Airflow's ``provider_info.schema.json``."""
    steps = ("data", "train", "extra", "evaluate", "register", "release", "watch", "steward")
    parts = ("models", "versions", "runs", "predict", "deployments")
    return {
        "package-name": "windtunnel",
        "name": _NAME,
        "description": "A model's whole life in Airflow: train, judge, register, release step by step, watch, retrain.",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://pypi.org/project/windtunnel/",
                "tags": ["software"],
            },
            {"integration-name": _MLFLOW, "external-doc-url": "https://mlflow.org/", "tags": ["software"]},
        ],
        "operators": [
            {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.operators.{step}" for step in steps]},
            {"integration-name": _MLFLOW, "python-modules": [f"{_TRACKING}.{part}" for part in parts]},
        ],
        "sensors": [
            {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.sensors"]},
            {"integration-name": _MLFLOW, "python-modules": [f"{_TRACKING}.sensors"]},
        ],
        "hooks": [
            {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.hook", f"{_PACKAGE}.seldon"]},
            {"integration-name": _MLFLOW, "python-modules": [f"{_TRACKING}.hook"]},
        ],
        "triggers": [
            {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.triggers"]},
            {"integration-name": _MLFLOW, "python-modules": [f"{_TRACKING}.triggers", f"{_TRACKING}.watching"]},
        ],
        "asset-uris": [
            {
                "schemes": ["windtunnel"],
                "handler": None,
                "to_openlineage_converter": f"{_PACKAGE}.lineage.asset_to_dataset",
            }
        ],
        "extra-links": [
            f"{_PACKAGE}.links.MlflowRunLink",
            f"{_PACKAGE}.links.ModelVersionLink",
            f"{_PACKAGE}.links.RegisteredModelLink",
            f"{_PACKAGE}.links.ExperimentLink",
            f"{_PACKAGE}.links.ReportLink",
        ],
        "connection-types": [
            {
                "connection-type": "windtunnel",
                "hook-class-name": f"{_PACKAGE}.hook.WindtunnelHook",
                "hook-name": _NAME,
                "conn-fields": {
                    "home": {
                        "label": "Home folder of the embedded stack",
                        "description": "Empty: $WINDTUNNEL_HOME, else ~/.windtunnel",
                        "schema": {"type": ["string", "null"]},
                    },
                    "public_url": {
                        "label": "MLflow URL for people",
                        "description": "Used in links, where it differs from the host workers talk to",
                        "schema": {"type": ["string", "null"], "format": "uri"},
                    },
                    "timeout": {
                        "label": "Time-out in seconds",
                        "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 600},
                    },
                    "store": {
                        "label": "Object store for training in pods",
                        "description": "s3://BUCKET/PREFIX, or file:///FOLDER on a volume that workers and pods share",
                        "schema": {"type": ["string", "null"]},
                    },
                    "store_conn_id": {
                        "label": "Connection (aws) to the object store",
                        "description": "For workers; empty: the environment says. Pods have their own",
                        "schema": {"type": ["string", "null"]},
                    },
                    "cluster_url": {
                        "label": "MLflow URL for pods",
                        "description": "Where it differs from the host workers talk to",
                        "schema": {"type": ["string", "null"]},
                    },
                    "ca": {
                        "label": "File of certificates (PEM) on workers",
                        "description": "Checks MLflow's certificate; empty: the system's",
                        "schema": {"type": ["string", "null"]},
                    },
                    "cluster_ca": {
                        "label": "Secret with ca.crt beside training pods",
                        "description": "Checks MLflow's certificate there; empty: the image's own",
                        "schema": {"type": ["string", "null"]},
                    },
                    "cluster_store_ca": {
                        "label": "The same for the object store",
                        "description": "Where the store's certificate is of an authority of the house",
                        "schema": {"type": ["string", "null"]},
                    },
                    "seldon_conn_id": {
                        "label": "Connection (windtunnel_seldon) to the cluster that serves",
                        "description": "Of models with target kubernetes; empty: windtunnel_seldon",
                        "schema": {"type": ["string", "null"]},
                    },
                },
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "host": "MLflow host",
                        "port": "MLflow port",
                        "login": "MLflow user",
                        "password": "MLflow password",
                    },
                    "placeholders": {"host": "http://127.0.0.1", "port": "5000", "login": "service"},
                },
            },
            _mlflow_connection(),
            _seldon_connection(),
        ],
    }


def _seldon_connection() -> dict[str, Any]:
    """The form of a connection to a cluster where Seldon serves; what is not in it may stand in the extra as JSON."""
    text = {"type": ["string", "null"]}

    def field(label: str, description: str) -> dict[str, Any]:
        return {"label": label, "description": description, "schema": text}

    return {
        "connection-type": "windtunnel_seldon",
        "hook-class-name": f"{_PACKAGE}.seldon.SeldonHook",
        "hook-name": "Windtunnel: Seldon",
        "conn-fields": {
            "api": field("API", "core1: SeldonDeployment; core2: Experiment, Model and Server. Empty: core1"),
            "image": field("Image of the model servers", "docker/model-server, by digest"),
            "registry": field("MLflow URL for the models' pods", "As the pods reach it"),
            "namespace": field("Namespace", "Empty: the kubeconfig's, or the pod's"),
            "gateway": field(
                "Gateway", "Where callers send requests, up to but without /v2; with it weights are counted"
            ),
            "prometheus": field("Prometheus URL", "The one that scrapes Seldon's executors; gates need it"),
            "prometheus_token_file": field("File with Prometheus' token", "Path on the workers, read at each query"),
            "prometheus_ca": field("File with Prometheus' authority", "Path on the workers; empty: the usual ones"),
            "kubeconfig": field("Kubeconfig", "Path on the workers; empty: KUBECONFIG, or the pod's service account"),
            "context": field("Context of the kubeconfig", "Empty: its current one"),
            "registry_secret": field("Secret with username and password", "Empty: windtunnel-registry"),
            "registry_ca": field(
                "Secret with ca.crt", "Where the registry's certificate is by an authority of your own"
            ),
            "keys": field("ConfigMap of the keys that count", "Empty: windtunnel-keys"),
            "service_account": field("Service account of the models' pods", "Empty: the namespace's default"),
            "logger": field("Request logger", "Where Seldon sends requests and answers as CloudEvents"),
            "collector": field("Collector URL", "As the models' pods reach it; their rows go there"),
            "collector_rows": field("Who sends rows", "server: our model servers; logger: Seldon. Empty: server"),
            "collector_secret": field("Secret with the collector's token", "For rows of our model servers"),
            "predictions": field("Where the collector writes", "s3://BUCKET/PREFIX, as the workers reach it"),
        },
        "ui-field-behaviour": {
            "hidden-fields": ["host", "port", "login", "password", "schema"],
            "relabeling": {},
            "placeholders": {"extra": '{"split_requests": 400, "labels": {"team": "sea"}}'},
        },
    }


def _mlflow_connection() -> dict[str, Any]:
    """The form of a connection to any MLflow server."""
    text = {"type": ["string", "null"]}
    return {
        "connection-type": "mlflow",
        "hook-class-name": f"{_TRACKING}.hook.MlflowHook",
        "hook-name": _MLFLOW,
        "conn-fields": {
            "token": {
                "label": "Bearer token",
                "description": "Goes before login and password",
                "schema": {**text, "format": "password"},
            },
            "verify": {
                "label": "Check the server's certificate",
                "schema": {"type": ["boolean", "null"]},
            },
            "ca": {
                "label": "CA file",
                "description": "PEM file on the workers to check the certificate with; empty: the system's",
                "schema": text,
            },
            "public_url": {
                "label": "MLflow URL for people",
                "description": "Used in links, where it differs from the host workers talk to",
                "schema": {**text, "format": "uri"},
            },
            "timeout": {
                "label": "Time-out of a request in seconds",
                "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 600},
            },
            "attempts": {
                "label": "Attempts at a request",
                "description": "With growing pauses, while the server does not answer or is busy",
                "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 20},
            },
        },
        "ui-field-behaviour": {
            "hidden-fields": [],
            "relabeling": {"host": "MLflow host", "port": "MLflow port", "schema": "http or https"},
            "placeholders": {
                "host": "https://mlflow.example.com",
                "extra": '{"headers": {"X-Team": "sea"}}',
            },
        },
    }
