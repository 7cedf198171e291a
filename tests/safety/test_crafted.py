"""DEMAND REG-3: crafted model files are blocked. Payloads are harmless; no file here is ever loaded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.safety import Allowance, scan, scan_file

#: Everything a description can allow, but no module.
OPEN = Allowance(pickle=True)


def short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


class Call:
    """Pickles as a call that is never made here."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.what = (function, args)

    def __reduce__(self) -> Any:
        return self.what


def evil(protocol: int = 4) -> bytes:
    """``print('never run')`` as a pickle of this protocol."""
    return pickle.dumps(Call(print, "never run"), protocol)


def npy(payload: bytes, descr: str = "'|O'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def torch_zip(payload: bytes) -> bytes:
    return zipped(**{"archive/data.pkl": payload, "archive/version": b"3\n", "archive/data/0": bytes(16)})


def tarred(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def joblib_array(dtype: bytes, tail: bytes, *, frame: bytes = b"") -> bytes:
    """joblib's wrapper of an array of one item, and what stands behind it."""
    return (
        b"\x80\x04"
        + frame
        + short("joblib.numpy_pickle")
        + short("NumpyArrayWrapper")
        + b"\x93)\x81}("
        + short("subclass")
        + short("numpy")
        + short("ndarray")
        + b"\x93"
        + short("shape")
        + b"K\x01\x85"
        + short("dtype")
        + short("numpy")
        + short("dtype")
        + b"\x93"
        + short(dtype.decode())
        + b"\x89\x88\x87R"
        + short("numpy_array_alignment_bytes")
        + b"Nub"
        + tail
    )


def duplicates(payload: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"harmless": 1}))
        with pytest.warns(UserWarning):
            archive.writestr("a/data.pkl", payload)
    return out.getvalue()


def memo_names() -> bytes:
    """The name's parts come out of the memo, in another order than they were written."""
    return (
        b"\x80\x04"
        + short("system")
        + b"\x94"
        + short("os")
        + b"\x940"
        + b"0"
        + b"h\x01h\x00\x93"
        + short("true")
        + b"\x85R."
    )


def code_of_marshal() -> bytes:
    return pickle.dumps(Call(eval, "1 + 1"), 2)


CRAFTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    # names put together in each way the format has
    "GLOBAL, protocol 0": ("model.pkl", lambda: b"cos\nsystem\n(S'true'\ntR."),
    "GLOBAL, Python 2's name": ("model.pkl", lambda: b"c__builtin__\neval\n(S'1'\ntR."),
    "INST": ("model.pkl", lambda: b"(S'true'\nios\nsystem\n."),
    "OBJ": ("model.pkl", lambda: b"(cos\nsystem\nS'true'\no."),
    "NEWOBJ": ("model.pkl", lambda: b"\x80\x02csubprocess\nPopen\n]U\x04truea\x85\x81."),
    "NEWOBJ_EX": (
        "model.pkl",
        lambda: b"\x80\x04" + short("subprocess") + short("Popen") + b"\x93" + short("true") + b"\x85}\x92.",
    ),
    "STACK_GLOBAL": ("model.pkl", evil),
    "STACK_GLOBAL over the memo": ("model.pkl", memo_names),
    "STACK_GLOBAL with a dotted name": (
        "model.pkl",
        lambda: b"\x80\x04" + short("sklearn.utils") + short("os.system") + b"\x93" + short("true") + b"\x85R.",
    ),
    "STACK_GLOBAL with a name that a call makes": (
        "model.pkl",
        lambda: (
            b"\x80\x04" + short("os") + short("builtins") + short("str") + b"\x93" + short("system") + b"\x85R\x93)R."
        ),
    ),
    "EXT code": ("model.pkl", lambda: b"\x80\x02\x82\x01)R."),
    "persistent id": ("model.pkl", lambda: b"\x80\x02U\x01xQ."),
    "BUILD on a class": (
        "model.pkl",
        lambda: b"\x80\x02ccollections\nOrderedDict\n}U\x0c__setstate__csklearn.base\nBaseEstimator\nsb.",
    ),
    "a callable that a call returned": (
        "model.pkl",
        lambda: b"\x80\x02cbuiltins\nobject\n)R)R.",
    ),
    "a name a library merely imported": ("model.pkl", lambda: b"csklearn.datasets._base\nGzipFile\n(S'x'\nS'w'\ntR."),
    "getattr over a module": ("model.pkl", lambda: b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nS'x'\ntR."),
    "a codec as a call": (
        "model.pkl",
        lambda: b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00uu_f\x86R.",
    ),
    "numpy that runs a string": ("model.pkl", lambda: b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR."),
    "numpy.memmap empties a file": ("model.pkl", lambda: b"cnumpy\nmemmap\n(S'x'\nS'w+'\ntR."),
    "torch.storage loads again": ("model.pkl", lambda: b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR."),
    "pickle in a pickle": ("model.pkl", lambda: pickle.dumps(Call(pickle.loads, evil()))),
    "cloudpickle's own functions": ("model.pkl", lambda: b"ccloudpickle.cloudpickle\n_make_function\n(tR."),
    "dill's own functions": ("model.pkl", lambda: b"cdill._dill\n_create_type\n(tR."),
    "pip run": ("model.pkl", lambda: b"cpip._internal.cli.main\nmain\n(S'x'\ntR."),
    # the stream
    "truncated, it acts before it breaks": ("model.pkl", lambda: b"cos\nsystem\n(S'true'\ntR"),
    "broken opcode after the act": ("model.pkl", lambda: evil(0)[:-1] + b"\xff\xff"),
    "a second pickle behind a harmless one": ("model.pkl", lambda: pickle.dumps({"a": 1}) + evil()),
    "a third behind two": ("model.pkl", lambda: pickle.dumps(1) + pickle.dumps([2]) + evil(0)),
    "bytes behind the pickle": ("model.pkl", lambda: pickle.dumps({"a": 1}) + b"\x00\x01\x02 rest"),
    "a protocol that does not exist": ("model.pkl", lambda: b"\x80\x09" + evil(4)[2:]),
    "out-of-band buffers": ("model.pkl", lambda: b"\x80\x05\x97\x98."),
    "called something else": ("weights", evil),
    "called a text, protocol 0": ("notes.txt", lambda: evil(0)),
    # in other files
    "gzip": ("model.pkl.gz", lambda: gzip.compress(evil())),
    "bz2": ("model.bin", lambda: bz2.compress(evil())),
    "xz": ("model.bin", lambda: lzma.compress(evil())),
    "zlib, as joblib has it": ("model.joblib", lambda: zlib.compress(evil())),
    "lz4": ("model.joblib", lambda: b"\x04\x22\x4d\x18" + bytes(30)),
    "gzip in gzip": ("model.pkl", lambda: gzip.compress(gzip.compress(evil()))),
    "torch zip": ("model.pt", lambda: torch_zip(evil(2))),
    "torch zip, two of one name": ("model.pt", lambda: duplicates(evil(2))),
    "torch, the old format": (
        "model.pt",
        lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + evil(2),
    ),
    "zip in zip": ("data.bin", lambda: zipped(**{"inner.zip": zipped(**{"x": evil()})})),
    "a pickle in front of a zip": ("model.bin", lambda: evil() + zipped(a=b"text")),
    "tar": ("model.tar", lambda: tarred("x", evil())),
    "npy of objects": ("a.npy", lambda: npy(evil())),
    "npy with objects in a record": ("a.npy", lambda: npy(evil(), "[('f8', '<f8'), ('x', '|O')]")),
    "npz of objects": ("a.npz", lambda: zipped(**{"x.npy": npy(evil())})),
    "joblib array of objects": ("m.joblib", lambda: joblib_array(b"O8", evil() + b".")),
    "joblib array inside a frame": (
        "m.joblib",
        lambda: joblib_array(b"V400", bytes(400) + b".", frame=b"\x95" + struct.pack("<Q", 1000)),
    ),
    "joblib array that hides a pickle behind its size": (
        "m.joblib",
        lambda: joblib_array(b"f8", bytes(8) + b"0" + evil()[2:]),
    ),
    "keras lambda": (
        "m.keras",
        lambda: zipped(
            **{
                "metadata.json": b"{}",
                "config.json": b'{"module": "keras.layers", "class_name": "\\u004cambda", "config": {}}',
            }
        ),
    ),
    "keras module": (
        "m.keras",
        lambda: zipped(
            **{"metadata.json": b"{}", "config.json": b'{"module": "os", "class_name": "system", "config": {}}'}
        ),
    ),
    "keras in HDF5": ("m.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100) + b'model_config{"class_name": "Functional"}'),
    "skops with a type of the system": (
        "m.skops",
        lambda: zipped(
            **{"schema.json": b'{"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}'}
        ),
    ),
    "skops with a method": (
        "m.skops",
        lambda: zipped(
            **{"schema.json": b'{"__class__": "x", "__module__": "y", "__loader__": "MethodNode", "content": {}}'}
        ),
    ),
    # beside the model
    "native code": ("libmodel", lambda: b"\x7fELF" + bytes(60)),
    "python code": ("helper.py", lambda: b"x = 1\n"),
    "a wheel": ("wheels/a-1-py3-none-any.whl", lambda: zipped(**{"a/__init__.py": b"x = 1"})),
    "requirements from elsewhere": ("requirements.txt", lambda: b"numpy==2.0\n--index-url https://example.invalid\n"),
    "requirement by an address": ("requirements.txt", lambda: b"a @ https://example.invalid/a.whl\n"),
    "editable requirement": ("requirements.txt", lambda: b"-e git+https://example.invalid/a\n"),
    "conda with a pip option": (
        "conda.yaml",
        lambda: b"dependencies:\n- python=3.11\n- pip:\n  - --extra-index-url https://example.invalid\n",
    ),
    "torch's module for pickles": ("data/pickle_module_info.txt", lambda: b"mymodule"),
    "encrypted zip": ("m.zip", lambda: _encrypted()),
    "a bomb": ("m.zip", lambda: _bomb()),
}


def _encrypted() -> bytes:
    raw = bytearray(zipped(a=b"text"))
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


def _bomb() -> bytes:
    raw = bytearray(zipped(a=b"text"))
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = struct.pack("<I", 0xF0000000)
    return bytes(raw)


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_blocked_even_where_pickle_is_allowed(tmp_path: Path, name: str) -> None:
    file, make = CRAFTED[name]
    path = tmp_path / "model" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(make())
    report = scan(tmp_path / "model", OPEN)
    assert not report.passed, name
    assert report.findings[0].path.startswith(file)
    assert report.findings[0].reason and report.findings[0].hint


MLMODELS = {
    "a loader of somebody's own": "flavors:\n  python_function:\n    loader_module: os\n",
    "a path out of the folder": "flavors:\n  sklearn:\n    pickled_model: ../other.pkl\n",
    "an absolute path": "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    data: /etc/passwd\n",
    "a class by name": "flavors:\n  xgboost:\n    model_class: os.system\n",
    "skops told to trust": "flavors:\n  sklearn:\n    skops_trusted_types: [builtins.eval]\n",
}


@pytest.mark.parametrize("name", MLMODELS)
def test_an_mlmodel_that_would_run_code_is_blocked(tmp_path: Path, name: str) -> None:
    (tmp_path / "MLmodel").write_text(MLMODELS[name])
    report = scan(tmp_path, OPEN)
    assert [finding.path for finding in report.findings] == ["MLmodel"]


def test_code_paths_and_own_types_pass_where_their_module_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n"
        "    code: code\n    python_model: python_model.pkl\n"
    )
    (tmp_path / "code/shop").mkdir(parents=True)
    (tmp_path / "code/shop/__init__.py").write_text("x = 1\n")
    (tmp_path / "python_model.pkl").write_bytes(b"\x80\x02cshop.models\nPrices\n)\x81.")
    assert {finding.format for finding in scan(tmp_path, OPEN).findings} == {"code", "pickle"}
    assert scan(tmp_path, Allowance(pickle=True, trust=("shop",))).passed
    assert not scan(tmp_path, Allowance(pickle=False, trust=("shop",))).passed
    assert not scan(tmp_path, Allowance(pickle=True, trust=("shopping",))).passed


@pytest.mark.parametrize("name", ["os.system", "system", "Popen", "subprocess"])
def test_trust_in_a_module_is_no_trust_in_what_it_imported(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x04" + short("shop") + short(name) + b"\x93)R.")
    assert not scan_file(path, Allowance(pickle=True, trust=("shop", "os", "subprocess"))).passed


@pytest.mark.parametrize("module", ["os", "subprocess", "builtins", "posix", "importlib._bootstrap"])
def test_pythons_own_modules_cannot_be_trusted(tmp_path: Path, module: str) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(f"c{module}\nanything\n(tR.".encode())
    assert not scan_file(path, Allowance(pickle=True, trust=(module, f"{module}.anything"))).passed


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_truncated_pickle_never_passes(tmp_path: Path, cut: int) -> None:
    whole = pickle.dumps({"a": [1, 2.5, "text"], "b": (True, None)}, 4)
    path = tmp_path / "m.pkl"
    path.write_bytes(whole[:cut])
    assert scan_file(path, OPEN).passed == (cut >= len(whole))
