"""Secrets: those of ``small``, as docs/how-to/install-on-kubernetes.md makes them by hand, and those of the demo."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from windtunnel.stack.laptop import objects


def manifests(namespace: str) -> str:
    """A list of Secrets, as JSON for ``kubectl create --filename -``; new ones each time."""
    database, service = secrets.token_hex(16), secrets.token_hex(16)
    host = "windtunnel-postgresql:5432"
    made = {
        "windtunnel": {
            "mlflow-admin": secrets.token_hex(16),
            "mlflow-service": service,
            "mlflow-flask-key": secrets.token_hex(32),
            "postgres-password": database,
            "database-url": f"postgresql://windtunnel:{database}@{host}/windtunnel",
        },
        "windtunnel-airflow": {
            "fernet-key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "api-secret-key": secrets.token_hex(32),
            "jwt-secret": secrets.token_hex(32),
            "connection": json.dumps(_registry(service)),
        },
        "windtunnel-airflow-database": {
            "connection": f"postgresql+psycopg2://windtunnel:{database}@{host}/airflow",
        },
    }
    return _listed(namespace, made)


def demo(namespace: str, service: str) -> str:
    """The same for what the demo adds: keys of its object store, connections that hold them, the collector's token.

    Args:
        service: password of the registry's user ``service``, whom training pods and model servers log in as.
    """
    access, key = secrets.token_hex(10), secrets.token_hex(20)
    extra = {
        "store": f"s3://{objects.BUCKET}/training",
        "store_conn_id": "aws_default",
        "cluster_url": f"http://windtunnel-registry.{namespace}.svc:5000",
    }
    store = {
        "conn_type": "aws",
        "login": access,
        "password": key,
        "extra": {"endpoint_url": objects.store_url(namespace), "region_name": "us-east-1"},
    }
    person = {"username": "service", "password": service}
    made = {
        objects.SECRET: {
            "aws-access-key-id": access,
            "aws-secret-access-key": key,
            "connection": json.dumps({**_registry(service), "extra": extra}),
            "aws-connection": json.dumps(store),
            **person,
        },
        # Of the model servers, under the name that Seldon's settings expect.
        "windtunnel-registry": person,
        "windtunnel-collector": {"token": secrets.token_hex(32)},
    }
    return _listed(namespace, made)


def _registry(service: str) -> dict[str, Any]:
    """Airflow's connection to the registry."""
    return {
        "conn_type": "windtunnel",
        "host": "windtunnel-registry",
        "port": 5000,
        "schema": "http",
        "login": "service",
        "password": service,
    }


def _listed(namespace: str, made: Mapping[str, Mapping[str, str]]) -> str:
    items: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": dict(values),
        }
        for name, values in made.items()
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
