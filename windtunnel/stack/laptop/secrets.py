"""Secrets of the ``small`` preset; the same as docs/how-to/install-on-kubernetes.md makes by hand."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any


def manifests(namespace: str) -> str:
    """A list of Secrets, as JSON for ``kubectl create --filename -``; new ones each time."""
    database, service = secrets.token_hex(16), secrets.token_hex(16)
    host = "windtunnel-postgresql:5432"
    connection = {
        "conn_type": "windtunnel",
        "host": "windtunnel-registry",
        "port": 5000,
        "schema": "http",
        "login": "service",
        "password": service,
    }
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
            "connection": json.dumps(connection),
        },
        "windtunnel-airflow-database": {
            "connection": f"postgresql+psycopg2://windtunnel:{database}@{host}/airflow",
        },
    }
    items: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": values,
        }
        for name, values in made.items()
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
