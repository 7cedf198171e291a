"""Every error Windtunnel raises on purpose, in one tree.

    WindtunnelError
    ├── DescriptionError      the description of a model is wrong (file, line, found, expected)
    ├── DataError             the data cannot be used: never retried
    ├── TrainingError         the training code failed
    │   ├── EntryPointError       it does not exist, or does not have the right shape
    │   ├── ResourceError         it ran out of memory, disk or time: not retried before resources change
    │   └── TransientError        something outside it failed: retried
    ├── IntegrityError        bytes are not the bytes that were registered
    ├── RegistryError         the registry answered, and the answer is no
    │   ├── RefusedError          a policy refuses; ``missing`` says what would be needed
    │   └── NotFoundError         there is no such model, version or rollout
    ├── UnavailableError      a server did not answer
    ├── ClusterError          the Kubernetes API answered, and the answer is no
    │   ├── AbsentError           there is no such object, kind or namespace
    │   ├── ConflictError         somebody changed the object meanwhile
    │   ├── ExpiredError          what was asked for is too old to be continued
    │   └── ForbiddenError        who asks may not, is not known any more, or has no quota left
    ├── ServingError          the serving backend could not reach the desired state
    │   ├── FencedError           another holder, or an abort, has taken over this rollout
    │   └── NotReadyError         a model server did not become ready
    └── StackError            the embedded stack: ports, disk, processes

A message names the thing, says what was expected, and says what to do.
"""

from __future__ import annotations


class WindtunnelError(Exception):
    """Base of the tree.

    Args:
        message: what is wrong with which thing.
        hint: what the reader can do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class DescriptionError(WindtunnelError):
    """The description of a model does not say something that can be done."""


class DataError(WindtunnelError):
    """The data is missing, unreadable, or not what the description says. Never retried."""


class TrainingError(WindtunnelError):
    """The training code failed by itself."""


class EntryPointError(TrainingError):
    """The training entry point does not exist or does not have the promised shape."""


class ResourceError(TrainingError):
    """Training ran out of memory, disk or time. Retrying without more would only repeat it."""


class TransientError(TrainingError):
    """Something outside the training code failed. Worth another try."""


class IntegrityError(WindtunnelError):
    """The bytes at hand are not the bytes that were registered."""


class RegistryError(WindtunnelError):
    """The registry answered, and the answer is no.

    Args:
        code: stable error code of the refusal (``WT_...``), the same for every client.
    """

    def __init__(self, message: str, *, hint: str | None = None, code: str = "WT_REGISTRY") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class RefusedError(RegistryError):
    """A policy refuses the change; ``missing`` lists what it would need."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str = "WT_REFUSED",
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.missing = missing


class NotFoundError(RegistryError):
    """There is no such model, version or rollout."""


class UnavailableError(WindtunnelError):
    """A server did not answer in time."""


class ClusterError(WindtunnelError):
    """The Kubernetes API refused a request, or what was sent is no object of that kind."""


class AbsentError(ClusterError):
    """There is no such object, kind or namespace in the cluster."""


class ConflictError(ClusterError):
    """The object is not what it was when it was read: read it again, and decide again."""


class ExpiredError(ClusterError):
    """The cluster has forgotten the state a list or watch wanted to go on from: begin again."""


class ForbiddenError(ClusterError):
    """Whoever asks has no permission, no valid credentials, or no quota left."""


class ServingError(WindtunnelError):
    """The serving backend could not bring the world to the desired state."""


class FencedError(ServingError):
    """A newer holder, or an abort, has taken over: this holder must stop writing."""


class NotReadyError(ServingError):
    """A model server did not become ready within its time limit."""


class StackError(WindtunnelError):
    """The embedded stack cannot start, stop or go on."""


def may_pass(error: BaseException) -> bool:
    """Whether the same question may be answered later: who was asked is away, or refuses who is asking. Credentials
    expire and are renewed, and what knows them may be away. A backend's own error has the API's refusal as its cause.
    """
    return any(isinstance(one, (UnavailableError, ForbiddenError)) for one in (error, error.__cause__))
