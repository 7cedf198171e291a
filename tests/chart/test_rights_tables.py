"""The tables of rights in the page on permissions are made of the rendered chart, row by row (DEMAND OPS-4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from windtunnel.kube import rights

PAGE = "docs/reference/kubernetes-permissions.md"
#: Ends of the roles' names, in the page's order: whose they are, in the page's words.
WHOSE = {
    "-training": "Airflow's workers, scheduler and triggerer (`training.airflowServiceAccounts`)",
    "-releases": "Airflow's workers and triggerer (`releases.airflowServiceAccounts`)",
    "-page": "Airflow's API server (`releases.pageServiceAccounts`)",
    "-guard": "the guard",
}
CORE2 = {"releases": {"api": "core2"}, "guard": {"api": "core2"}}
CLUSTER = {"training": {"readNodes": True, "readRuntimes": True}}
#: What each right is for.
PURPOSES = {
    (name, one.group, one.resource): one.purpose
    for name, part in (rights.PARTS | rights.PARTS_CORE2).items()
    for one in part.rights
}


def granted(
    objects: list[dict[str, Any]], kind: str, training: bool = True
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(end of the role's name, its part, one rule), each role bound to somebody; with or without the trainings'."""
    bound = {one["roleRef"]["name"] for one in objects if one["kind"] == f"{kind}Binding" and one["subjects"]}
    for end in WHOSE:
        if end == "-training" and not training:
            continue
        for role in objects:
            name = role["metadata"]["name"] if role["kind"] == kind else ""
            if not name.endswith(f"{end}-nodes-ml" if kind == "ClusterRole" else end):
                continue
            assert name in bound, name
            for rule in role["rules"]:
                yield end, end.removeprefix("-"), rule


def table(objects: list[dict[str, Any]], kind: str = "Role", suffix: str = "") -> str:
    """As the page has it.

    Args:
        suffix: of the part's name in ``windtunnel.kube.rights``.
    """
    lines, last = ["| who | resource | verbs | what for |", "|---|---|---|---|"], ""
    for end, part, rule in granted(objects, kind, training=not suffix):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found = PURPOSES.get((f"{part}{suffix}", group, resource)) or PURPOSES[part, group, resource]
                verbs = ", ".join(f"`{verb}`" for verb in sorted(rule["verbs"]))
                again = end == last and end != "-guard"
                lines.append(f"| {'the same' if again else WHOSE[end]} | `{resource}` | {verbs} | {found} |")
                last = end
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("heading", "more", "kind", "suffix"),
    [
        ("Rights", {}, "Role", ""),
        ("Rights where Seldon Core 2 serves", CORE2, "Role", "-core2"),
        ("Rights in the whole cluster", CLUSTER, "ClusterRole", ""),
    ],
    ids=["core1", "core2", "cluster"],
)
def test_the_page_has_the_tables_that_the_chart_makes(
    heading: str, more: dict[str, Any], kind: str, suffix: str, helpers: Any
) -> None:
    objects = helpers.render(helpers.merged(helpers.preset("production+guard"), more))
    text = (helpers.ROOT / PAGE).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    wanted = table(objects, kind, suffix)
    shown = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert shown == wanted, f"{PAGE}, {heading}, should hold:\n{wanted}"
    # Every role of the chart is in one of the tables.
    every = [one["metadata"]["name"] for one in objects if one["kind"] == kind]
    assert len(every) == len({end for end, _, _ in granted(objects, kind)})


def test_only_the_guard_speaks_to_the_api_and_every_part_is_in_the_table_of_pods(helpers: Any) -> None:
    text = (helpers.ROOT / PAGE).read_text(encoding="utf-8")
    section = text.split("\n## Pods\n", 1)[1].split("\n## ", 1)[0]
    told = [line.split("|")[1].split("(")[0].strip() for line in section.splitlines() if line.startswith("| ")][1:]
    limited: set[str] = set()
    for name in ("small", "production+guard", "production+collector"):
        objects = helpers.render(helpers.preset(name))
        limited |= {
            one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for one in objects
            if one["kind"] == "NetworkPolicy"
        }
        for path, pod in helpers.pods(objects):
            assert pod.get("automountServiceAccountToken") is path.endswith("-guard"), path
    assert sorted(told) == sorted(limited - {"check"})
