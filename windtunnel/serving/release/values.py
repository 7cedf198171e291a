"""Numbers of value gates: a figure joined by prediction id, or what a team's own function returns (MON-12).

Both end as losses between 0 (the best a value can be) and 1 (the worst), so that the gate's test knows their bounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from windtunnel.errors import DataError, UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from windtunnel.home import Home
    from windtunnel.rollout import Plan, QualityNumbers
    from windtunnel.spec import Rollout

    FloatArray = np.ndarray[Any, np.dtype[np.float64]]

#: A look waits this long (seconds) for a function; one that takes longer is met again at the next look, ...
WAIT_S = 2.0
#: ... and one that has not returned after this long is said to hang.
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Value:
    """Where a value gate's numbers come from; the serving side of ``spec.Gate``.

    Attributes:
        gate: name of the gate in the plan.
        figure: name of a figure in the label store; None when ``source`` names a function.
        low, high: bounds; what lies outside counts as the bound.
    """

    gate: str
    figure: str | None
    source: str | None
    low: float
    high: float
    better: Literal["higher", "lower"]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Value:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Context:
    """What a team's function is told.

    Attributes:
        model: its name; ``champion`` and ``candidate``: the versions compared.
        start, end: the window, seconds since the epoch: from the rollout's start until now, the same for both arms.
        home: paths of this house (``home.labels``, ``home.predictions`` ...).
    """

    model: str
    champion: str
    candidate: str
    start: float
    end: float
    home: Home


def values_of(rollout: Rollout, plan: Plan) -> list[Value]:
    """The value gates of a description, by their names in its plan."""
    told = [gate for gate in rollout.gates if gate.metric == "value"]
    named = [gate.name for gate in plan.gates if gate.metric == "value"]
    return [
        Value(name, gate.figure, gate.source, gate.low, float(gate.high or 0.0), gate.better)
        for name, gate in zip(named, told, strict=False)  # a first release has none
    ]


def losses(value: Value, values: ArrayLike) -> FloatArray:
    """Values as losses in [0, 1]: 0 is the better bound, 1 the worse; NaN stays NaN and is counted as invalid.

    Args:
        values: shape (n,), numbers; infinite ones count as the bound.

    Raises:
        DataError: they are not numbers, or not in one row.
    """
    import numpy as np

    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the values of gate {value.gate} are no numbers: {error}") from error
    if found.ndim != 1:
        raise DataError(f"the values of gate {value.gate} have shape {found.shape}, expected one number per request")
    share = (np.clip(found, value.low, value.high) - value.low) / (value.high - value.low)
    result: FloatArray = 1 - share if value.better == "higher" else share
    return result


def numbers(value: Value, champion: ArrayLike, candidate: ArrayLike) -> QualityNumbers:
    """What the gate is given.

    Raises: like ``losses``.
    """
    import numpy as np

    from windtunnel.rollout import quality_numbers

    # Sorted, so that the sums do not depend on the order in which rows arrived.
    arms = (np.sort(losses(value, champion)), np.sort(losses(value, candidate)))
    found = quality_numbers(*arms, 1.0, loss="value")
    assert found is not None  # there is a bound
    return found


class _Call:
    """One call of a team's function, in a thread of its own: what hangs or is slow holds up nobody else."""

    def __init__(self, value: Value, context: Context) -> None:
        self.began = time.monotonic()
        self.found: QualityNumbers | None = None
        self.error: str | None = None
        self.thread = threading.Thread(target=self._run, args=(value, context), name=f"value-{value.gate}", daemon=True)
        self.thread.start()

    def _run(self, value: Value, context: Context) -> None:
        from windtunnel.evaluation import code

        try:
            function = code.load(str(value.source))
            self.found = numbers(value, *_arms(value, function(context), context))
        except BaseException as error:  # whatever it raises, SystemExit too, is an answer about this gate alone
            self.error = f"{value.source} raised {type(error).__name__}: {error}"


def _arms(value: Value, returned: Any, context: Context) -> tuple[Any, Any]:
    if isinstance(returned, Mapping):
        keys = {"champion", "candidate"}
        if set(returned) == keys:
            return returned["champion"], returned["candidate"]
        if set(returned) == {context.champion, context.candidate}:
            return returned[context.champion], returned[context.candidate]
        raise DataError(f"it returned a dict with keys {sorted(map(str, returned))}, expected {sorted(keys)}")
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        return returned[0], returned[1]
    raise DataError(
        f"it returned {type(returned).__name__}, expected two arrays: the champion's values and the candidate's"
    )


class Functions:
    """Calls of teams' functions: at most one under way per key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls: dict[Any, _Call] = {}
        self._lock = threading.Lock()
        self._clock = clock

    def ask(self, key: Any, value: Value, context: Context) -> QualityNumbers:
        """Numbers as of ``context.end``, or of an earlier look whose call has ended since.

        Raises:
            UnavailableError: the function raised, returned something else, or has not returned yet.
        """
        with self._lock:
            call = self._calls.get(key)
            fresh = call is None
            if call is None:
                call = self._calls[key] = _Call(value, context)
        if fresh:
            call.thread.join(WAIT_S)
        if call.thread.is_alive():
            took = self._clock() - call.began
            what = "has not returned" if took < LIMIT_S else f"hangs: it must return within {LIMIT_S:.0f} s and has not"
            raise UnavailableError(f"{value.source} {what} after {took:.0f} s")
        with self._lock:
            if self._calls.get(key) is call:
                del self._calls[key]
        if call.found is None:
            raise UnavailableError(call.error or f"{value.source} ended without a word")
        return call.found


#: This process's.
functions = Functions()
