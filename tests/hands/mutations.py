"""The guards of a release's hands, each of which can be taken out of the code.

A guard is one expression in one function. It is replaced in the function's own source, so the table says exactly what
the code says: an expression that is no longer there is an error, not a test that passes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """One guard.

    Attributes:
        where: ``module:qualified.name`` of the function.
        guard: the expression, or the statement when ``instead`` is ``pass``.
        instead: what stands there without the guard.
        also: further modules that have the function under its name.
    """

    name: str
    where: str
    guard: str
    instead: str = "False"
    also: tuple[str, ...] = ()


DESIRED, OPERATORS = "windtunnel.serving.desired", "windtunnel_airflow.operators"
PROMOTE, UNDO, OUTCOME = f"{OPERATORS}.promote", f"{OPERATORS}.undo", f"{OPERATORS}.outcome"
SETTLING, ENDING = "windtunnel.serving.release.settling", "windtunnel.serving.release.ending"

MUTATIONS = (
    # where the traffic lives
    Mutation("an older token is refused", f"{DESIRED}:accept", "release.token < old.token"),
    Mutation(
        "an earlier stage is refused", f"{DESIRED}:accept",
        "release.token == old.token and release.rollout_id == old.rollout_id and (release.stage < old.stage)",
    ),
    Mutation("an aborted rollout is refused", f"{DESIRED}:accept", "state.aborted and same and (not follows)"),
    Mutation(
        "the registry's champion is taken after an abort", f"{DESIRED}:accept",
        "not release.candidates and release.stage > old.stage",
    ),
    Mutation("only its holder renews a lease", f"{DESIRED}:renew", "token != state.release.token"),
    Mutation("an aborted rollout is not renewed", f"{DESIRED}:renew", "state.aborted"),
    Mutation(
        "a holder ends no later holder's rollout", f"{DESIRED}:abort", "token is not None and token < release.token"
    ),
    Mutation("weights sum to 100 or 0", f"{DESIRED}:routed", "routing.assign(state.slots, state.wanted)",
             "routing.assign(state.slots, state.wanted)[:90]"),
    # the serving fake's own, as ``LocalBackend`` and ``artifacts`` have them
    Mutation("content is verified", "fakes:FakeServing._start", "self.store.digests.get(arm.version) != arm.digest"),
    # leases and the guard
    Mutation("a lease ends", "windtunnel.serving.release.lease:over_by", "over < 0", "True",
             ("windtunnel.serving.release.guard",)),
    Mutation("an exposed candidate is under a lease", "windtunnel.serving.release.lease:leased",
             "release and exposed", "False", ("windtunnel.serving.release.guard",)),
    Mutation("a lease is a duration, not a time", "windtunnel.serving.release.lease:over_by",
             "now.monotonic - seen.at.monotonic", "now.wall - seen.at.wall", ("windtunnel.serving.release.guard",)),
    Mutation("a promotion does not outlive its grace", "windtunnel.serving.release.guard:Guard._watch_one",
             "promoting and over < SETTLE_GRACE_S and (not self._settler.deaf(model))", "promoting"),
    Mutation("a promotion is settled", f"{SETTLING}:case_of", "found is not None"),
    Mutation("what is committed is finished", f"{SETTLING}:settle", "standing.rollout == _COMMITTED"),
    Mutation("what is not committed is not finished", f"{SETTLING}:settle", "standing.rollout == _COMMITTED", "True"),
    Mutation("a living holder is not settled", f"{SETTLING}:settle", "not lease_over and observed.aborted is None"),
    Mutation("the registry is told later", f"{SETTLING}:case_of",
             "release is None or release.rollout_id is None or (not release.candidates) or release.exposed", "True"),
    Mutation("harm in a first watch is acted on", f"{SETTLING}:Settler._condemned",
             "last['decision']['action'] != 'withdraw'", "True"),
    # intents
    Mutation("promotion begins with an intent", f"{PROMOTE}:PromoteOperator._commit",
             "intents.begin(model, rollout_id=claim['rollout_id'], token=token, candidate=claim['version'], "
             "champion=before)", "pass"),
    # operators
    Mutation("a commit is found again", f"{OPERATORS}.announcing:champion_among",
             "version in versions_of(claim)", "False", (PROMOTE, UNDO, OUTCOME)),
    Mutation("what is committed is not undone", f"{UNDO}:_Undo._close",
             "str(self.hook.registry.rollout(claim['rollout_id']).state) != 'promoted'", "True"),
    Mutation("a refused version loses its traffic", f"{PROMOTE}:PromoteOperator._commit",
             "self.hook.backend().abort(model, why, claim['holder'], token=token)", "pass"),
    Mutation("traffic goes back", f"{UNDO}:_Undo._traffic_back",
             "self.hook.backend().abort(claim['model'], reason, claim['holder'], token=int(claim['token']))", "pass"),
    Mutation("a way back tries again", f"{UNDO}:_Undo.execute",
             "TransientError(f'not undone yet: {error.message}')", "AirflowFailException('no')"),
    Mutation("one way back, not both", f"{UNDO}:_Undo._undo", "bool(claim['first']) != self.first"),
    Mutation("a late champion is announced", f"{OUTCOME}:OutcomeOperator.execute",
             'announce_by_alias(self, context, claim["model"], "champion", champion_event(claim).extra())', "pass"),
    Mutation("one verdict for one end", f"{ENDING}:judged", "posted.verdict.window[0] == opened_at", "False",
             ("windtunnel.serving.release.settling",)),
    # the gate and its log
    Mutation("a gate that has answered does not look again", "windtunnel_airflow.gatekeeping:look",
             "(before := settled(watch, looks)) is not None"),
    Mutation("a look goes on from the newest", "fakes:FakeLooks.append", "(mine[-1] if mine else None) is not after"),
    Mutation("the log has the end", f"{SETTLING}:Settler._witness", "end_log", "(lambda *_, **__: None)"),
    # the registry's own, as ``windtunnel_mlflow.service`` has them
    Mutation("a promotion expects its champion", "fakes:FakeRegistry._expect",
             "champion is not None and champion != expected"),
    Mutation("an older token writes nothing in the registry", "fakes:FakeRegistry._fence", "token != current.token"),
    Mutation("an ended rollout takes no commit", "fakes:FakeRegistry.promote", "current.ended"),
)  # fmt: skip


@contextmanager
def without(mutation: Mutation) -> Iterator[None]:
    """The code without one guard.

    Raises:
        LookupError: the guard is not where the table says.
    """
    module_name, _, path = mutation.where.partition(":")
    module = importlib.import_module(module_name)
    *owners, name = path.split(".")
    owner: Any = module
    for one in owners:
        owner = getattr(owner, one)
    original = inspect.unwrap(inspect.getattr_static(owner, name))
    changed = _changed(original, mutation)
    places = [owner, *(importlib.import_module(other) for other in mutation.also)]
    before = [place.__dict__[name] for place in places]
    for place in places:
        setattr(place, name, changed)
    try:
        yield
    finally:
        for place, kept in zip(places, before, strict=True):
            setattr(place, name, kept)


def _changed(original: FunctionType, mutation: Mutation) -> FunctionType:
    tree = ast.parse(textwrap.dedent(inspect.getsource(original)))
    wanted = ast.unparse(ast.parse(mutation.guard))
    found = 0

    class Cut(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> Any:
            nonlocal found
            if mutation.instead == "pass" and ast.unparse(node) == wanted:
                found += 1
                return ast.Pass()
            return self.generic_visit(node)

        def visit_If(self, node: ast.If) -> Any:
            nonlocal found
            if mutation.instead != "pass" and ast.unparse(node.test) == wanted:
                found += 1
                node.test = ast.parse(mutation.instead, mode="eval").body
            return self.generic_visit(node)

        def visit_Attribute(self, node: ast.Attribute) -> Any:
            return ast.NodeTransformer.generic_visit(self, node)  # a bare name is a guard only as a whole condition

        def generic_visit(self, node: ast.AST) -> Any:
            nonlocal found
            if mutation.instead != "pass" and isinstance(node, ast.expr) and ast.unparse(node) == wanted:
                found += 1
                return ast.parse(mutation.instead, mode="eval").body
            return super().generic_visit(node)

    tree = ast.fix_missing_locations(Cut().visit(tree))
    if not found:
        raise LookupError(f"{mutation.name}: {mutation.where} has no {wanted!r}")
    # ``super()`` and other cells of the class around it: compile inside a function that has them.
    made: dict[str, Any] = {}
    exec(compile(tree, f"<{mutation.where} without a guard>", "exec"), original.__globals__, made)
    return made[original.__name__]  # type: ignore[no-any-return]
