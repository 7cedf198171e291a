"""Searching a registry of 1,000,000 versions of 100,000 models on PostgreSQL: how long a page of 50 takes (REG-15)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, text

from bench.audit import postgres
from bench.table import Table

MODELS, EACH, TEAMS, PAGE = 100_000, 10, 200, 50
REPEATS = 30
LIMIT_MS = 500.0

#: ``:models`` and ``:each`` in most; MLflow's foreign keys to runs are left out, so that no run has to be made.
FILL_MLFLOW = (
    "INSERT INTO registered_models (workspace, name, creation_time) "
    "SELECT 'default', 'model-' || lpad(m::text, 6, '0'), 1 FROM generate_series(1, :models) m",
    "INSERT INTO model_versions (workspace, name, version, creation_time, current_stage, status, run_id, source) "
    "SELECT 'default', 'model-' || lpad(m::text, 6, '0'), v, 1, "
    "CASE WHEN v = :each - 1 THEN 'Production' WHEN v = :each AND m % 10 = 0 THEN 'Staging' "
    "WHEN v < :each - 1 THEN 'Archived' ELSE 'None' END, 'READY', md5(m || '/' || v), 'runs:/r/model' "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v",
    "INSERT INTO model_version_tags (workspace, name, version, key, value) "
    "SELECT 'default', 'model-' || lpad(m::text, 6, '0'), v, 'team', 'team-' || m % :teams "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v",
    "INSERT INTO model_version_tags (workspace, name, version, key, value) "
    "SELECT 'default', 'model-' || lpad(m::text, 6, '0'), v, 'build', 'b-' || m || '-' || v "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v",
    "INSERT INTO registered_model_aliases (workspace, name, alias, version) "
    "SELECT 'default', 'model-' || lpad(m::text, 6, '0'), 'champion', :each - 1 FROM generate_series(1, :models) m",
    "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
    "SELECT 'rmse', abs(hashtext(m || '/' || v)) / 2147483648.0 * 10, 1, 0, false, md5(m || '/' || v) "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v",
)
FILL_OURS = (
    "INSERT INTO wt_versions (model, version, semver, semver_reason, key, status, state, source, run_id, recipe, "
    "facts, digest, actor, created_at, parent) "
    "SELECT 'model-' || lpad(m::text, 6, '0'), v, '1.' || v || '.0', 'x', 'k' || v, 'READY', "
    "CASE WHEN v = :each - 1 THEN 'champion' ELSE 'candidate' END, 'runs:/r/model', md5(m || '/' || v), "
    "'{\"data\":\"sha256:' || md5('d' || m) || '\"}', '{}', 'sha256:' || md5('c' || m || '/' || v), 'service', "
    "1700000000 + v * 86400 + m, nullif(v - 1, 0) FROM generate_series(1, :models) m, generate_series(1, :each) v",
    "INSERT INTO wt_origins (model, version, kind, value, name, said, at) "
    "SELECT 'model-' || lpad(m::text, 6, '0'), v, kind, CASE kind WHEN 'run' THEN md5(m || '/' || v) "
    "WHEN 'data' THEN 'sha256:' || md5('d' || m) ELSE md5('g' || m % 1000 || v) END, '', 'run', 1 "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v, unnest(ARRAY['run', 'data', 'commit']) kind",
    "INSERT INTO wt_champions (model, version, since, until, actor, reason) "
    "SELECT 'model-' || lpad(m::text, 6, '0'), v, 1700000000 + v * 86400 + m, "
    "CASE WHEN v < :each - 1 THEN 1700000000 + (v + 1) * 86400 + m END, 'service', 'x' "
    "FROM generate_series(1, :models) m, generate_series(1, :each - 1) v",
    "INSERT INTO wt_cards_now (model, version, card, words, owner, risk) "
    "SELECT 'model-' || lpad(m::text, 6, '0'), 0, '{}', 'nothing', 'owner-' || m % :teams, 'low' "
    "FROM generate_series(1, :models) m",
    "INSERT INTO wt_verdicts (id, claimed, model, kind, outcome, subject, body, actor, created_at) "
    "SELECT md5(m || '/' || v), false, 'model-' || lpad(m::text, 6, '0'), 'evaluation', "
    "CASE WHEN (m + v) % 7 = 0 THEN 'FAIL' ELSE 'PASS' END, 'sha256:' || md5('c' || m || '/' || v), '{}', 'service', 1 "
    "FROM generate_series(1, :models) m, generate_series(1, :each) v",
)

Ask = Callable[[random.Random], str]
#: What is asked, and whether it must be fast.
QUESTIONS: tuple[tuple[str, Ask, str, bool], ...] = (
    ("a name's beginning", lambda r: f"name like 'model-{r.randrange(10_000):04d}%'", "name", True),
    ("the same, newest first", lambda r: f"name like 'model-{r.randrange(10_000):04d}%'", "", True),
    ("a stage, 10,000 versions", lambda r: "stage = 'Staging'", "", True),
    ("a stage, 100,000 versions", lambda r: "stage = 'Production'", "", True),
    ("a tag, 5,000 versions", lambda r: f"tag.team = 'team-{r.randrange(TEAMS)}'", "", True),
    ("a tag, 1 version", lambda r: f"tag.build = 'b-{r.randrange(1, MODELS)}-{r.randrange(1, 10)}'", "", True),
    (
        "metric, tag and stage",
        lambda r: f"metric.rmse < 1.2 and tag.team = 'team-{r.randrange(TEAMS)}' and stage = 'Production'",
        "",
        True,
    ),
    ("an owner, 5,000 versions", lambda r: f"owner = 'owner-{r.randrange(TEAMS)}'", "", False),
    ("champions of an owner", lambda r: f"alias = 'champion' and owner = 'owner-{r.randrange(TEAMS)}'", "", False),
    ("everything, newest first", lambda r: "", "", False),
    ("a metric, best first", lambda r: f"metric.rmse < {r.uniform(0.001, 0.01):.5f}", "metric.rmse", False),
    (
        "evidence of a tag's versions",
        lambda r: f"tag.team = 'team-{r.randrange(TEAMS)}' and evidence.evaluation = 'FAIL'",
        "",
        False,
    ),
    ("text that one model's name holds", lambda r: f"text ~ 'EL-{r.randrange(1, MODELS):06d}'", "", False),
)


def fill(engine: Engine, statements: tuple[str, ...] = FILL_MLFLOW + FILL_OURS) -> None:
    """All rows, and the planner's statistics."""
    given = {"models": MODELS, "each": EACH, "teams": TEAMS}
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            names = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), names)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def ask(search: Any, question: Ask, order: str, seed: int) -> list[float]:
    """Milliseconds of each question, after three that are not counted."""
    chance, found = random.Random(seed), []
    for nth in range(REPEATS + 3):
        query = question(chance)
        began = time.perf_counter()
        search.page(query, order, PAGE, None, lambda model: True)
        if nth >= 3:
            found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def run() -> Table:
    """Fill a database of its own and ask it."""
    from windtunnel_mlflow.finding.search import Search
    from windtunnel_mlflow.store import GovernedStore

    table = Table(
        f"Searching {MODELS * EACH:,} versions of {MODELS:,} models, PostgreSQL, pages of {PAGE}",
        ("question", "median", "95 %", "worst"),
    )
    slow: list[str] = []
    with postgres() as url:
        store = GovernedStore(url)
        fill(store.engine)
        search = Search(store)
        for seed, (name, question, order, must) in enumerate(QUESTIONS):
            found = ask(search, question, order, seed)
            p95 = found[int(len(found) * 0.95)]
            shown = [f"{value:.0f} ms" for value in (found[len(found) // 2], p95, found[-1])]
            table.add(name, *shown)
            if must and p95 > LIMIT_MS:
                slow.append(name)
    table.demand(
        f"a page by a name's beginning, a stage or a tag within {LIMIT_MS:.0f} ms in 95 of 100 (DEMAND REG-15)",
        f"slower: {', '.join(slow)}" if slow else "all of them",
        not slow,
    )
    table.note = (
        f"{REPEATS} questions each, with other values each time, in the server's process without HTTP; the database on "
        "the same machine, everything in memory."
    )
    return table
