"""What Airflow is told about this provider (entry point ``apache_airflow_provider``)."""

from __future__ import annotations

from typing import Any

_PACKAGE = "windtunnel_airflow"
_NAME = "Windtunnel"


def get_provider_info() -> dict[str, Any]:
    """Provider info, valid against Airflow's ``provider_info.schema.json``."""
    steps = ("data", "train", "extra", "evaluate", "register", "release", "watch", "steward")
    return {
        "package-name": "windtunnel",
        "name": _NAME,
        "description": "A model's whole life in Airflow: train, judge, register, release step by step, watch, retrain.",
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": "https://pypi.org/project/windtunnel/",
                "tags": ["software"],
            }
        ],
        "operators": [
            {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.operators.{step}" for step in steps]}
        ],
        "sensors": [{"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.sensors"]}],
        "hooks": [{"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.hook"]}],
        "triggers": [{"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.triggers"]}],
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
            }
        ],
    }
