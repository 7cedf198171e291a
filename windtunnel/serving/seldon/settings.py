"""What an installation says of its cluster, once for all models."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from windtunnel.errors import DescriptionError, ServingError
from windtunnel.kube.access import Access
from windtunnel.serving.traffic.promnames import SELDON, SELDON_CORE2, Names
from windtunnel.serving.traffic.promsettings import names_of
from windtunnel.spec.serving import SeldonApi

_NAMES: dict[SeldonApi, Names] = {"core1": SELDON, "core2": SELDON_CORE2}


@dataclass(frozen=True, slots=True)
class Seldon:
    """Where and how Seldon serves. Secrets are named here, never held.

    Attributes:
        image: of the model servers: Windtunnel and MLServer (``locks/serving.txt``), by digest if you can.
        images: of the model servers of models that name a ``serving.environment``, by its name.
        registry: URL of the MLflow server with the governed registry, as pods reach it.
        formerly: addresses that the registry had before: models that were released by them are still ours.
        registry_secret: Secret with keys ``username`` and ``password``: the pods' user, who may read models.
        registry_ca: Secret with ``ca.crt``, where the registry's certificate is by an authority of your own.
        keys: ConfigMap with ``keys.json`` and ``KEYID.pem`` of ``HOME/keys``: whose signatures count.
        access: which cluster, as whom, in which namespace.
        gateway: where callers send their requests, up to but without ``/v2``; ``{namespace}`` and ``{model}`` stand for
            themselves. With it each change of weights is proven by counting who answers. None: it is not.
        direct: a version's own Service, as this process reaches it: ``http://{service}.{namespace}:8000``. None:
            through the API, which a mesh that demands mutual TLS of everybody does not let in.
        split_requests: how many requests one such count takes.
        prometheus: URL of the Prometheus that scrapes Seldon's executors. None: there are no traffic numbers.
        prometheus_labels: labels that tell the series of this namespace from those of others, ``{namespace}`` stands
            for itself. None: ``namespace`` or ``kubernetes_namespace``, where series have them.
        prometheus_names: what the numbers are called there, where not as Seldon calls them: keys of ``Names``.
        prometheus_token_file: file with a bearer token for it, as whoever releases reads it, at each query.
        prometheus_ca: file with the authority of its certificate, as whoever releases reads it.
        prometheus_stale_s: numbers whose last scrape is older than this, in seconds, are of a dead source: twice what
            lies between two scrapes, or more.
        autoscaler: who scales: ``hpa``, Kubernetes' own, by CPU; ``keda`` where KEDA is installed, and Seldon's
            operator with it (``keda.enabled``): by queue, rate and latency too, from ``prometheus``.
        service_account: of the pods.
        pull_secrets: for ``image``.
        logger: where the executor sends requests and answers as CloudEvents. None: nowhere.
        logger_mode: what it sends.
        collector: URL of the collector of predictions, as pods reach it. None: rows of pods end with the pod.
        collector_rows: who sends them: ``server``, our model server its own log; ``logger``, Seldon's executor events.
        collector_secret: Secret with the collector's ``token``, for ``server``.
        collector_ca: Secret with ``ca.crt``, where the collector's certificate is by an authority of your own.
        predictions: where the collector writes, as whoever releases reads it: ``s3://BUCKET/PREFIX``. None: the home's
            own folder.
        labels: further labels of the object and its pods.
        poll_s: between two looks at a version that is not ready yet.
        route_within_s: how long the gateway may take to follow a change of weights.
    """

    #: Which of Seldon's APIs these settings are for; ``core2.Core2`` has those of the other.
    api: ClassVar[SeldonApi] = "core1"

    image: str
    registry: str
    formerly: tuple[str, ...] = ()
    registry_secret: str = "windtunnel-registry"
    registry_ca: str | None = None
    keys: str = "windtunnel-keys"
    access: Access = field(default_factory=Access)
    gateway: str | None = None
    direct: str | None = None
    split_requests: int = 200
    prometheus: str | None = None
    prometheus_labels: Mapping[str, str] | None = None
    prometheus_names: Mapping[str, Any] | None = None
    prometheus_token_file: str | None = None
    prometheus_ca: str | None = None
    prometheus_stale_s: float = 60.0
    autoscaler: Literal["hpa", "keda"] = "hpa"
    service_account: str | None = None
    pull_secrets: tuple[str, ...] = ()
    logger: str | None = None
    logger_mode: Literal["all", "request", "response"] = "all"
    collector: str | None = None
    collector_rows: Literal["server", "logger"] = "server"
    collector_secret: str | None = None
    collector_ca: str | None = None
    predictions: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    poll_s: float = 2.0
    route_within_s: float = 60.0

    def image_of(self, environment: str | None) -> str:
        """The image of a model's servers.

        Raises:
            ServingError: no image is named for the environment.
        """
        if environment is None:
            return self.image
        if environment not in self.images:
            raise ServingError(
                f"no image is named for the server environment {environment!r}",
                hint=f"images in the settings of Seldon; it has {', '.join(sorted(self.images)) or 'none'}",
            )
        return self.images[environment]

    def releases(self, registry: str | None) -> bool:
        """Whether what another one says of ``registry`` is about ours; None: nobody has said it."""
        return registry is None or _place(registry) in {_place(one) for one in (self.registry, *self.formerly)}

    @property
    def names(self) -> Names:
        """What the numbers are called in ``prometheus``, of every namespace.

        Raises:
            DescriptionError: ``prometheus_names`` says what cannot be.
        """
        usual = _NAMES[self.api]
        return usual if self.prometheus_names is None else names_of(self.prometheus_names, usual)

    @classmethod
    def read(cls, path: Path) -> Seldon:
        """From a TOML file.

        Raises:
            DescriptionError: it is not there, no TOML, or says what ``of`` refuses.
        """
        try:
            return cls.of(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            raise DescriptionError(f"{path} cannot be read: {error}", hint="see docs/reference/seldon.md") from error

    @classmethod
    def of_form(cls, plain: Mapping[str, Any]) -> Seldon:
        """As ``of``, from a connection's extra: a form leaves what was not filled in as empty text."""
        return cls.of({name: value for name, value in plain.items() if value not in ("", None)})

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Seldon:
        """From plain values, as a connection's extra or a TOML table holds them; ``kubeconfig``, ``context`` and
        ``namespace`` are those of ``access``. With ``api`` ``core2`` they are those of ``core2.Core2``.

        Raises:
            DescriptionError: a key nobody knows, a missing one, or a value of another type.
        """
        given = dict(plain)
        api = given.pop("api", None)
        if api not in (None, "core1", "core2"):
            raise DescriptionError(f"seldon: api is {api!r}", hint="core1 (SeldonDeployment) or core2 (Experiment)")
        if api == "core2" and cls is Seldon:
            from windtunnel.serving.core2.settings import Core2

            return Core2.of(given)
        access = Access(**{name: given.pop(name, None) for name in ("kubeconfig", "context", "namespace")})
        known = {one.name: one for one in fields(cls) if one.name != "access"}
        strange = sorted(set(given) - set(known))
        if strange:
            raise DescriptionError(f"seldon: unknown {', '.join(strange)}", hint=f"known are {', '.join(known)}")
        for name, value in given.items():
            _check_type(name, value)
        missing = [name for name in ("image", "registry") if not given.get(name)]
        if missing:
            raise DescriptionError(f"seldon: {', '.join(missing)} must be set", hint="see docs/reference/seldon.md")
        if given.get("logger_mode", "all") not in ("all", "request", "response"):
            raise DescriptionError(f"seldon: logger_mode is {given['logger_mode']!r}", hint="all, request or response")
        if given.get("autoscaler", "hpa") not in ("hpa", "keda"):
            raise DescriptionError(f"seldon: autoscaler is {given['autoscaler']!r}", hint="hpa or keda")
        if given.get("collector_rows", "server") not in ("server", "logger"):
            raise DescriptionError(f"seldon: collector_rows is {given['collector_rows']!r}", hint="server or logger")
        if given.get("collector") and given.get("logger"):
            raise DescriptionError("seldon: collector and logger are set", hint="one of them: rows would come twice")
        for name in ("pull_secrets", "formerly"):
            if name in given:
                given[name] = tuple(given[name])
        if given.get("prometheus_names") is not None:
            names_of(given["prometheus_names"], _NAMES[cls.api])
        return cls(access=access, **given)


