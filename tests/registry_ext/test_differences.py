"""Two versions side by side: what differs, and what is known of chance (DEMAND REG-15)."""

from __future__ import annotations

import json
from typing import Any

from windtunnel_mlflow.finding.differences import Side, changes, compare, environment, metrics, signature


def evaluation(value: float, *, against: str | None = None, low: float = 0.0, high: float = 0.0) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": value}
    if against:
        entry |= {"champion": 1.0, "worse_than_allowed": low, "low": low, "high": high, "margin": 0.0}
    return {"inputs": ["sha256:holdout", *([against] if against else [])], "numbers": {"metrics": {"rmse": entry}}}


def side(digest: str, **more: Any) -> Side:
    return Side({"version": "1", "digest": digest}, **more)


def test_chance_is_told_where_an_evaluation_held_one_against_the_other() -> None:
    old = side("sha256:a", verdicts={"evaluation": evaluation(1.0)})
    for low, high, said in (
        (0.1, 0.3, "right is worse"),
        (-0.3, -0.1, "right is not worse"),
        (-0.1, 0.1, "could be chance"),
    ):
        new = side("sha256:b", verdicts={"evaluation": evaluation(1.2, against="sha256:a", low=low, high=high)})
        (found,) = metrics(old, new)
        assert (found["significance"], found["interval"], found["difference"]) == (said, [low, high], 1.2 - 1.0)
        assert found["on_same_rows"] == [1.0, 1.2]
        (turned,) = metrics(new, old)
        assert turned["significance"] == said.replace("right", "left")
        assert turned["on_same_rows"] == [1.2, 1.0]


def test_chance_is_not_known_otherwise_and_nothing_is_made_up() -> None:
    new = side("sha256:b", verdicts={"evaluation": evaluation(1.2, against="sha256:other", low=0.1, high=0.3)})
    found = metrics(side("sha256:a", metrics={"mae": 2.0}, verdicts={"evaluation": evaluation(1.0)}), new)
    assert [(one["source"], one["name"], one["significance"]) for one in found] == [
        ("run", "mae", "not known"),
        ("evaluation", "rmse", "not known"),
    ]
    assert found[0]["right"] is None
    assert found[0]["difference"] is None
    assert "interval" not in found[1]
    unsure = evaluation(1.2, against="sha256:a")
    unsure["numbers"]["metrics"]["rmse"] |= {"low": None, "high": None}
    assert (
        metrics(side("sha256:a"), side("sha256:b", verdicts={"evaluation": unsure}))[0]["significance"] == "not known"
    )


def test_signatures_by_column() -> None:
    def facts(*columns: dict[str, Any]) -> dict[str, Any]:
        return {"facts": {"signature": {"inputs": json.dumps(columns)}}}

    left = facts({"name": "age", "type": "long"}, {"name": "sex", "type": "string"})
    right = facts({"name": "age", "type": "double"}, {"name": "height", "type": "double"})
    found = signature(left, right)
    assert found["known"] is True
    assert [(one["name"], one["change"]) for one in found["inputs"]] == [
        ("age", "changed"),
        ("height", "added"),
        ("sex", "removed"),
    ]
    assert signature(left, {})["known"] is False
    assert signature(left, left)["inputs"] == []
    assert signature({"facts": {"signature": {"inputs": "{"}}}, left)["inputs"][0]["name"] == "(unreadable)"


def test_environments_by_package() -> None:
    left = {"requirements.txt": "mlflow==3.1\nScikit_Learn==1.5 # why\nold\n", "python_env.yaml": "python: 3.11.2\n"}
    right = {
        "requirements.txt": "mlflow==3.2\nscikit-learn==1.5\n-r other.txt\n",
        "python_env.yaml": "python: '3.12'\n",
    }
    found = environment(left, right)
    assert found["python"] == ["3.11.2", "3.12"]
    assert [(one["name"], one["change"]) for one in found["packages"]] == [
        ("-r other.txt", "added"),
        ("mlflow", "changed"),
        ("old", "removed"),
    ]
    assert environment(left, {})["known"] is False
    assert environment(left, left) == {"known": True, "python": None, "packages": []}


def test_data_recipe_and_files() -> None:
    def record(data: str, depth: int, weights: str, **files: Any) -> dict[str, Any]:
        return {
            "version": "1",
            "digest": f"sha256:{weights}",
            "recipe": {"data": data, "params": {"depth": depth}, "features": ["age"], "code": "a:b"},
            "manifest": {"files": {"MLmodel": ["m", 5], "weights": [weights, 9], **files}},
        }

    rows = {"data-check": {"numbers": {"rows": 100}}}
    found = compare(
        Side(record("d1", 3, "w1"), verdicts=rows), Side(record("d2", 4, "w2", extra=["e", 1]), verdicts={})
    )
    assert found["data"]["same"] is False
    assert (found["data"]["left"]["rows"], found["data"]["right"]["rows"]) == (100, None)
    assert found["recipe"]["params"] == [{"name": "depth", "change": "changed", "left": 3, "right": 4}]
    assert found["recipe"]["features"] == found["recipe"]["other"] == []
    assert found["files"] == {
        "same_content": False,
        "added": [{"path": "extra", "bytes": 1}],
        "removed": [],
        "changed": [{"path": "weights", "bytes": [9, 9]}],
        "same": 1,
    }
    nothing = compare(Side({"version": "1"}, params={"depth": "3"}), Side({"version": "2"}, params={"depth": "4"}))
    assert nothing["data"]["same"] is None
    assert nothing["recipe"]["known"] is False
    assert nothing["recipe"]["params"][0]["right"] == "4"
    assert nothing["files"]["same_content"] is False


def test_changes_tell_nothing_from_none() -> None:
    assert changes({"a": None}, {"a": None, "b": None}) == [
        {"name": "b", "change": "added", "left": None, "right": None}
    ]
    assert changes({"a": 1}, {"a": 1.0}) == []
