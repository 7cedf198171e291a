"""Data checks by Great Expectations, before training and on windows (MON-10).

    check(data, frame_or_path) -> CheckResult

FAIL names columns and counts. An expectation that breaks while it runs is INCONCLUSIVE, not a failure of the
data. Nothing leaves the machine: an ephemeral context, analytics off. Importing Great Expectations costs about
six seconds, paid inside ``check`` only.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.data import expectations
from windtunnel.data.expectations import PARSED_TIME, Expected, Part
from windtunnel.errors import DataError, DescriptionError
from windtunnel.evidence import Outcome
from windtunnel.spec import Check, Data


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the check found.

    Attributes:
        outcome: FAIL if a critical expectation failed, INCONCLUSIVE if one could not be evaluated.
        reason: names the columns and counts.
        numbers: ``rows``, ``expectations``, ``failed``, ``warnings`` and ``broken`` (each a list of
            ``{expect, column, about, unexpected, of, examples, message}``).
        report_path: the HTML page; Great Expectations' own result lies beside it as JSON. None without ``report_dir``.
    """

    outcome: Outcome
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    report_path: Path | None = None


def check(
    data: Data,
    frame_or_path: Any,
    *,
    report_dir: Path | None = None,
    part: Part = "training",
    suite_extra: Sequence[Check] = (),
) -> CheckResult:
    """Hold rows against a description.

    Args:
        frame_or_path: a DataFrame, or the path of a CSV or Parquet file.
        report_dir: folder for ``data-check.html`` and ``data-check.json``; none are written without it.
        part: ``window`` asks only about features: rows of live traffic have no target, and any number is enough.
        suite_extra: checks beyond those of the description.

    Raises:
        DataError: the file is missing or cannot be read.
        DescriptionError: an expectation does not exist, or does not take these arguments.
    """
    import pandas as pd

    if suite_extra:
        data = data.model_copy(update={"checks": [*data.checks, *suite_extra]})
    frame = _plain_types(frame_or_path if isinstance(frame_or_path, pd.DataFrame) else _read(Path(frame_or_path)))
    with _great_expectations() as gx:
        for own in data.checks:  # a wrong description is told before any data is looked at
            _build(Expected(own.expect, own.column, dict(own.with_), own=True))
        return _check(gx, data, frame, report_dir, part)


def _check(gx: Any, data: Data, frame: Any, report_dir: Path | None, part: Part) -> CheckResult:
    import pandas as pd

    first = expectations.shape(data, part)
    there = [item for item in first if item.column is None or item.column in frame.columns]
    answered = dict(zip(map(id, there), _validate(gx, frame, there), strict=True))
    answers: list[tuple[Expected, dict[str, Any]]] = []
    for item in first:
        if id(item) in answered:
            answers.append((item, answered[id(item)]))
        elif item.expect == "expect_column_to_exist":  # a missing column is told once, and no more is asked of it
            answers.append((item, {"success": False}))
    wrong = {item.column for item, answer in answers if not answer["success"] and item.column is not None}
    usable = [str(name) for name in frame.columns if name not in wrong]
    prepared = frame
    if part == "training" and data.time in usable:
        prepared = frame.assign(**{PARSED_TIME: _parsed(frame[data.time])})
    numeric_target = data.target in usable and bool(
        pd.api.types.is_numeric_dtype(frame[data.target].dtype)
        and not pd.api.types.is_bool_dtype(frame[data.target].dtype)
    )
    second = expectations.values(data, part, usable, numeric_target=numeric_target)
    if len(frame):
        answers += list(zip(second, _validate(gx, prepared, second), strict=True))
    return _sum_up(data, frame, answers, report_dir, part)


# -- Great Expectations


