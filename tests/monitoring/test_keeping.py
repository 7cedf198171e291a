"""Two workers that share an object store and no home watch one model as one worker would, whoever of them is killed."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from s3 import bucket

from windtunnel.data.objects import FolderObjects, Objects, connect
from windtunnel.errors import DataError, UnavailableError
from windtunnel.home import Home
from windtunnel.monitoring import keeping, logged, reference, report, watch, windows
from windtunnel.monitoring.keeping import InHome, InStore
from windtunnel.monitoring.windows import Closing, Window
from windtunnel.spec import Model

DIGEST = "sha256:" + "ab" * 32
T0 = 1_800_000_000.0  # a multiple of 60
DAG = {"dag_id": "visits.watch", "dag_run_id": "r1", "task_id": "drift"}


def describe(**monitoring: Any) -> Model:
    features = ["lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp"]
    given = {
        "window": "60s",
        "lateness": "5s",
        "min_rows": 200,
        "performance": {"metric": "poisson_deviance", "tolerance": 0.05},
        "report": False,
    }
    return Model.model_validate(
        {
            "name": "visits",
            "owner": "health",
            "data": {"source": "x.parquet", "time": "time", "target": "mdvis", "features": features},
            "training": {"entry_point": "package.module:train"},
            "monitoring": {**given, **monitoring},
        }
    )


MODEL = describe(label_delay="0s")
QUICK = describe(performance=None, report=True)  # drift and a report


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    if request.param == "folder":
        yield FolderObjects(tmp_path / "store")
        return
    client, address = request.getfixturevalue("s3")
    yield connect(f"{address}/{tmp_path.name}", client)


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Any, str]]:
    """A client, and its bucket's address."""
    with bucket() as (client, name):
        yield client, f"s3://{name}"


@pytest.fixture
def worker(world: Any, tmp_path: Path) -> Callable[[str], Home]:
    """A home that has the same rows and labels as every other, and nothing else."""

    def make(name: str) -> Home:
        home = Home(tmp_path / name)
        home.root.mkdir(exist_ok=True)
        for mine, there in ((home.predictions, world.home.predictions), (home.labels, world.home.labels)):
            there.mkdir(parents=True, exist_ok=True)
            if not mine.exists():
                mine.symlink_to(there)
        return home

    return make


def share(world: Any, store: Objects) -> None:
    """The reference, as the task that registers keeps it."""
    made = reference.load(world.home, "visits", "1")
    made = replace(made, sample=reference.load_sample(world.home, "visits", "1"))
    InStore(store, world.home).keep_reference(made)


def told(verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in plain.items() if key != "report_uri"} for plain in verdicts]


def test_two_workers_judge_as_one(
    world: Any, worker: Callable[[str], Home], store: Objects, free: pd.DataFrame, paying: pd.DataFrame
) -> None:
    """DEMAND MON-7, OPS-9: each step by another worker; verdicts, retraining and its damping are those of one home."""
    share(world, store)
    one, kept_at_home = world.home, InHome(world.home)
    turns = itertools.cycle([worker("a"), worker("b")])

    def kept(home: Home) -> InStore:
        return InStore(store, home)

    seen = []
    for minute, members in enumerate((free.iloc[5500:6100], paying.iloc[:600], paying.iloc[600:1200])):
        start = T0 + 60 * minute
        world.label(world.serve(members, start, start + 60), members, start + 61)
        now = start + 66.25
        world.mark(now)
        home = next(turns)
        window = watch.next_window(home, MODEL, "1", DIGEST, now, kept=kept(home))
        assert window is not None and window == watch.next_window(one, MODEL, "1", DIGEST, now)
        judged, alone = [], []
        for judge in (watch.judge_drift, watch.judge_performance):
            home = next(turns)
            judged.append(judge(home, MODEL, window, dag=DAG, kept=kept(home)) or {})
            alone.append(judge(one, MODEL, window, dag=DAG) or {})
        assert judged == alone
        home = next(turns)
        reported = watch.write_report(home, MODEL, window, judged, now, kept=kept(home))
        home = next(turns)
        answer = watch.react(home, MODEL, window, reported["verdicts"], now, kept=kept(home))
        plain = watch.write_report(one, MODEL, window, alone, now)["verdicts"]
        assert answer == watch.react(one, MODEL, window, plain, now)
        seen.append((answer["react"], answer["cause"].split(":")[0]))
        assert kept(next(turns)).state("visits") == kept_at_home.state("visits")
        assert watch.next_window(home, MODEL, "1", DIGEST, now, kept=kept(home)) is None
    assert [react for react, _ in seen] == [None, "retrain", None], seen
    assert "cooldown" in seen[2][1]
    assert not any((worker(name).root / "monitoring").exists() for name in "ab")


