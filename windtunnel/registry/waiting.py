"""What a release does about its policy: go on, wait, ask a person, or end. Pure.

Policy is asked three times on a version's way. Before its rollout is opened: ``staging``. Before it gets any traffic:
``production``, or ``first`` where there is no champion, all but the evidence that the rollout itself brings. And when
it is promoted, ``production`` again in whole, by the registry itself: an approval that ran out or was withdrawn
meanwhile is seen there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from windtunnel.registry.approvals import question

if TYPE_CHECKING:
    from windtunnel.registry.records import Explanation

Action = Literal["go", "wait", "ask", "end"]

#: The evidence that a release itself brings; its absence is why the release runs.
OWN = "rollout"
_OWN_SENTENCE = re.compile(rf"\bkind {OWN}\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person is asked to approve: this content, on this evidence, for this place."""

    model: str
    version: str
    to: str
    digest: str
    evidence: str

    @property
    def subject(self) -> str:
        """The headline of the question."""
        return question("approve", self.to, self.model, self.version, self.digest, self.evidence)

    def to_dict(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """From plain values."""
        return cls(**{name: str(plain[name]) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Next:
    """What to do now.

    Attributes:
        action: ``go``; ``wait`` for what is missing; ``ask`` a person, for an approval is all that some version
            lacks; ``end``: somebody rejected one.
        missing: one sentence per thing that is missing, or the rejections.
        asked: what to ask about.
    """

    action: Action
    missing: tuple[str, ...] = ()
    asked: Asked | None = None


def still_missing(explanation: Explanation) -> list[str]:
    """What policy misses beyond the evidence that the release itself will bring."""
    return [text for _, text in _unmet(explanation)]


def decide(model: str, found: Sequence[tuple[str, Explanation]], held: Iterable[str] = ()) -> Next:
    """What a release does.

    A person is asked last: when all other evidence is there to be looked at, so that nobody approves half of it and
    no question is overtaken by what it could not show.

    Args:
        found: each version of the release with its explanation.
        held: what else keeps the release, such as a pause.
    """
    rejected = [sentence for version, one in found for sentence in rejections(model, version, one)]
    if rejected:
        return Next("end", tuple(rejected))
    missing: list[str] = []
    asked: Asked | None = None
    for version, explanation in found:
        lines = _unmet(explanation)
        named = f"version {version}: " if len(found) > 1 else ""
        missing += [f"{named}{text}" for _, text in lines]
        alone = bool(lines) and all(code == "approvals" for code, _ in lines)
        if asked is None and alone and explanation.digest and explanation.evidence:
            asked = Asked(model, version, explanation.to, explanation.digest, explanation.evidence)
    missing += held
    if asked is not None:
        return Next("ask", tuple(missing), asked)
    return Next("wait", tuple(missing)) if missing else Next("go")


def rejections(model: str, version: str, explanation: Explanation) -> list[str]:
    """Who rejected it and why, where a rejection stands."""
    if explanation.allowed:
        return []
    said = {one["by"]: one["reason"] for one in explanation.approvals if one["decision"] == "reject" and one["counts"]}
    who = [str(line["subject"]) for line in explanation.requirements if line["code"] == "rejected" and not line["met"]]
    return [
        f"version {version} of {model} was rejected by {name}: {said.get(name, 'no reason is known')}" for name in who
    ]


def _unmet(explanation: Explanation) -> list[tuple[str, str]]:
    """(code, sentence) of what is missing, less the release's own evidence."""
    if explanation.allowed:
        return []
    if not explanation.requirements:  # a registry that only tells sentences
        return [("", text) for text in explanation.missing if not _OWN_SENTENCE.search(text)]
    return [
        (str(line["code"]), str(line["text"]))
        for line in explanation.requirements
        if not line["met"] and not (line["code"] in ("evidence", "age") and line["subject"] == OWN)
    ]


def body(asked: Asked, explanation: Explanation, missing: Sequence[str]) -> str:
    """What a person reads under the question: the evidence, and what else may be done. Markdown."""
    verdicts = [f"- **{one['kind']}**: {one['outcome']}{_after(one['reason'])}" for one in explanation.verdicts]
    said = [
        f"- {one['decision']} by {one['by']}{_after(one['reason'])}"
        + ("" if one["counts"] else f" (does not count: {one['why']})")
        for one in explanation.approvals
    ]
    lines = [
        f"May version **{asked.version}** of **{asked.model}** go to **{asked.to}**? Its release waits for: "
        f"{'; '.join(missing)}.",
        "",
        f"Content `{asked.digest}`",
        "",
        f"Evidence `{asked.evidence}`, under policy {explanation.policy or 'as built in'}:",
        "",
        *(verdicts or ["- none"]),
    ]
    if said:
        lines += ["", "What people said:", "", *said]
    lines += [
        "",
        "*Approve* and *Reject* count as your own word, if you may approve: the registry asks Airflow who answered."
        " Without Airflow:",
        "",
        f"    windtunnel registry explain {asked.model} {asked.version} --to {asked.to}",
        f'    windtunnel registry approve {asked.model} {asked.version} --to {asked.to} --reason "..."',
    ]
    return "\n".join(lines)


def _after(reason: Any) -> str:
    return f": {reason}" if reason else ""
