"""Descriptions from YAML and from Python code, each mistake with its file and line; and the JSON Schema.

One file describes one model. YAML is read as version 1.2 (``on`` and ``no`` are words), keys may stand once.
"""

from __future__ import annotations

import importlib
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from windtunnel.errors import DescriptionError
from windtunnel.spec import mistakes
from windtunnel.spec.base import Part
from windtunnel.spec.card import Card
from windtunnel.spec.mistakes import InvalidDescription, Mistake
from windtunnel.spec.model import Model
from windtunnel.spec.policy import PolicyDocument

P = TypeVar("P", bound=Part)


def load_model(path: str | Path) -> Model:
    """The model described in a YAML file.

    Raises:
        DescriptionError: the file cannot be read, is no YAML, or describes no valid model; every mistake is named
            with file, line, what was found and what was expected.
    """
    text = _read(Path(path))
    return loads(text, str(path))


def loads(text: str, name: str = "<description>") -> Model:
    """The model described by YAML text; ``name`` stands for the file in errors. Raises as ``load_model``."""
    tree = _parse(text, name)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(_plain(tree)).__name__}"
        raise InvalidDescription(name, [Mistake((), f"expected keys such as 'name:', found {found}", name, 1)])
    return _valid(Model, tree, tree, (), name)


def load_part(kind: type[P], path: str | Path, key: str) -> P | None:
    """One part of a description in a file of its own, with ``key`` above it or without.

    Returns:
        None when the file describes a whole model.

    Raises:
        DescriptionError: as ``load_model``.
    """
    name = str(path)
    tree = _parse(_read(Path(path)), name)
    if isinstance(tree, dict) and {"name", "data", "training"} & set(tree):
        return None
    below: mistakes.Path = (key,) if isinstance(tree, dict) and set(tree) == {key} else ()
    inner = tree[key] if below else tree
    if not isinstance(inner, dict):
        found = "nothing" if inner is None else f"a {type(_plain(inner)).__name__}"
        raise InvalidDescription(name, [Mistake(below, f"expected keys with values, found {found}", name, 1)])
    return _valid(kind, tree, inner, below, name)


def load_policy(path: str | Path) -> PolicyDocument:
    """The policy of the registry in a YAML file, with ``policy:`` above it or without.

    Raises:
        DescriptionError: as ``load_model``.
    """
    found = load_part(PolicyDocument, path, "policy")
    if found is None:
        raise DescriptionError(
            f"{path} describes a model",
            hint="a policy has keys such as production: and first:; docs/reference/policy.md",
        )
    return found


def load_card(path: str | Path) -> Card:
    """The card of a model in a YAML file, with ``card:`` above it or without.

    Raises:
        DescriptionError: as ``load_model``.
    """
    found = load_part(Card, path, "card")
    if found is None:
        raise DescriptionError(
            f"{path} describes a model", hint="a card has keys such as purpose: and risk:; docs/reference/card.md"
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise DescriptionError(
            f"there is no description at {path}",
            hint=f"in {path.parent} there is {', '.join(near[:8]) or 'no YAML file'}",
        ) from None
    except UnicodeDecodeError as error:
        raise DescriptionError(f"{path} is not UTF-8 text: byte {error.start}", hint="save it as UTF-8") from None
    except OSError as error:
        raise DescriptionError(f"{path} cannot be read: {error.strerror}") from None


def _valid(kind: type[P], tree: Any, inner: Any, below: mistakes.Path, name: str) -> P:
    """``inner``, which stands ``below`` in the file's tree, as a part."""
    try:
        return kind.model_validate(_plain(inner))
    except ValidationError as error:
        found = mistakes.collect(kind, error, lambda path: (name, _line(tree, (*below, *path))))
        raise InvalidDescription(name, found) from None


def from_python(reference: str) -> Model:
    """The model that ``package.module:attribute`` holds.

    Raises:
        DescriptionError: the module cannot be imported, has no such attribute, or it is no Model.
    """
    module_name, _, attribute = reference.partition(":")
    if not attribute:
        raise DescriptionError(f"{reference!r} names no model", hint="write 'package.module:attribute'")
    try:
        module = importlib.import_module(module_name)
    except DescriptionError:
        raise
    except Exception as error:
        raise DescriptionError(
            f"{reference!r}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Model):
        there = [name for name, value in vars(module).items() if isinstance(value, Model)]
        what = "has no such attribute" if found is None else f"holds a {type(found).__name__} there, expected a Model"
        raise DescriptionError(
            f"{reference!r}: {module_name} {what}", hint=f"models in it: {', '.join(there) or 'none'}"
        )
    return found


def dumps(model: Model) -> str:
    """YAML that ``loads`` reads back as the same model; what equals the default is left out."""
    return dumped(model.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def dumps_part(part: Part, key: str) -> str:
    """YAML that ``load_part`` reads back as the same part; below ``key``."""
    return dumped({key: part.model_dump(mode="json", by_alias=True, exclude_defaults=True)})


def dumped(plain: dict[str, Any]) -> str:
    """YAML of plain values, in their order."""
    from ruamel.yaml import YAML

    out = StringIO()
    writer = YAML(typ="safe")
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.width = 110
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # annotated as None
    writer.dump(plain, out)
    return out.getvalue()


def schema() -> dict[str, Any]:
    """JSON Schema of a description, for editors and for ``windtunnel schema``."""
    made = Model.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://windtunnel.dev/schema/model-1.json",
        **made,
        "title": "Windtunnel model description",
    }


def _parse(text: str, name: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import ComposerError
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        said = str(error.problem).partition(" with value")[0]
        raise InvalidDescription(name, [Mistake((), f"{said}: a key may stand once", name, line)]) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "cannot be understood"
        if isinstance(error, ComposerError) and "single document" in str(error.context):
            said = "a second document starts here: one file describes one model"
        line = mark.line + 1 if mark else None
        raise InvalidDescription(name, [Mistake((), f"this is no YAML: {said}", name, line)]) from None
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidDescription(name, [Mistake((), f"this is no YAML: {first}", name, line)]) from None


def _plain(value: Any) -> Any:
    """Ruamel's values, which remember their formatting, as Python's own."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return value
    plain: Any = next((kind for kind in (int, float, str) if isinstance(value, kind)), None)
    return plain(value) if plain else value


def _line(tree: Any, path: mistakes.Path) -> int:
    """Line of ``path`` in the file, or of the last part of it that stands there."""
    here, line = tree, getattr(getattr(tree, "lc", None), "line", 0) or 0
    for part in path:
        marks = getattr(here, "lc", None)
        try:
            if isinstance(here, dict) and part in here:
                line = marks.key(part)[0] if marks else line
            elif isinstance(here, list) and isinstance(part, int) and part < len(here):
                line = marks.item(part)[0] if marks else line
            else:
                break
            here = here[part]
        except (KeyError, TypeError, AttributeError):  # a merged key (<<) has no place of its own
            break
    return int(line) + 1