@contextmanager
def _great_expectations() -> Iterator[Any]:
    """The library, silent: no analytics, no progress bars, no warnings of its own."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # or 200 lines of its start in every task log
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        yield gx


def _build(item: Expected) -> Any:
    """GX's object for one expectation.

    Raises:
        DescriptionError: GX has no such expectation, or it does not take these arguments.
    """
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    try:
        made = get_expectation_impl(item.expect)
    except ExpectationNotFoundError:
        from difflib import get_close_matches

        near = get_close_matches(item.expect, list_registered_expectation_implementations(), n=3)
        raise DescriptionError(
            f"data.checks: Great Expectations has no {item.expect!r}",
            hint=f"did you mean {', '.join(near)}?" if near else "see its gallery of expectations for the names",
        ) from None
    try:
        return made(**item.kwargs)
    except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
        raise DescriptionError(
            f"data.checks: {item.expect} does not take {item.kwargs!r}: {error}",
            hint="put its arguments under 'with', and the column's name under 'column'",
        ) from error


def _validate(gx: Any, frame: Any, items: Sequence[Expected]) -> list[dict[str, Any]]:
    """One answer per item, in order: ``success``, ``result``, ``exception_info``."""
    if not items:
        return []
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("windtunnel").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite("windtunnel")
    for number, item in enumerate(items):
        made = _build(item)
        made.meta = {"windtunnel": number}
        # Not suite.add_expectation: it refuses a second one that says the same, which a user may well write.
        suite.expectations.append(made)
    plain = batch.validate(suite, result_format="SUMMARY").to_json_dict()
    by_number = {entry["expectation_config"]["meta"]["windtunnel"]: entry for entry in plain["results"]}
    return [by_number[number] for number in range(len(items))]


def _broken(answer: dict[str, Any]) -> str | None:
    """The message of an expectation that raised, None if it did not."""
    info = answer.get("exception_info") or {}
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("raised_exception"):
            return str(entry.get("exception_message") or "it raised").strip().splitlines()[0][:300]
    return None


# -- our side


def _read(path: Path) -> Any:
    import pandas as pd

    if not path.is_file():
        raise DataError(f"no data file at {path}", hint="check data.source")
    try:
        return pd.read_csv(path) if ".csv" in path.name else pd.read_parquet(path)
    except Exception as error:  # every reader has errors of its own; all mean the same here
        raise DataError(f"{path} cannot be read: {error}", hint="expected a CSV or Parquet file") from error


def _plain_types(frame: Any) -> Any:
    """pandas' nullable and Arrow columns as NumPy ones: Great Expectations does not know their types' names."""
    import numpy as np
    import pandas as pd

    changed = {}
    for name in frame.columns:
        dtype = frame[name].dtype
        if not pd.api.types.is_extension_array_dtype(dtype):
            continue
        if pd.api.types.is_bool_dtype(dtype):
            changed[name] = frame[name].astype(object).where(frame[name].notna(), None)
        elif pd.api.types.is_numeric_dtype(dtype):
            changed[name] = pd.Series(frame[name].to_numpy(dtype=np.float64, na_value=np.nan), index=frame.index)
    return frame.assign(**changed) if changed else frame


def _parsed(times: Any) -> Any:
    """Times as UTC timestamps, missing where there is none: text is parsed, any finite number is a time."""
    import numpy as np
    import pandas as pd

    if pd.api.types.is_numeric_dtype(times.dtype):
        return times.where(np.isfinite(times))
    return pd.to_datetime(times, utc=True, errors="coerce", format="mixed")


def _sum_up(
    data: Data, frame: Any, answers: list[tuple[Expected, dict[str, Any]]], report_dir: Path | None, part: Part
) -> CheckResult:
    failed: list[dict[str, Any]] = []
    remarks: list[dict[str, Any]] = []
    broken: list[dict[str, Any]] = []
    for item, answer in answers:
        message = _broken(answer)
        if message is not None:
            broken.append(_entry(item, answer, frame) | {"message": message})
        elif not answer["success"]:
            (failed if item.critical else remarks).append(_entry(item, answer, frame))
    numbers = {
        "rows": len(frame),
        "columns": len(frame.columns),
        "expectations": len(answers),
        "failed": failed,
        "warnings": remarks,
        "broken": broken,
    }
    if failed:
        outcome = Outcome.FAIL
        reason = "; ".join(entry["message"] for entry in failed[:6])
        reason += f"; and {len(failed) - 6} more" if len(failed) > 6 else ""
    elif broken or not len(frame):
        outcome = Outcome.INCONCLUSIVE
        reason = (
            "; ".join(f"{_name(e)} could not be evaluated: {e['message']}" for e in broken[:3]) or "no rows to check"
        )
    else:
        outcome = Outcome.PASS
        reason = f"{len(answers)} expectations hold over {len(frame)} rows"
        if remarks:
            reason += f" ({len(remarks)} not critical do not: {'; '.join(entry['message'] for entry in remarks[:3])})"
    limits = expectations.thresholds(data, part)
    page = None
    if report_dir is not None:
        page = _write(Path(report_dir), outcome, reason, answers, numbers)
    return CheckResult(outcome, reason, numbers, limits, page)


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['expect']} on {entry['column']}" if entry["column"] else str(entry["expect"])


def _entry(item: Expected, answer: dict[str, Any], frame: Any) -> dict[str, Any]:
    """One expectation that did not hold, in words and numbers."""
    result = answer.get("result") or {}
    column = None if item.column == PARSED_TIME else item.column
    count, of = result.get("unexpected_count"), result.get("element_count", len(frame))
    examples = [_plain(value) for value in (result.get("partial_unexpected_list") or [])[:5]]
    where = item.column if item.column != PARSED_TIME else "the time column"
    if item.expect == "expect_column_to_exist":
        message = f"column {where!r} is missing"
    elif item.expect == "expect_column_values_to_be_in_type_list" and not item.own:
        count, examples = _misfits(frame[item.column])
        kind = item.about.removeprefix("holds ")
        message = f"{where}: expected {kind}, found {_type_name(result.get('observed_value'))}" + (
            f" ({count} of {len(frame)} values, e.g. {examples[0]!r})" if count else ""
        )
    elif item.expect == "expect_table_row_count_to_be_between" and not item.own:
        message = f"{len(frame)} rows, at least {item.arguments['min_value']} are needed"
    elif item.expect == "expect_column_values_to_not_be_null" and not item.own:
        what = "have no readable time" if item.column == PARSED_TIME else "are missing"
        message = f"{where}: {count} of {of} values {what}"
    elif count is not None and item.column:
        shown = f", e.g. {examples[0]!r}" if examples else ""
        message = f"{where}: {count} of {of} values are not {item.about}{shown}"
        if item.own:
            message = f"{where}: {count} of {of} values do not meet {item.expect}{shown}"
    else:
        seen = _plain(result.get("observed_value"))
        message = (
            (f"{where}: " if where else "")
            + f"{item.expect} does not hold"
            + (f", observed {seen!r}" if seen is not None else "")
        )
    return {
        "expect": item.expect,
        "column": column,
        "about": item.about,
        "unexpected": count,
        "of": of,
        "examples": examples,
        "message": message,
    }


def _type_name(observed: Any) -> str:
    """What GX saw; it says nothing for a column of mixed Python objects."""
    return {"str": "text", None: "other things", "object_": "other things"}.get(observed, str(observed))


def _misfits(series: Any) -> tuple[int, list[Any]]:
    """Values of a column that are no numbers: how many, and a few of them."""
    import pandas as pd

    odd = series[pd.to_numeric(series, errors="coerce").isna() & series.notna()]
    return len(odd), [_plain(value) for value in odd.head(5)]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)  # NumPy's is one too, and shows itself as np.float64(...)
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:20]]
    return str(value)


def _write(
    folder: Path, outcome: Outcome, reason: str, answers: list[tuple[Expected, dict[str, Any]]], numbers: dict[str, Any]
) -> Path:
    """``data-check.json`` (what Great Expectations said) and ``data-check.html`` (the same for the eyes)."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "outcome": str(outcome),
        "reason": reason,
        "numbers": numbers,
        "results": [
            {
                "expect": item.expect,
                "kwargs": item.kwargs,
                "about": item.about,
                "critical": item.critical,
                "own": item.own,
            }
            | {"success": answer["success"], "result": answer.get("result"), "exception": _broken(answer)}
            for item, answer in answers
        ],
    }
    files.write_bytes(folder / "data-check.json", json.dumps(plain, indent=1, default=str).encode())
    rows = []
    for item, answer in answers:
        state = "broken" if _broken(answer) else "ok" if answer["success"] else "failed" if item.critical else "warning"
        result = answer.get("result") or {}
        count = result.get("unexpected_count")
        observed = (
            f"{count} of {result.get('element_count')} unexpected"
            if count is not None
            else result.get("observed_value")
        )
        cells = (state, item.column or "", item.about, item.expect, "" if observed is None else str(observed))
        rows.append(f'<tr class="{state}">' + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    page = _PAGE.format(outcome=outcome, reason=escape(reason), rows=numbers["rows"], table="\n".join(rows))
    return files.write_bytes(folder / "data-check.html", page.encode())


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data check: {outcome}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }}
.failed td:first-child, .broken td:first-child {{ color: #b00020; font-weight: 600 }}
.warning td:first-child {{ color: #9a6700; font-weight: 600 }} .ok td:first-child {{ color: #1a7f37 }}
</style></head><body>
<h1>Data check: {outcome}</h1><p>{reason}</p><p>{rows} rows, checked by Great Expectations.</p>
<table><thead><tr><th>Result</th><th>Column</th><th>Meaning</th><th>Expectation</th><th>Observed</th></tr></thead>
<tbody>
{table}
</tbody></table></body></html>
"""