def _place(url: str) -> str:
    """Where a server is, however its address is written: TLS, user and Kubernetes' own endings make no other one."""
    split = urlsplit(url if "//" in url else f"//{url}")
    host, colon, port = split.netloc.rpartition("@")[2].lower().partition(":")
    host = host.removesuffix(".cluster.local").removesuffix(".svc")
    usual = port == {"http": "80", "https": "443"}.get(split.scheme)
    return f"{host}{'' if usual else colon + port}{split.path.rstrip('/')}"


_NUMBERS = {"poll_s": float, "route_within_s": float, "split_requests": int, "prometheus_stale_s": float}


def _check_type(name: str, value: Any) -> None:
    if name == "prometheus_labels":
        right = isinstance(value, Mapping) and all(
            isinstance(v, str) and re.fullmatch(r"[a-zA-Z_]\w*", str(k), re.ASCII) for k, v in value.items()
        )
        expected = "a table of Prometheus' labels and their values"
    elif name == "prometheus_names":
        right, expected = True, "told by its own check"
    elif name in ("labels", "images"):
        right = isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
        expected = "a table of strings"
    elif name in ("pull_secrets", "formerly"):
        right = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
        expected = "a list of names" if name == "pull_secrets" else "a list of addresses"
    elif name in _NUMBERS:
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        expected = "a number above 0"
    else:
        right = isinstance(value, str) or (value is None and name not in ("image", "registry"))
        expected = "text"
    if not right:
        raise DescriptionError(f"seldon: {name} is {value!r}", hint=f"expected {expected}")
