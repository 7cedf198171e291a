"""DEMAND REG-3: no ordinary model is blocked; without leave to unpickle, those are that run no code when loaded."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windtunnel.safety import Allowance, Report, scan, scan_file

OPEN, CLOSED = Allowance(pickle=True), Allowance()


def looked(path: Path, allowance: Allowance = OPEN) -> Report:
    return scan(path, allowance) if path.is_dir() else scan_file(path, allowance)


def said(report: Report) -> list[str]:
    return [str(finding) for finding in report.findings]


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler
    from sklearn.svm import SVC

    rng = np.random.default_rng(1)
    x, y = rng.random((60, 4)), rng.integers(0, 2, 60)
    columns = ColumnTransformer(
        [("scaled", StandardScaler(), [0, 1]), ("kinds", OneHotEncoder(handle_unknown="ignore"), [2])]
    )
    made = {
        "linear": LogisticRegression(),
        "sgd": SGDClassifier(),
        "forest": RandomForestClassifier(5),
        "boosted": GradientBoostingClassifier(n_estimators=3),
        "histogram": HistGradientBoostingClassifier(max_iter=3),
        "neighbours": KNeighborsClassifier(algorithm="kd_tree"),
        "vectors": SVC(),
        "net": MLPClassifier((3,), max_iter=5),
        "pipeline": make_pipeline(columns, LogisticRegression()),
        "functions": make_pipeline(FunctionTransformer(np.log1p), SplineTransformer(3), LogisticRegression()),
    }
    return {name: model.fit(x, y) for name, model in made.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", range(6))
def test_scikit_learn_by_pickle(tmp_path: Path, fitted: dict[str, Any], protocol: int) -> None:
    for name, model in fitted.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(model, protocol))
        assert said(looked(path)) == []
        assert not looked(path, CLOSED).passed


#: In a process of its own: where dill was imported before joblib, as some of Airflow's modules do, joblib writes
#: dill's names.
BY_JOBLIB = """
import pathlib, pickle, sys, joblib
folder = pathlib.Path(sys.argv[1])
kinds = [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)]
for name, model in pickle.loads((folder / "fitted").read_bytes()).items():
    for number, compress in enumerate(kinds):
        joblib.dump(model, folder / f"{name}-{number}.joblib", compress=compress)
"""


def test_scikit_learn_by_joblib(tmp_path: Path, fitted: dict[str, Any]) -> None:
    (tmp_path / "fitted").write_bytes(pickle.dumps(fitted))
    subprocess.run([sys.executable, "-W", "ignore", "-c", BY_JOBLIB, str(tmp_path)], check=True)
    written = sorted(tmp_path.glob("*.joblib"))
    assert len(written) == 6 * len(fitted)
    assert {path.name: said(looked(path)) for path in written} == {path.name: [] for path in written}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_by_skops_and_cloudpickle(tmp_path: Path, fitted: dict[str, Any]) -> None:
    import cloudpickle
    import skops.io

    for name, model in fitted.items():
        skops.io.dump(model, tmp_path / f"{name}.skops")
        assert said(looked(tmp_path / f"{name}.skops", CLOSED)) == []
        (tmp_path / f"{name}.pkl").write_bytes(cloudpickle.dumps(model))
        assert said(looked(tmp_path / f"{name}.pkl")) == []


@pytest.mark.filterwarnings("ignore")
def test_a_model_folder_as_mlflow_writes_it(tmp_path: Path, fitted: dict[str, Any]) -> None:
    import mlflow.sklearn

    types = ["sklearn.tree._tree.Tree", "sklearn._loss._loss.CyHalfBinomialLoss", "sklearn._loss.link.LogitLink",
             "sklearn._loss.link.Interval", "sklearn._loss.loss.HalfBinomialLoss"]  # fmt: skip
    needs = ["scikit-learn==1.9", "skops", "numpy>=2,<3"]
    for form, allowance in (("skops", CLOSED), ("cloudpickle", OPEN)):
        more: dict[str, Any] = {"skops_trusted_types": types} if form == "skops" else {}
        mlflow.sklearn.save_model(
            fitted["forest"], str(tmp_path / form), serialization_format=form, pip_requirements=needs, **more
        )
        assert said(looked(tmp_path / form, allowance)) == []
        assert looked(tmp_path / form, CLOSED).passed == (form == "skops")


def test_data_of_numpy_and_pandas(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(
        {"a": [1, 2], "b": ["x", "y"], "c": pd.to_datetime(["2020", "2021"]), "d": pd.Categorical(["u", "v"]),
         "e": pd.array([1, None], dtype="Int64")}
    )  # fmt: skip
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    np.save(tmp_path / "record.npy", np.zeros(3, dtype=[("O", "f8"), ("b", "U5")]))
    np.savez_compressed(tmp_path / "b.npz", a=np.ones(3), b=np.arange(3))
    frame.to_parquet(tmp_path / "c.parquet")
    assert said(looked(tmp_path, CLOSED)) == []
    frame.to_pickle(tmp_path / "d.pkl")
    frame.set_index(["a", "b"]).to_pickle(tmp_path / "e.pkl.gz")
    np.save(tmp_path / "f.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    assert said(looked(tmp_path)) == []
    assert {finding.path.rstrip("!") for finding in looked(tmp_path, CLOSED).findings} == {"d.pkl", "e.pkl.gz", "f.npy"}


def torch_state(storage: str = "FloatStorage") -> bytes:
    """A state_dict's ``data.pkl`` with one tensor of two numbers, opcode by opcode as torch writes it."""

    def text(raw: str) -> bytes:
        return b"X" + struct.pack("<I", len(raw)) + raw.encode()

    return (
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01"
        + text("weight")
        + b"q\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03("
        + b"("
        + text("storage")
        + f"ctorch\n{storage}\n".encode()
        + text("0")
        + text("cpu")
        + b"K\x02tQK\x00K\x02\x85K\x01\x85\x89"
        + b"ccollections\nOrderedDict\n)RtRs."
    )


