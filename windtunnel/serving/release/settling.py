"""Settling: traffic, registry and look log brought to one story again, after whoever told it has died.

The registry is the law. What it has committed is finished here; what it has not is closed there first, so that a holder
that comes back is refused, and then undone here. A rollout that was taken to 0 while the registry was down is told to
it as soon as it answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from windtunnel.errors import NotFoundError, ServingError, StackError, UnavailableError, WindtunnelError
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.serving.backend import Arm, Observed, Release
from windtunnel.serving.release.ending import Looks, end_log, ended_look, judged
from windtunnel.serving.release.following import follow
from windtunnel.serving.release.intent import Intent

log = logging.getLogger("windtunnel.guard")

BY = "guard"
#: A promotion without a lease is settled after so long: its holder had time to clear the intent.
INTENT_PATIENCE_S = 60.0
#: An apply that nobody goes on with is finished after so long, when it exposes nobody.
LAG_PATIENCE_S = 60.0
#: A candidate without traffic is held against the registry so often: its rollout may have been closed there.
IDLE_EVERY_S = 30.0
#: Outside a release the registry's champion is asked for so often, and gets the traffic.
HEED_EVERY_S = 10.0
#: State of a rollout whose version was committed as champion.
_COMMITTED = "promoted"
#: States in which the registry takes no commit any more.
_CLOSED = frozenset({"rolled_back", "withdrawn"})
_OVER = _CLOSED | {_COMMITTED}

Settlement = Literal["wait", "finish", "undo", "drop"]


class Backend(Protocol):
    """What settling needs of the place where traffic flows (``LocalBackend``)."""

    def observe(self, model: str) -> Observed: ...

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed: ...

    def apply(self, release: Release) -> Observed: ...

    def desired(self, model: str) -> Release | None: ...

    def lagging(self, model: str) -> bool: ...


class Registry(Protocol):
    """What settling needs of the registry (``RegistryClient``)."""

    def champion(self, model: str) -> Any: ...

    def rollout(self, rollout_id: str) -> Any: ...

    def update_rollout(self, rollout_id: str, token: int, *, state: str, reason: str) -> Any: ...

    def withdraw(self, model: str, version: str, reason: str) -> Any: ...

    def verdicts(self, model: str, *, subject: str, kind: str) -> list[Any]: ...

    def post_verdict(self, verdict: Verdict) -> str: ...


class Intents(Protocol):
    """What settling needs of ``windtunnel.serving.release.intent.Intents``."""

    def read(self, model: str) -> Intent | None: ...

    def clear(self, model: str, token: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Case:
    """A rollout whose end is open.

    Attributes:
        token: the highest that was seen with it.
        intent: its promotion was begun.
    """

    model: str
    rollout_id: str
    token: int
    candidate: str
    intent: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What the registry says: the rollout's state, and the champion's version (None: there is none)."""

    rollout: str
    champion: str | None = None


def case_of(model: str, found: Intent | None, release: Release | None) -> Case | None:
    """What may have to be settled: a promotion that was begun, or a candidate that no request reaches."""
    if found is not None:
        token = release.token if release is not None and release.rollout_id == found.rollout_id else 0
        return Case(model, found.rollout_id, max(found.token, token), found.candidate, True)
    if release is None or release.rollout_id is None or not release.candidates or release.exposed:
        return None
    return Case(model, release.rollout_id, release.token, release.candidates[0].version, False)


def settle(case: Case, observed: Observed, lease_over: bool, standing: Standing | None) -> Settlement:
    """What to do.

    - ``wait``: its holder is alive, or the registry cannot be asked.
    - ``finish``: the registry has committed; the traffic becomes its champion's for good, also after an abort.
    - ``undo``: the registry has not; the rollout is closed there first (so that a holder that comes
      back cannot commit any more), then the traffic goes back. One that is closed there already has no holder.
    - ``drop``: another rollout has the traffic by now; this one means nothing any more.

    Args:
        lease_over: the holder's lease has ended, or it has none and had time enough to finish.
        standing: None when the registry does not answer.
    """
    if observed.rollout_id is not None and observed.rollout_id != case.rollout_id:
        return "drop"
    if standing is None:
        return "wait"
    if standing.rollout in _CLOSED:
        return "undo"
    if not lease_over and observed.aborted is None:
        return "wait"
    return "finish" if standing.rollout == _COMMITTED else "undo"


