"""What commands are given to read: secrets, and manifests that are made from what the cluster has."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

from windtunnel.errors import StackError
from windtunnel.stack.laptop import dags, demo, objects, secrets
from windtunnel.stack.laptop.parts import NAMESPACE, Laptop, Step

#: Exit code and output of a command.
Ask = Callable[[Sequence[str]], tuple[int, str]]


def of(step: Step, laptop: Laptop, ask: Ask) -> str:
    """The input of a step; what it holds is never shown.

    Raises:
        StackError: the cluster does not tell what it is made from, or the checkout lacks it.
    """
    if step.given == "dag recipe":
        return dags.RECIPE
    if step.given == "secrets":
        return secrets.manifests(NAMESPACE)
    if step.given == "demo secrets":
        return secrets.demo(NAMESPACE, password(laptop, ask))
    if step.given == "demo objects":
        image = demo.airflow_image(laptop)
        return objects.listed(objects.all_of_the_demo(NAMESPACE, image, demo.dag_file(laptop)))
    if step.given == "gateway":
        return objects.listed([objects.gateway()])
    if step.given == "keys":
        return objects.listed([objects.keys(NAMESPACE, public_keys(laptop, ask))])
    assert step.given == "callers", step.given
    image, url = demo.airflow_image(laptop), demo.inference_url()
    return objects.listed([objects.callers(NAMESPACE, image, url, demo.RATE)])


def password(laptop: Laptop, ask: Ask) -> str:
    """Of the registry's user ``service``.

    Raises:
        StackError: the cluster does not tell.
    """
    code, out = ask(demo.reading_password(laptop))
    try:
        if code == 0:
            return base64.b64decode(json.loads(out)["data"]["mlflow-service"]).decode()
    except (ValueError, KeyError, TypeError):
        pass  # said below: what it printed may hold a part of a secret
    raise StackError(
        f"the secret windtunnel of the cluster {laptop.name} cannot be read", hint="run 'windtunnel cluster up' first"
    )


def public_keys(laptop: Laptop, ask: Ask) -> dict[str, str]:
    """Files that say whose signatures count: ``keys.json`` and a ``KEYID.pem`` each.

    Raises:
        StackError: the registry's pod does not tell, or has none.
    """
    code, out = ask(demo.reading_keys(laptop))
    try:
        found = json.loads(out) if code == 0 else {}
    except ValueError:
        found = {}
    if not isinstance(found, dict) or "keys.json" not in found:
        raise StackError("the registry's pod does not tell its public keys", hint=laptop.slow)
    return {str(name): str(text) for name, text in found.items()}