@pytest.mark.parametrize("payload", [bytes(8), b"\x1f\x8b\x08\x00zzzz", b"PK\x03\x04oops", b"cos\nsystem\n(tR."])
def test_torch_weights_need_no_leave(tmp_path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", torch_state())
        archive.writestr("w/version", "3\n")
        archive.writestr("w/data/0", payload)  # numbers, whatever they look like
    assert said(looked(tmp_path / "w.pt", CLOSED)) == []
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", torch_state("load"))
    assert not looked(tmp_path / "x.pt").passed


def test_torch_itself(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed here")
    net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU(), torch.nn.BatchNorm1d(2))
    torch.save(net.state_dict(), tmp_path / "state.pt")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert said(looked(tmp_path, CLOSED)) == []
    torch.save(net, tmp_path / "whole.pt")
    assert said(looked(tmp_path)) == []


@pytest.mark.parametrize(("library", "model"), [("xgboost", "XGBClassifier"), ("lightgbm", "LGBMClassifier")])
def test_boosted_trees(tmp_path: Path, library: str, model: str) -> None:
    found = pytest.importorskip(library, reason=f"{library} is not installed here")
    made = getattr(found, model)(n_estimators=2).fit([[0.0], [1.0]] * 10, [0, 1] * 10)
    booster = made.get_booster() if library == "xgboost" else made.booster_
    booster.save_model(str(tmp_path / ("m.ubj" if library == "xgboost" else "m.lgb")))
    assert said(looked(tmp_path, CLOSED)) == []
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(made))
    assert said(looked(tmp_path)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"tree\nversion=v4\nnum_class=1\n",  # LightGBM
        b'{"learner": {}}',  # XGBoost
        b"{L\x00\x00\x00\x00\x00\x00\x00\x02",  # XGBoost's binary JSON
        b"\x28\x00\x00\x00\x00\x00\x00\x00" + b'{"w":{"dtype":"F32"}}',  # safetensors
        b"\x08\x0a\x12\x07pytorch\x1a\x05",  # ONNX
        b"cloudpickle==3.1\nclick\nnumpy\n",  # begins as an opcode that asks for a name
        b"(I love deadlines)\n",
        b"Pandas are animals\n",
        b"PAR1",
        b"",
    ],
)
def test_files_that_are_no_pickle(tmp_path: Path, content: bytes) -> None:
    for name in ("model.bin", "notes.txt"):
        (tmp_path / name).write_bytes(content)
        assert said(looked(tmp_path / name, CLOSED)) == []


def test_onnx_and_safetensors_themselves(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed here")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "m.onnx"))
    assert said(looked(tmp_path, CLOSED)) == []


def test_what_the_crafted_files_are_made_of_passes_without_the_payload(tmp_path: Path) -> None:
    """Or those tests would only show that broken files are blocked."""

    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    wrapper = (
        b"\x80\x04" + short("joblib.numpy_pickle") + short("NumpyArrayWrapper") + b"\x93)\x81}("
        + short("shape") + b"K\x01\x85"
        + short("dtype") + short("numpy") + short("dtype") + b"\x93" + short("f8") + b"\x89\x88\x87R"
        + short("numpy_array_alignment_bytes") + b"Nub"
    )  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", '{"module": "keras.layers", "class_name": "Dense", "config": {}}')
        archive.writestr("metadata.json", "{}")
    plain: dict[str, bytes] = {
        "a.joblib": wrapper + bytes(8) + b".",
        "b.pkl": b"ccollections\nOrderedDict\n(tR.",
        "c.pkl": b"(ccollections\nOrderedDict\no.",
        "d.pkl": b"(icollections\nOrderedDict\n.",
        "e.pkl": b"\x80\x04" + short("OrderedDict") + b"\x94" + short("collections") + b"\x9400h\x01h\x00\x93)R.",
        "f.pkl": b"c__builtin__\nset\n(tR.",
        "g.pkl": pickle.dumps(1) + pickle.dumps([2]),
        "h.pkl": pickle.dumps({"a": 1}, 4),
        "i.keras": buffer.getvalue(),
    }
    for name, content in plain.items():
        (tmp_path / name).write_bytes(content)
    assert said(looked(tmp_path)) == []


LINES: list[tuple[str, bool]] = [
    ("numpy", True),
    ("numpy==2.1.0", True),
    ("scikit-learn[all]>=1.5,<2 ; python_version < '3.13'", True),
    ("torch==2.1.0+cpu  # the small one", True),
    ("a~=1.0 --hash=sha256:abcdef", True),
    ("-r requirements.txt", True),
    ("-c constraints.txt", True),
    ("-r /etc/other.txt", False),
    ("-r https://example.invalid/r.txt", False),
    ("./local", False),
]


@pytest.mark.parametrize(("line", "plain"), LINES)
def test_requirements(tmp_path: Path, line: str, plain: bool) -> None:
    (tmp_path / "requirements.txt").write_text(f"# ours\n{line}\n")
    assert looked(tmp_path, CLOSED).passed == plain


MAKE: Callable[..., Any] = pickle.dumps


def test_a_large_pickle_is_followed_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "big.pkl"
    path.write_bytes(MAKE([bytes(20_000_000), list(range(50_000))]))
    tracemalloc.start()
    try:
        assert looked(path).passed
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
