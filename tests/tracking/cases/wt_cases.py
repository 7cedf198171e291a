"""Training functions that do what users' functions do, right and wrong. Imported only by the runs under test."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

not_a_function = 3


class Constant:
    """A model that answers with one value."""

    def __init__(self, value):
        self.value = value

    def predict(self, frame):
        import numpy as np

        return np.full(len(frame), self.value, dtype="float64")


class TooFew(Constant):
    def predict(self, frame):
        return [self.value]


class Raises(Constant):
    def predict(self, frame):
        raise KeyError("b")


class WithLambda(Constant):
    def __init__(self, value):
        super().__init__(value)
        self.function = lambda frame: frame


def train(run):
    from sklearn.ensemble import HistGradientBoostingRegressor

    frame = run.rows()
    for epoch in range(3):
        run.log(loss=1.0 / (epoch + 1))
    run.log({"valid/rmse": float("nan")}, step=7)
    print(f"training on {len(frame)} rows")
    model = HistGradientBoostingRegressor(max_iter=int(run.params.get("trees", 5)), random_state=run.seed)
    return model.fit(frame[list(run.features)], frame[run.target])


def linear(run):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = run.rows()
    return make_pipeline(StandardScaler(), LinearRegression()).fit(frame[list(run.features)], frame[run.target])


def own_class(run):
    return Constant(1.5)


def python_model(run):
    import mlflow.pyfunc

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input["a"].to_numpy() * 2

    return Echo()


def model_folder(run):
    import mlflow.sklearn

    frame = run.rows()
    from sklearn.linear_model import LinearRegression

    made = LinearRegression().fit(frame[list(run.features)], frame[run.target])
    mlflow.sklearn.save_model(made, str(run.folder / "mine"), pip_requirements=["scikit-learn"])
    return run.folder / "mine"


def no_folder(run):
    return run.folder / "nowhere"


def with_lambda(run):
    return WithLambda(1.0)


def nan_model(run):
    return Constant(float("nan"))


def too_few(run):
    return TooFew(1.0)


def cannot_predict(run):
    return Raises(1.0)


def returns_none(run):
    print("forgot something")


def returns_number(run):
    return 42


def returns_class(run):
    return Constant


def raises(run):
    return 1 / 0


def bad_data(run):
    from windtunnel.errors import DataError

    raise DataError("the price of row 3 is negative")


def no_network(run):
    raise ConnectionError("no route to the feature store")


def no_space(run):
    raise OSError(28, "No space left on device")


def memory_error(run):
    raise MemoryError


def two_arguments(run, more):
    return None


async def coroutine(run):
    return None


def exits(run):
    sys.exit(0)


def exits_hard(run):
    os._exit(0)


def crashes(run):
    ctypes.string_at(0)


def prints_a_lot(run):
    line = "x" * 1023 + "\n"
    for _ in range(100 * 1024):
        sys.stdout.write(line)
    print("the very last words")
    return Constant(1.0)


def eats_memory(run):
    held = []
    while True:
        held.append(bytearray(os.urandom(1) * (16 * 2**20)))
        time.sleep(0.01)


def child_eats_memory(run):
    subprocess.run([sys.executable, "-c", "import time; b = b'x' * (600 << 20); time.sleep(60)"], check=False)
    time.sleep(60)


def fills_disk(run):
    with (run.folder / "big").open("wb") as out:
        while True:
            out.write(os.urandom(4 << 20))
            out.flush()
            time.sleep(0.05)


def sleeps(run):
    (run.folder / "begun").touch()
    print("sleeping", flush=True)
    time.sleep(float(run.params.get("seconds", 60)))
    return Constant(1.0)


def stubborn(run):
    """Ignores TERM, and so does a process of its own in another session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (run.folder / "other").write_text(str(other.pid))
    (run.folder / "begun").touch()
    time.sleep(600)


def leaves_a_process(run):
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (run.folder / "other").write_text(str(other.pid))
    return Constant(1.0)


def kills_itself(run):
    os.kill(os.getpid(), signal.SIGKILL)


def counts_attempts(run):
    """Succeeds at the second attempt, from its checkpoint."""
    noted = run.checkpoint / "step"
    if run.attempt == 1:
        noted.write_text("41")
        run.log(loss=0.5)
        raise ConnectionError("once")
    assert noted.read_text() == "41"
    run.log(loss=0.25)
    return Constant(2.0)


def counts_trainings(run):
    with (run.folder / "trainings").open("a") as out:
        out.write("x")
    return Constant(3.0)


def many_metrics(run):
    began = time.perf_counter()
    for step in range(2000):
        run.log(loss=1.0 / (step + 1), step=step)
    print(f"each took {(time.perf_counter() - began) / 2000 * 1e6:.0f} us")
    return Constant(1.0)


# -- steps of a team's own
def describe_rows(run):
    seen = sorted(key for key in os.environ if key.startswith("WINDTUNNEL_INPUT_"))
    assert os.environ["WINDTUNNEL_INPUT_ROWS_PATH"] == str(run.inputs["rows"])
    run.outputs["report"].write_text(f"{len(run.rows())} rows, {seen}, item {run.item}")


def forgets_output(run):
    Path("elsewhere").write_text("x")


def never(run):
    return False


def imports_missing_module(run):
    return None


def burns(run):
    """Holds memory and a core for a while, in a process of its own; knows nothing of MLflow."""
    code = "import time\nheld = bytearray(64 * 2**20)\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    run.log(loss=0.5)


def priced(run):
    """Fails the first time, as something outside does."""
    time.sleep(0.3)
    if run.attempt == 1:
        raise ConnectionError("the database is away")
