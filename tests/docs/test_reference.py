"""Tables of the reference against the code: nothing missing, nothing made up."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

from windtunnel import errors, names
from windtunnel.errors import TransientError, UnavailableError, WindtunnelError
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def first_cells(page: Path, heading: str | None = None) -> list[str]:
    """Names in code spans of the first column of a page's tables, in order; of one section when it is named."""
    text = page.read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]*?) \|", text, re.M)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_error_is_listed_with_the_retries_it_gets() -> None:
    from airflow.sdk import RetryAction

    from windtunnel_airflow.retry import judge

    tree = {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, WindtunnelError) and found is not WindtunnelError
    }
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8").split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*?) \|$", text, re.M))
    assert set(told) == set(tree)
    for name, found in tree.items():
        again = judge(found("x"))[0] is RetryAction.RETRY
        assert told[name] == ("three times" if again else "no"), name
        assert again == issubclass(found, (TransientError, UnavailableError))


def test_every_refusal_is_listed() -> None:
    used: set[str] = set()
    for folder in ("windtunnel", "registry_ext"):
        for path in (ROOT / folder).rglob("*.py"):
            used |= set(re.findall(r'"(WT_[A-Z_]+)"', path.read_text(encoding="utf-8")))
    told = set(first_cells(REFERENCE / "registry-api.md", "Refusals"))
    # Two are placeholders for errors made without a code.
    assert told == used - {"WT_REGISTRY", "WT_REFUSED"}


def test_every_endpoint_is_listed() -> None:
    from windtunnel_mlflow.api import openapi  # which names every route (tests/registry_ext/test_openapi.py)

    short = {"model": "M", "number": "N", "which": "V", "identifier": "ID", "name": "NAME"}
    real = {
        (method.upper(), re.sub(r"<(?:\w+:)?(\w+)>", lambda found: short[found[1]], route))
        for method, route, *_ in openapi.ENDPOINTS
    }
    page = (REFERENCE / "registry-api.md").read_text(encoding="utf-8")
    assert openapi.PREFIX in page
    told = set()
    for methods, paths in re.findall(r"^\| ((?:GET|POST|PUT|PATCH|, )+) \| ([^|]+) \|", page, re.M):
        told |= {(m, p) for m in methods.split(", ") for p in re.findall(r"`([^`]+)`", paths)}
    assert told == real


def test_verdicts() -> None:
    cells = first_cells(REFERENCE / "verdicts.md")
    assert {str(outcome) for outcome in Outcome} <= set(cells)
    assert {str(kind) for kind in Kind} <= set(cells)
    fields = first_cells(REFERENCE / "verdicts.md", "Fields")
    assert set(fields) == set(Verdict.__dataclass_fields__)


def test_events() -> None:
    from windtunnel.events import Event

    rows = first_cells(REFERENCE / "events.md")
    assert sorted(rows[: len(names.ASSET_KINDS)]) == sorted(names.ASSET_KINDS)
    assert set(rows[len(names.ASSET_KINDS) :]) == set(Event.__dataclass_fields__)


def test_every_place_of_the_home_is_listed() -> None:
    home = Home(Path("/home-of-windtunnel"))
    told = (REFERENCE / "home-folder.md").read_text(encoding="utf-8")
    for name, found in vars(Home).items():
        if isinstance(found, property):
            path = str(getattr(home, name).relative_to(home.root))
            assert f"`{path}" in told or f"`{path.rpartition('/')[2]}`" in told, f"Home.{name}: {path}"


def test_rooms_are_those_of_the_layers_in_their_order() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(c["layers"] for c in contract["contracts"] if c["type"] == "layers")
    wanted = [room.strip().removeprefix("windtunnel.") for layer in layers for room in layer.split("|")]
    told = first_cells(ROOT / "docs" / "architecture.md", "Rooms of the library, from the roof to the ground")
    assert told == wanted


def test_every_folder_of_the_distribution_is_in_the_architecture() -> None:
    told = first_cells(ROOT / "docs" / "architecture.md", "Folders")
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    where = dict(re.findall(r'^    "(\w+)": "([\w/]+)",$', source, re.M))
    assert {f"{folder}/" for folder in where.values()} <= set(told)


def test_the_architecture_names_programs_files_and_functions_that_exist() -> None:
    from windtunnel.stack.stack import PROGRAMS

    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for program in PROGRAMS:
        assert f"`{program}`" in page and f"[{program}" in page, program
    bases = [ROOT, ROOT / "windtunnel", ROOT / "operators", ROOT / "operators" / "windtunnel_airflow"]
    bases += [ROOT / "tests" / "conformance", ROOT / "registry_ext" / "windtunnel_mlflow"]
    for named in re.findall(r"`([\w/]+\.py)`", page):
        assert any((base / named).exists() for base in bases), named
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("windtunnel", "operators", "registry_ext", "plugins")
        for path in (ROOT / folder).rglob("*.py")
    )
    walks = page.split("\n## The walk of one weight\n")[1].split("\n## Contracts\n")[0]
    for span in re.findall(r"`([^`]+)`", walks):
        last = re.split(r"[./(]", span.removesuffix(".py").removesuffix("()"))[-1]
        if re.fullmatch(r"[A-Za-z_]\w{3,}", last):
            assert re.search(rf"\b{last}\b", code), span


def test_defaults_named_in_how_to_pages_are_the_defaults() -> None:
    from windtunnel import Rollout, Serving

    page = (ROOT / "docs" / "how-to" / "serving-limits.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page, re.M))
    default = Serving()
    assert told["timeout"] == f"{default.timeout.seconds} s"
    assert told["memory"] == f"{default.memory / 2**30:g} GiB"
    assert told["cpu"] == f"{default.cpu:g}"
    assert told["ready_within"] == f"{default.ready_within.seconds} s"
    assert told["drain"] == f"{default.drain.seconds} s"
    assert f"| {default.max_concurrency}, {default.queue} |" in page
    assert f"| {default.flush.seconds} s, {default.sample} |" in page
    everything = set(Serving.model_fields)
    named = set(re.findall(r"`(\w+)`", page))
    assert everything <= named
    stop = (ROOT / "docs" / "how-to" / "stop-a-release.md").read_text(encoding="utf-8")
    assert f"`rollout.lease`, {Rollout().lease.seconds} s" in stop


def test_what_each_api_of_seldon_can_do_is_what_is_told_of_a_description() -> None:
    """DEMAND ROL-14: the pages' tables are the code's."""
    from windtunnel.spec.seldon import APIS, FEATURES

    for api, name in zip(APIS, ("seldon.md", "seldon-core2.md"), strict=True):
        page = (REFERENCE / name).read_text(encoding="utf-8")
        table = page.split("\n| asked | told | |\n")[1].split("\n\n")[0].splitlines()[1:]
        rows = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")[:2]] for line in table]
        assert rows == [[feature.name, feature.told(api)] for feature in FEATURES], name