class Killed(BaseException):
    """What no code may catch and go on from."""


class Mortal(FolderObjects):
    """A store whose worker dies at its nth write, before or after it."""

    def __init__(self, root: Path, at: int = -1, after: bool = False) -> None:
        super().__init__(root)
        self.at, self.after, self.writes = at, after, 0

    def _mortal(self, write: Callable[[], Any]) -> Any:
        self.writes += 1
        dies = self.writes - 1 == self.at
        if dies and not self.after:
            raise Killed
        done = write()
        if dies:
            raise Killed
        return done

    def put(self, key: str, source: Path) -> None:
        self._mortal(lambda: super(Mortal, self).put(key, source))

    def put_new(self, key: str, data: bytes) -> bool:
        return bool(self._mortal(lambda: super(Mortal, self).put_new(key, data)))


def test_killed_at_each_write_another_worker_goes_on(
    world: Any,
    worker: Callable[[str], Home],
    paying: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DEMAND MON-7, PIP-3: one verdict, one answer, one closed window, whichever write was the last."""

    def pages(*given: Any, **more: Any) -> report.Report:  # what is in them is no matter here, and takes seconds
        (given[4] / "report.html").write_text("<p>drift</p>")
        (given[4] / "report.json").write_text("{}")
        return report.Report(given[4] / "report.html", given[4] / "report.json")

    monkeypatch.setattr(report, "write", pages)
    world.serve(paying.iloc[:300], T0, T0 + 60)
    world.mark(T0 + 66)
    workers = itertools.cycle([worker("a"), worker("b")])
    times = itertools.count(T0 + 66.5)

    def flown(store: Mortal) -> tuple[Any, ...]:
        """A round; a step whose worker dies is done again by the other one, a little later."""

        def step(do: Callable[[Home, InStore, float], Any]) -> Any:
            while True:
                home = next(workers)
                try:
                    return do(home, InStore(store, home), next(times))
                except Killed:
                    continue

        window = step(lambda home, kept, now: watch.next_window(home, QUICK, "1", DIGEST, T0 + 66, kept=kept))
        drift = step(lambda home, kept, now: watch.judge_drift(home, QUICK, window, dag=DAG, kept=kept))
        reported = step(lambda home, kept, now: watch.write_report(home, QUICK, window, [drift], now, kept=kept))
        answer = step(lambda home, kept, now: watch.react(home, QUICK, window, reported["verdicts"], now, kept=kept))
        kept = InStore(store, next(workers))
        closed_at = kept.read(window, "reaction.json")["at"]
        state = kept.state("visits")
        assert (state.retrain_at, state.report_at) == (closed_at, closed_at)
        keys = sorted(key for key in store.sizes("monitoring/visits/") if "/state/" in key)
        assert len(keys) == 3, keys
        page = store.get_bytes(reported["report_uri"].removeprefix(f"{store.url}/"))
        return told(reported["verdicts"]), answer, replace(state, retrain_at=0, report_at=0), page

    whole = Mortal(tmp_path / "whole")
    share(world, whole)
    whole.writes = 0
    expected = flown(whole)
    assert expected[1]["react"] == "retrain" and expected[3] == b"<p>drift</p>"
    assert whole.writes == 8  # drift, two pages, reported, reaction, three marks
    for at, after in itertools.product(range(whole.writes), (False, True)):
        store = Mortal(tmp_path / f"{at}{after}", -1, after)
        share(world, store)
        store.at, store.writes = at, 0
        assert flown(store) == expected, (at, after)


def test_of_two_runs_that_overlap_the_first_is_believed(
    world: Any, worker: Callable[[str], Home], store: Objects, paying: pd.DataFrame
) -> None:
    share(world, store)
    a, b = worker("a"), worker("b")
    world.serve(paying.iloc[:300], T0, T0 + 60)
    world.mark(T0 + 66)
    model = describe(performance=None)
    window = watch.next_window(a, model, "1", DIGEST, T0 + 66, kept=InStore(store, a))
    assert window == watch.next_window(b, model, "1", DIGEST, T0 + 67, kept=InStore(store, b))
    assert window is not None
    first = watch.judge_drift(a, model, window, dag=DAG, kept=InStore(store, a))
    world.serve(paying.iloc[300:500], T0, T0 + 60)  # late rows
    again = watch.judge_drift(b, model, window, dag={**DAG, "dag_run_id": "r2"}, kept=InStore(store, b))
    assert again == first and first is not None
    # And one that found nothing there, and was overtaken before it wrote.
    assert InStore(store, b).keep(window, "drift.json", {**first, "reason": "mine"}) == first
    answers = [watch.react(home, model, window, [first], now, kept=InStore(store, home))
               for home, now in ((a, T0 + 70), (b, T0 + 71), (a, T0 + 900))]  # fmt: skip
    assert answers == [answers[0]] * 3 and answers[0]["react"] == "retrain"
    state = InStore(store, a).state("visits")
    assert (state.retrain_at, state.closed) == (T0 + 70, ((T0, T0 + 60, "1"),))


CLOSINGS = (
    Closing(Window(T0, T0 + 60, dropped=2), "1", T0 + 66, retrain=True, finding="1:drift:a"),
    Closing(Window(T0, T0 + 480, empty=True, dropped=1), "1", T0 + 490.5),
    Closing(Window(T0 + 480, T0 + 540.25), "2", T0 + 548, finding=""),
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_no_closing_undoes_another(order: tuple[int, ...], tmp_path: Path) -> None:
    """Also of a run that was thought dead, and chose another window: what was asked for, and reported, stays said."""
    kept = InStore(FolderObjects(tmp_path), Home(tmp_path / "home"))
    for number in (*order, *order):
        closing = CLOSINGS[number]
        window = {"model": "visits", "version": closing.version,
                  "start": closing.window.start, "end": closing.window.end}  # fmt: skip
        kept.close(window, closing)
    state = kept.state("visits")
    assert (state.closed_end, state.retrain_at, state.retrain_version) == (T0 + 540.25, T0 + 66, "1")
    assert (state.report_at, state.report_finding) == (T0 + 548, "")


def test_what_is_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "KEPT", 3)
    monkeypatch.setattr(keeping, "KEPT_REPORTS", 2)
    store = FolderObjects(tmp_path)
    kept = InStore(store, Home(tmp_path / "home"))
    for number in range(6):
        start = T0 + 60 * number
        window = {"model": "visits", "version": "1", "start": start, "end": start + 60}
        kept.keep(window, "drift.json", {"n": number})
        with kept.folder(window) as folder:
            (folder / "report.html").write_text("<p></p>")
        kept.close(window, Closing(Window(start, start + 60), "1", start + 66, finding=""))
    found = list(store.sizes("monitoring/visits/windows/"))
    assert [key.rpartition("/")[2] for key in found] == ["drift.json", *["drift.json", "report.html"] * 2], found
    assert kept.state("visits").closed_end == T0 + 360
    assert len(store.sizes("monitoring/visits/state/")) == 5


def test_a_reference_stays_the_first_one(world: Any, store: Objects, tmp_path: Path) -> None:
    """A registration that is tried again makes another one; verdicts go on naming what they compared with."""
    share(world, store)
    kept = InStore(store, Home(tmp_path / "nobody"))
    first, sample = kept.reference("visits", "1"), kept.sample("visits", "1")
    assert len(sample) == 4000
    kept.keep_reference(replace(first, created_at=99.0, sample=sample.iloc[:1]))
    assert kept.reference("visits", "1") == first and len(kept.sample("visits", "1")) == 4000
    with pytest.raises(DataError, match=r"no reference for visits version 2 at .*reference-2\.json"):
        kept.reference("visits", "2")
    assert kept.sample("visits", "2") is None
    # One that was kept before the store was named is still good where its home is.
    assert InStore(connect(f"{store.url}/other", getattr(store, "_client", None)), world.home).reference(
        "visits", "1"
    ) == reference.load(world.home, "visits", "1")


class Refusing(FolderObjects):
    def get_bytes(self, key: str) -> bytes | None:
        if "reference" in key:
            raise DataError(f"{self.url} refuses {key!r}: AccessDenied")
        return super().get_bytes(key)


def test_a_store_that_refuses_makes_no_verdict(world: Any, paying: pd.DataFrame, tmp_path: Path) -> None:
    world.serve(paying.iloc[:300], T0, T0 + 60)
    world.mark(T0 + 66)
    store = Refusing(tmp_path / "store")
    kept = InStore(store, world.home)
    window = watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 66, kept=kept)
    assert window is not None
    for judge in (watch.judge_drift, watch.judge_performance):
        with pytest.raises(UnavailableError, match=r"the reference cannot be read: .*AccessDenied"):
            judge(world.home, MODEL, window, kept=kept)
    assert not store.sizes("monitoring/")
    store.put_bytes("monitoring/visits/windows/1800000000.000-1800000060.000-v1/drift.json", b"{")
    with pytest.raises(DataError, match=r"drift\.json cannot be read"):
        watch.judge_drift(world.home, MODEL, window, kept=kept)


def test_a_page_that_cannot_be_put_away_costs_no_verdict(
    world: Any, paying: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FolderObjects):
        def put(self, key: str, source: Path) -> None:
            raise UnavailableError("the store is full")

    def pages(*given: Any, **more: Any) -> report.Report:
        (given[4] / "report.html").write_text("<p></p>")
        return report.Report(given[4] / "report.html", None)

    monkeypatch.setattr(report, "write", pages)
    world.serve(paying.iloc[:300], T0, T0 + 60)
    world.mark(T0 + 66)
    kept = InStore(Full(tmp_path / "store"), world.home)
    found = watch.run(world.home, QUICK, "1", DIGEST, T0 + 66, kept=kept)
    assert (found.report, found.react) == (None, "retrain")


def test_a_worker_brings_what_it_needs() -> None:
    """Rows since the last closed window to choose, eight windows of labelled rows to judge."""
    model = describe(label_delay="120s")
    assert logged.needed_to_choose(model, None, T0) == T0 - 125 - 3600
    assert logged.needed_to_choose(model, T0 - 60, T0) == T0 - 125 - 3600
    assert logged.needed_to_choose(model, T0 - 9000, T0) == T0 - 9000
    window = {"start": T0, "end": T0 + 60}
    assert logged.needed_to_judge(model, window) == T0 + 60 - 120 - 480
    assert logged.needed_to_judge(describe(performance=None), window) == T0


def test_a_home_whose_folder_went_is_a_fresh_one(world: Any) -> None:
    shutil.rmtree(world.home.monitoring)
    assert InHome(world.home).state("visits") == windows.WindowState()
