"""Every way of tampering with the audit is found, told apart and located (DEMAND REG-7)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from windtunnel.evidence import Outcome, auditcheck, entry, merkle
from windtunnel.evidence.auditcheck import Checker, check, check_chunk
from windtunnel.evidence.checkpoint import Checkpoint

SEED = 20_261_121
TIMES = 10_000
ENTRIES = 40
Row = dict[str, Any]


def chained(rows: list[Row]) -> list[Row]:
    """The rows with prev and hash as an honest registry, or a forger of the whole chain, would make them."""
    heads: dict[str, str] = {}
    for row in rows:
        row["prev"] = heads.get(row["model"], entry.GENESIS)
        row["hash"] = heads[row["model"]] = entry.chain_hash(row)
    return rows


def rows_of(count: int, models: int = 4) -> list[Row]:
    return chained(
        [
            {
                "at": 1_763_735_456.25 + number, "actor": "ada", "action": "tag", "model": f"m{number * 7 % models}",
                "version": str(number), "outcome": "done", "code": None, "detail": f'{{"n":{number}}}',
                "correlation_id": None, "seq": number + 1,
            }
            for number in range(count)
        ]
    )  # fmt: skip


def lines_of(rows: list[Row]) -> list[bytes]:
    return [entry.line(row) for row in rows]


def vouch(rows: list[Row], *sizes: int) -> list[Checkpoint]:
    leaves = [entry.leaf(row["seq"], row["hash"]) for row in rows]
    return [Checkpoint("log", size, merkle.root(leaves[:size])) for size in sizes]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(ENTRIES)


@pytest.fixture(scope="module")
def points(rows: list[Row]) -> list[Checkpoint]:
    return vouch(rows, 0, 7, 16, 33, ENTRIES)


def test_a_whole_audit(rows: list[Row], points: list[Checkpoint]) -> None:
    report = check(lines_of(rows), points)
    assert (report.outcome, report.broken, report.breaks) == (Outcome.PASS, 0, ())
    assert (report.entries, report.models, report.checkpoints, report.vouched) == (ENTRIES, 4, 5, ENTRIES)
    assert report.root == points[-1].root.hex()


def test_without_a_checkpoint_nothing_is_promised(rows: list[Row]) -> None:
    assert check(lines_of(rows)).outcome is Outcome.INCONCLUSIVE
    assert check([]).outcome is Outcome.INCONCLUSIVE


# -- ten thousand at random: each takes a copy and gives what a tamperer would leave behind


def edit(rows: list[Row], draw: random.Random) -> list[Row]:
    row = draw.choice(rows)
    name = draw.choice(entry.FIELDS)
    if name in ("prev", "hash"):
        row[name] = "sha256:" + draw.randbytes(32).hex()
    else:
        row[name] = {"seq": row["seq"] + draw.choice((-1, 1, 1000)), "at": row["at"] + draw.uniform(1e-6, 9)}.get(
            name, f"{row[name]}{draw.choice('xyz')}"
        )
    return rows


def edit_and_rehash(rows: list[Row], draw: random.Random) -> list[Row]:
    row = draw.choice(rows)
    row["detail"] = f'{{"n":{draw.randrange(1000, 9999)}}}'
    row["hash"] = entry.chain_hash(row)
    return rows


def delete(rows: list[Row], draw: random.Random) -> list[Row]:
    first = draw.randrange(len(rows))
    del rows[first : first + draw.choice((1, 1, 1, 2, 5))]
    return rows


def insert(rows: list[Row], draw: random.Random) -> list[Row]:
    place = draw.randrange(len(rows))
    new = dict(rows[place], actor="eve", prev=draw.choice(rows)["hash"])
    new["hash"] = entry.chain_hash(new)
    rows.insert(place, new)
    return rows


def repeat(rows: list[Row], draw: random.Random) -> list[Row]:
    rows.insert(draw.randrange(len(rows)), dict(draw.choice(rows)))
    return rows


def reorder(rows: list[Row], draw: random.Random) -> list[Row]:
    one, other = draw.sample(range(len(rows)), 2)
    rows[one], rows[other] = rows[other], rows[one]
    return rows


def reorder_and_renumber(rows: list[Row], draw: random.Random) -> list[Row]:
    one, other = draw.sample(range(len(rows)), 2)
    rows[one], rows[other] = rows[other], rows[one]
    rows[one]["seq"], rows[other]["seq"] = rows[other]["seq"], rows[one]["seq"]
    return rows


def truncate(rows: list[Row], draw: random.Random) -> list[Row]:
    return rows[: draw.randrange(len(rows))]


def behead(rows: list[Row], draw: random.Random) -> list[Row]:
    return rows[draw.randrange(1, len(rows)) :]


def fork(rows: list[Row], draw: random.Random) -> list[Row]:
    """Another history from some entry on, every hash right, as long as the true one or not."""
    first = draw.randrange(len(rows))
    for row in rows[first:]:
        row["actor"] = "eve"
    return chained(rows)[: draw.randrange(first + 1, len(rows) + 1)]


def rewrite_without(rows: list[Row], draw: random.Random) -> list[Row]:
    """An entry taken out of the whole history, numbers and hashes made anew, another put at the end instead."""
    last = dict(rows[-1])
    del rows[draw.randrange(len(rows))]
    rows.append(last)
    for number, row in enumerate(rows):
        row["seq"] = number + 1
    return chained(rows)


def second_branch(rows: list[Row], draw: random.Random) -> list[Row]:
    """A second successor of some entry, at the end, its own hash right."""
    new = dict(rows[-1], prev=draw.choice(rows[:-1])["hash"], seq=rows[-1]["seq"])
    new["hash"] = entry.chain_hash(new)
    return [*rows[:-1], new]


def move_to_another_model(rows: list[Row], draw: random.Random) -> list[Row]:
    draw.choice(rows)["model"] = "m9"
    return chained(rows)


WAYS = (
    edit, edit_and_rehash, delete, insert, repeat, reorder, reorder_and_renumber, truncate, behead, fork,
    rewrite_without, second_branch, move_to_another_model,
)  # fmt: skip


def test_ten_thousand_ways_of_tampering_are_all_found(rows: list[Row], points: list[Checkpoint]) -> None:
    honest = lines_of(rows)
    draw = random.Random(SEED)
    found, missed = 0, []
    while found < TIMES:
        way = draw.choice(WAYS)
        tampered = lines_of(way([dict(row) for row in rows], draw))
        if tampered == honest:
            continue
        found += 1
        report = check(tampered, points)
        if report.outcome is not Outcome.FAIL or not report.breaks:
            missed.append((way.__name__, found))
    assert missed == []


def test_any_changed_byte_is_found(rows: list[Row], points: list[Checkpoint]) -> None:
    honest = lines_of(rows)
    draw = random.Random(SEED)
    for _ in range(500):
        lines = list(honest)
        which = draw.randrange(len(lines))
        line = bytearray(lines[which])
        line[draw.randrange(len(line))] ^= 1 << draw.randrange(8)
        lines[which] = bytes(line)
        assert check(lines, points).outcome is Outcome.FAIL


# -- told apart and located


def first_break(rows: list[Row], points: list[Checkpoint]) -> auditcheck.Break:
    return check(lines_of(rows), points).breaks[0]


def test_what_was_edited_is_named(rows: list[Row], points: list[Checkpoint]) -> None:
    rows = [dict(row) for row in rows]
    rows[20]["actor"] = "eve"
    found = first_break(rows, points)
    assert (found.kind, found.seq, found.index, found.model) == ("edited", 21, 20, rows[20]["model"])


def test_what_lost_its_predecessor_is_named(rows: list[Row], points: list[Checkpoint]) -> None:
    found = first_break(rows[:20] + rows[21:], points)
    follower = next(row for row in rows[21:] if row["model"] == rows[20]["model"])
    assert (found.kind, found.seq, found.model) == ("removed", follower["seq"], follower["model"])


def test_a_second_history_is_named(rows: list[Row], points: list[Checkpoint]) -> None:
    new = dict(rows[30], seq=41, actor="eve")
    new["hash"] = entry.chain_hash(new)
    found = first_break([*rows, new], points)
    assert (found.kind, found.seq) == ("forked", 41)
    again = dict(rows[30], seq=41, prev=entry.GENESIS)
    again["hash"] = entry.chain_hash(again)
    assert first_break([*rows, again], points).kind == "forked"


def test_what_was_moved_is_named(rows: list[Row], points: list[Checkpoint]) -> None:
    report = check(lines_of([*rows[:20], rows[24], *rows[20:24], *rows[25:]]), points)
    assert rows[24]["model"] == rows[20]["model"]
    assert {(one.kind, one.seq) for one in report.breaks} >= {("moved", 25), ("order", 21)}


def test_a_missing_end_is_found_by_the_checkpoint_alone(rows: list[Row], points: list[Checkpoint]) -> None:
    assert check(lines_of(rows[:35])).broken == 0
    found = first_break(rows[:35], points)
    assert (found.kind, found.index) == ("truncated", 35)
    assert "5 more" in found.message


def test_a_history_made_anew_is_located_between_checkpoints(rows: list[Row], points: list[Checkpoint]) -> None:
    forged = [dict(row) for row in rows]
    forged[20]["actor"] = "eve"
    chained(forged)
    assert check(lines_of(forged)).broken == 0
    report = check(lines_of(forged), points)
    assert [one.kind for one in report.breaks] == ["rewritten"]
    assert "17 to 33" in report.breaks[0].message
    assert (report.vouched, report.broken) == (16, 2)


def test_two_signed_histories_are_no_pass(rows: list[Row], points: list[Checkpoint]) -> None:
    other = Checkpoint("log", 33, bytes(32))
    report = check(lines_of(rows), [*points, other])
    assert (report.outcome, report.breaks[0].kind) == (Outcome.FAIL, "rewritten")


def test_a_clock_set_back_is_shown_and_no_break() -> None:
    rows = rows_of(12)
    for row in rows[6:]:
        row["at"] -= 3600
    rows = chained(rows)
    report = check(lines_of(rows), vouch(rows, 12))
    assert report.outcome is Outcome.PASS
    # The log as a whole, and then each of the other models by its own entry before.
    assert [(step.seq, step.seconds) for step in report.steps] == [(7, 3599.0), (8, 3596.0), (9, 3596.0), (10, 3596.0)]


def test_numbers_of_undone_transactions_are_gaps() -> None:
    rows = [row | {"seq": row["seq"] * 3} for row in rows_of(10)]
    assert check(lines_of(rows), vouch(rows, 10)).gaps == 18


def test_pieces_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seams between chunks: links, order, gaps, clock and checkpoints."""
    rows = rows_of(50)
    rows[16]["at"] -= 100
    rows = chained(rows)
    lines, points = lines_of(rows), vouch(rows, *range(51))
    broken = [*lines[:15], *lines[17:]]
    whole = [check(lines, points), check(broken, points), check(lines[:40], points)]
    monkeypatch.setattr(auditcheck, "CHUNK", 8)
    assert [check(lines, points), check(broken, points), check(lines[:40], points)] == whole
    with pytest.raises(ValueError, match="expected lines from 0 on"):
        Checker().add(check_chunk(lines[:8], 8))


def test_a_report_is_json(rows: list[Row], points: list[Checkpoint]) -> None:
    plain = json.loads(json.dumps(check(lines_of(rows[1:]), points).to_dict()))
    assert plain["outcome"] == "FAIL"
    assert plain["breaks"][0]["kind"] == "removed"