def lawful(release: Release, champion: str | None) -> Release | None:
    """``release`` with the registry's champion alone; None when that version is none of its arms.

    The same release when it is so already. A later stage of the same rollout, so that it is taken after an abort, and
    nothing earlier after it.
    """
    arm = next((arm for arm in release.arms() if arm.version == champion), None)
    if champion is not None and arm is None:
        return None
    final = None if arm is None else replace(arm, weight=100)
    if (release.champion, release.candidates) == (final, ()):
        return release
    return replace(
        release,
        champion=final,
        candidates=(),
        lease_until=None,
        mirror=0,
        audience=None,
        stage=release.stage + 1,
    )


class Settler:
    """Settles one home's rollouts.

    Args:
        connect: makes a registry client when one is needed; raises UnavailableError (or StackError) when it cannot.
        act: told what was done: model, action, reason.
        errors: by model, why something waits; kept up to date.
        monotonic: seconds, from a clock that nobody sets.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        backend: Backend,
        intents: Intents,
        looks: Callable[[str], Looks],
        connect: Callable[[], Registry],
        *,
        act: Callable[[str, str, str], None],
        errors: dict[str, str],
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._intents = intents
        self._looks = looks
        self._connect = connect
        self._registry: Registry | None = None
        self._act = act
        self._errors = errors
        self._monotonic = monotonic
        self._wall = wall
        self._since: dict[str, tuple[Case, float]] = {}  # when a case was first seen
        self._asked: dict[str, float] = {}
        self._told: dict[str, Case] = {}
        self._deaf: set[str] = set()
        self._lag: dict[str, tuple[Release, float]] = {}
        self._heeded: dict[str, float] = {}
        self._watched: set[str] = set()  # rollouts whose first watch is known to have ended well

    def deaf(self, model: str) -> bool:
        """The registry did not answer when it was last asked about ``model``."""
        return model in self._deaf

    def tend(self, model: str, overdue: str | None) -> bool:
        """Settle what there is to settle; False while that must wait for the registry.

        Args:
            overdue: why the lease is over; None while it lasts, or when there is none.
        """
        release = self._backend.desired(model)
        self._catch_up(model, release)
        case = case_of(model, self._intents.read(model), release)
        if case is None and release is not None:
            return self._condemned(model, release) and self._heed(model)
        if case is None or (self._told.get(model) == case and not case.intent):
            self._since.pop(model, None)
            self._deaf.discard(model)
            return release is None or self._heed(model)
        now = self._monotonic()
        if self._since.get(model, (None, 0.0))[0] != case:
            self._since[model] = (case, now)
        waited = now - self._since[model][1]
        observed = self._backend.observe(model)
        patient = observed.lease_until is not None or waited < INTENT_PATIENCE_S
        lease_over = overdue is not None or (case.intent and not patient)
        due = lease_over or observed.aborted is not None
        if not due and now - self._asked.get(model, -IDLE_EVERY_S) < IDLE_EVERY_S:
            return True
        record, standing = self._ask(case)
        action = settle(case, observed, lease_over, standing)
        if action == "drop":
            self._intents.clear(model, case.token)
            self._act(model, "drop", f"intent of rollout {case.rollout_id}: {observed.rollout_id} has the traffic")
        elif action == "finish":
            self._finish(case, standing, release)
        elif action == "undo":
            self._undo(case, observed, record, standing, overdue)
        if action != "wait":
            self._told[model] = case
        return standing is not None or not due

    def _finish(self, case: Case, standing: Standing | None, release: Release | None) -> None:
        """``release``: as it was before the registry was asked; whoever has begun another one since is left alone."""
        assert standing is not None
        if self._follow(case.model, release, standing.champion):
            self._act(case.model, "finish", f"the registry has promoted version {case.candidate}")
            # A first release may have been withdrawn since the registry was asked, which was not there to be refused.
            # While the intent is kept, the next round settles it by the newer word.
            _, now = self._ask(case)
            if now is None or now.rollout != standing.rollout:
                return
        self._intents.clear(case.model, case.token)

    def _undo(
        self, case: Case, observed: Observed, record: Any, standing: Standing | None, overdue: str | None
    ) -> None:
        assert standing is not None
        why = observed.aborted or overdue or "its holder is gone"
        never = f"promotion of version {case.candidate} was never committed: "
        if case.intent:
            why = never + why.removeprefix(never)
        elif standing.rollout in _CLOSED and observed.aborted is None:
            why = f"the registry has the rollout as {standing.rollout}"
        ended = ended_look(self._looks(case.model).read(case.rollout_id))
        if ended is not None and ended["decision"]["action"] in ("roll_back", "withdraw"):
            why = str(ended["decision"]["reason"])
        if standing.rollout not in _CLOSED:
            # First the registry: from here on a holder that comes back is refused. If it was quicker than
            # we, the registry refuses us, and the next round finishes.
            state = "withdrawn" if record.champion is None else "rolled_back"
            # With the registry's own token: who took it over has not come to touch the traffic.
            token = max(case.token, int(record.token))
            closed = self._client().update_rollout(case.rollout_id, token, state=state, reason=why)
            # Of two guards the first one's word: their verdicts are one.
            why = str(closed.reason or why)
        elif observed.aborted is not None and record.reason:
            why = str(record.reason)
        if observed.aborted is None:
            self._backend.abort(case.model, why, BY, token=case.token)
        release = self._backend.desired(case.model)
        mine = release is not None and release.rollout_id in (None, case.rollout_id)
        if mine and release and release.champion is not None and release.champion.version == case.candidate:
            self._follow(case.model, release, standing.champion)
        if standing.rollout not in _CLOSED or observed.aborted is not None:
            self._witness(case, record, why, release)
        self._intents.clear(case.model, case.token)
        if standing.rollout not in _CLOSED or observed.aborted is None:
            self._act(case.model, "undo" if case.intent else "tell", why)

    def _catch_up(self, model: str, release: Release | None) -> None:
        """Finish an apply that died between what is wanted and the router, when what is wanted exposes nobody.

        Its candidates are under no lease any more, and the router still has what they had before. One that
        exposes somebody has a lease, and ends with it.
        """
        if release is None or release.exposed or not self._backend.lagging(model):
            self._lag.pop(model, None)
            return
        if self._lag.get(model, (None, 0.0))[0] != release:
            self._lag[model] = (release, self._monotonic())
        if self._monotonic() - self._lag[model][1] >= LAG_PATIENCE_S:
            self._backend.apply(release)
            self._act(model, "catch up", f"the router had not been told what rollout {release.rollout_id} wants")

    def _condemned(self, model: str, release: Release) -> bool:
        """A first release whose watch has found harm, and whose release did not come to withdraw it.

        It is champion and holds no lease, so nothing else ends it (ROL-10).
        """
        arm, rollout_id = release.champion, release.rollout_id
        if arm is None or rollout_id is None or rollout_id in self._watched:
            return True
        last = ended_look(self._looks(model).tail(rollout_id))
        # One whose traffic was taken already is condemned, whatever its gate has seen.
        if last is None and arm.weight:
            return True
        if last is not None and last["decision"]["action"] != "withdraw" and arm.weight:
            if last["decision"]["state"]["champion"] is None and not self._tell_watched(model, release):
                return False
            self._watched.add(rollout_id)
            return True
        case = Case(model, rollout_id, release.token, arm.version, False)
        if self._since.get(model, (None, 0.0))[0] != case:
            self._since[model] = (case, self._monotonic())
        if self._monotonic() - self._since[model][1] < INTENT_PATIENCE_S:
            return True  # a release that lives does it by itself
        harmful = last is not None and last["decision"]["action"] == "withdraw"
        why = str(last["decision"]["reason"]) if last and harmful else "its release took its traffic and died"
        if arm.weight:
            # Users first. The version stays named until the registry knows.
            release = replace(release, champion=replace(arm, weight=0), stage=release.stage + 1)
            self._backend.apply(release)
            self._act(model, "withdraw", why)
        record, standing = self._ask(case)
        if standing is None:
            return False
        registry = self._client()
        registry.withdraw(model, arm.version, why)
        self._judge(model, arm, record, why, last)
        final = lawful(release, None)
        assert final is not None
        self._backend.apply(replace(final, keep_warm_s=0.0))
        return True

    def _heed(self, model: str) -> bool:
        """Outside a release the traffic is the registry's champion's, whoever made it champion there (REG-6).

        What is wanted is read before the registry is asked, and never after: between the two a release may have begun.
        """
        now, release = self._monotonic(), self._backend.desired(model)
        if release is None or release.exposed or now - self._heeded.get(model, -HEED_EVERY_S) < HEED_EVERY_S:
            return True
        self._heeded[model] = now
        try:
            registry = self._client()
            if release.rollout_id is not None and str(registry.rollout(release.rollout_id).state) not in _OVER:
                return True
            champion = registry.champion(model)
        except (UnavailableError, StackError, NotFoundError):
            self._registry = None
            return True
        if champion is None or (release.champion is None and not release.candidates):
            return True
        foreign = getattr(self._backend, "foreign", None)
        if release.rollout_id is None and foreign is not None and foreign(model):
            return True  # another registry's model of the same name, and no rollout to know it by
        if follow(self._backend, release, champion):
            self._act(model, "follow", f"the registry has version {champion.version} as champion")
        return True

    def _follow(self, model: str, release: Release | None, champion: str | None) -> bool:
        """Give the traffic of ``release`` to the registry's champion; False when it has it already."""
        if release is None and champion is None:
            return False  # nothing serves, and nothing should
        final = None if release is None else lawful(release, champion)
        if final is None:
            raise ServingError(
                f"the registry has version {champion} of model {model!r} as champion, which has no traffic here",
                hint="deploy it: release it again, or promote the version that has the traffic",
            )
        if final != release:
            self._backend.apply(final)
            return True
        return False

    def _tell_watched(self, model: str, release: Release) -> bool:
        """Tell the registry that a first watch has ended well, should its gate not have come to it: until then no
        other rollout of the model begins. False while it cannot be told."""
        try:
            self._client().update_rollout(
                str(release.rollout_id), release.token, state=_COMMITTED, reason="its first watch ended well"
            )
        except (UnavailableError, StackError) as error:
            self._registry = None
            self._errors[model] = f"the end of the first watch waits for the registry: {error.message}"
            return False
        except WindtunnelError as error:  # it knows better: withdrawn meanwhile, or another holder's
            log.warning("model %s: the registry has the first watch otherwise: %s", model, error.message)
        return True

    def _witness(self, case: Case, record: Any, why: str, release: Release | None) -> None:
        """The end in the look log, and the verdict, unless a release has said both."""
        looks = self._looks(case.model)
        # Of several, the promotion that was begun may be any one's.
        first = str(record.version) if record.beside else case.candidate
        last = end_log(
            looks,
            case.rollout_id,
            record.plan,
            champion=record.champion,
            candidate=first,
            beside=record.beside,
            reason=why,
            now=self._wall(),
            token=case.token,
        )
        candidates = {first, *record.beside}
        for arm in release.arms() if release else ():
            if arm.version in candidates:
                self._judge(case.model, arm, record, why, last)

    def _judge(self, model: str, arm: Arm, record: Any, why: str, last: dict[str, Any] | None) -> None:
        registry, opened = self._client(), float(record.opened_at)
        if judged(registry, model, arm.digest, opened):
            return
        own = (last.get("arms") or {}).get(arm.version) if last else None
        decision = (own or last)["decision"] if last else {}
        harmful = decision.get("action") in ("roll_back", "withdraw")
        registry.post_verdict(
            Verdict(
                model=model,
                kind=Kind.ROLLOUT,
                outcome=Outcome(decision["outcome"]) if harmful else Outcome.INCONCLUSIVE,
                reason=str(decision["reason"]) if harmful else why,
                subject=arm.digest,
                version=arm.version,
                window=(opened, float(last["at"]) if last else opened),
                correlation_id=record.correlation_id,
            )
        )

    def _ask(self, case: Case) -> tuple[Any, Standing | None]:
        """(the registry's rollout, what it says); None when it does not answer."""
        self._asked[case.model] = self._monotonic()
        try:
            registry = self._client()
            record = registry.rollout(case.rollout_id)
            champion = registry.champion(case.model)
        except NotFoundError as error:
            told = f"rollout {case.rollout_id} is not in this registry, whoever has it settles it: {error.message}"
            if self._errors.get(case.model) != told:
                log.warning("model %s: %s", case.model, told)
            self._errors[case.model] = told
            return None, None
        except (UnavailableError, StackError) as error:
            log.warning("the registry cannot be asked about model %s: %s", case.model, error)
            self._registry = None  # its address may be another one when it comes back
            self._deaf.add(case.model)
            self._errors[case.model] = (
                f"the rollout of version {case.candidate} waits for the registry: {error.message}"
            )
            return None, None
        self._deaf.discard(case.model)
        return record, Standing(str(record.state), None if champion is None else str(champion.version))

    def _client(self) -> Registry:
        if self._registry is None:
            self._registry = self._connect()
        return self._registry
