"""The process that runs the user's code: ``python -P -u -m windtunnel.tracking.child RUN_DIR``.

Stages: verify inputs, find the code, run it, store and try what it returned, deliver it. A model that is stored is
never trained again: after a failed delivery the next attempt goes on from ``trained.json``. Dies with its runner.
Exit codes: ``windtunnel.tracking.contract``.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from windtunnel import canonical, files
from windtunnel.data import steps
from windtunnel.errors import IntegrityError, TrainingError, TransientError, UnavailableError
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.tracking import entry, environment, failures, nodes, processes
from windtunnel.tracking.contract import EXIT, RunResult, RunSpec
from windtunnel.tracking.run import Run, own_metrics
from windtunnel.tracking.server import NotAllowedError, Tracking, connect
from windtunnel.tracking.spool import Shipper, Spool

MODEL = "model"
#: Seconds a finished training waits for the server before it fails as transient; ``WINDTUNNEL_DELIVER_WITHIN``.
DELIVER_WITHIN = 300.0


def say(text: str) -> None:
    print(f"windtunnel: {text}", flush=True)


class Child:
    """One attempt at one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = RunSpec.from_dict(files.read_json(folder / "spec.json") or {})
        self.attempt = int((files.read_json(folder / "start.json") or {}).get("attempt", 1))
        self.durations: dict[str, float] = {}
        self.spool = Spool(folder)
        self.tracking: Tracking | None = None
        self.shipper: Shipper | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.durations[name] = round(time.monotonic() - began, 3)

    # -- the whole
    def work(self) -> RunResult:
        spec = self.spec
        with self.stage("verify"):
            for given in spec.inputs.values():
                steps.verify_input(given)
        self._announce()
        with self.stage("connect"):
            self._connect()
        trained = self._trained()
        if trained is None:
            with self.stage("import"):
                function = entry.resolve(spec.entry_point)
                condition = entry.resolve(spec.when) if spec.when else None
            self._record(function)
            run = Run(spec, self.folder, attempt=self.attempt, tracking=self.tracking)
            if condition is not None and not condition(run):
                say(f"{spec.when} answered no: nothing to do")
                return RunResult(spec.run_id, spec.kind, durations=self.durations, skipped=True)
            self._seed()
            with self.stage("run"):
                made = function(run)
            if nodes.rank() > 0:
                return self._part_done(run)
            if spec.kind == "step":
                return self._step_done(run)
            trained = self._store(made)
        elif nodes.rank() > 0:
            say("the model is trained already; node 0 delivers it")
            return RunResult(spec.run_id, spec.kind, durations=self.durations)
        else:
            say(f"attempt {self.attempt}: the model is trained already; only delivering it")
        return self._deliver(trained)

    def _announce(self) -> None:
        spec = self.spec
        say(f"run {spec.run_id} of {spec.model}: {spec.entry_point}, attempt {self.attempt}")
        os.environ |= {
            "WINDTUNNEL_RUN_ID": spec.run_id,
            "WINDTUNNEL_RUN_DIR": str(self.folder),
            "WINDTUNNEL_MODEL": spec.model,
            "WINDTUNNEL_SEED": str(spec.seed),
            "WINDTUNNEL_CORRELATION_ID": spec.correlation_id or "",
            "WINDTUNNEL_CAUSE": spec.cause or "",
            "WINDTUNNEL_CHECKPOINT_DIR": str(self.folder / "checkpoint"),
            **steps.input_environment(spec.inputs),
        }
        if spec.tracking_uri:
            # So that a plain mlflow.log_metric() in the user's code reaches the same run.
            os.environ |= {"MLFLOW_TRACKING_URI": spec.tracking_uri, "MLFLOW_RUN_ID": spec.run_id}

    def _connect(self) -> None:
        if self.spec.tracking_uri is None:
            return
        self.tracking = connect(self.spec.tracking_uri)
        if self.attempt > 1 and nodes.rank() == 0:
            # A former attempt closed it; a server that does not answer is told at the end.
            with suppress(UnavailableError, TrainingError):
                self.tracking.set_state(self.spec.run_id, "RUNNING", None)
        self._ask_leave()
        self.shipper = Shipper(self.spool, self.tracking, self.spec.run_id)

    def _ask_leave(self) -> None:
        """Hours of training are lost on whoever may not deliver what comes of them: that is found before they begin.

        Raises:
            NotAllowedError: the server does not let this user write into the run.
        """
        if self.tracking is None or nodes.rank() > 0:
            return
        try:
            self.tracking.log_batch(self.spec.run_id, [], {}, {"wt.attempt": str(self.attempt)})
        except NotAllowedError:
            raise
        except (UnavailableError, TrainingError) as error:  # it is told at the end, when all is tried again
            say(f"the tracking server: {error.message}")

    def _record(self, function: Callable[..., Any]) -> None:
        """What the run says of itself (TRK-6)."""
        file = getattr(sys.modules.get(function.__module__), "__file__", None)
        found = environment.record(self.spec, Path(file).parent if file else None, self.attempt)
        if nodes.rank() == 0:
            self.spool.set_facts(environment.flatten(self.spec.params), environment.tags(self.spec, found))
        files.write_json(self.folder / "environment.json", found)

    def _seed(self) -> None:
        random.seed(self.spec.seed)
        if "numpy" in sys.modules:  # never imported just for this
            sys.modules["numpy"].random.seed(self.spec.seed % 2**32)

    def _part_done(self, run: Run) -> RunResult:
        """A node other than 0 has done its part: what it returned is node 0's to store and deliver."""
        if self.tracking is not None:
            with suppress(UnavailableError):  # what it used; the runner tries once more
                self.spool.ship(self.tracking, self.spec.run_id)
        return RunResult(self.spec.run_id, self.spec.kind, metrics=run.metrics, durations=self.durations)

    # -- steps
    def _step_done(self, run: Run) -> RunResult:
        spec, done = self.spec, {}
        missing = [name for name, path in run.outputs.items() if not path.exists()]
        if missing:
            raise TrainingError(
                f"{spec.entry_point} did not write {', '.join(missing)}",
                hint=f"write to run.outputs[{missing[0]!r}], here {run.outputs[missing[0]]}",
            )
        with self.stage("publish"):
            for name, path in run.outputs.items():
                if spec.publish:
                    home = Home(self.folder.parent.parent)
                    where = (spec.publish["dag"], spec.publish["run"], spec.publish["task"])
                    done[name] = steps.write_output(home, *where, name, path).to_dict()
                else:
                    done[name] = steps.describe(name, path).to_dict()
        self._ship()
        return RunResult(spec.run_id, "step", outputs=done, metrics=run.metrics, durations=self.durations)

    # -- training
    def _fingerprint(self) -> str:
        spec = self.spec
        return canonical.digest(
            {
                "entry_point": spec.entry_point,
                "params": spec.params,
                "seed": spec.seed,
                "inputs": {name: given.digest for name, given in spec.inputs.items()},
            }
        )

    def _trained(self) -> manifest.Manifest | None:
        """The model an earlier attempt has stored for exactly this task, if its bytes are still whole."""
        noted = files.read_json(self.folder / "trained.json")
        if noted is None or noted["fingerprint"] != self._fingerprint():
            return None
        found = manifest.Manifest.from_dict(noted["manifest"])
        try:
            manifest.verify(self.folder / MODEL, found)
        except IntegrityError as error:
            say(f"the stored model is not whole, training again: {error.message}")
            return None
        self.durations.update(noted["durations"])
        return found

    def _store(self, made: Any) -> manifest.Manifest:
        from windtunnel.tracking import packaging

        with self.stage("store"):
            packaging.save(
                made,
                self.folder / MODEL,
                packaging.example(self.spec.inputs["rows"].path, self.spec.features),
                entry_point=self.spec.entry_point,
                trust=self.spec.trust,
                pickle=self.spec.pickle,
                staging=self.folder / "staging",
            )
            found = manifest.build(self.folder / MODEL)
        files.write_json(
            self.folder / "trained.json",
            {"fingerprint": self._fingerprint(), "manifest": found.to_dict(), "durations": self.durations},
        )
        return found

    def _deliver(self, trained: manifest.Manifest) -> RunResult:
        spec = self.spec
        with self.stage("deliver"):
            if spec.tracking_uri:
                self._insist(lambda: self._upload(trained))
            self._ship()
        return RunResult(
            spec.run_id,
            "train",
            model_uri=f"runs:/{spec.run_id}/{MODEL}" if spec.tracking_uri else None,
            model_path=str(self.folder / MODEL),
            digest=trained.content,
            manifest=trained.to_dict(),
            metrics=own_metrics(self.spool),
            durations=self.durations,
        )

    def _upload(self, trained: manifest.Manifest) -> None:
        """Send exactly the stored bytes and read back that they are all there (TRK-8)."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.spec.tracking_uri)
        try:
            client.log_artifacts(self.spec.run_id, str(self.folder / MODEL), MODEL)
            if (self.folder / "environment.json").exists():
                client.log_artifact(self.spec.run_id, str(self.folder / "environment.json"), "windtunnel")
        except (MlflowException, OSError) as error:
            # Whatever the server's trouble is, the model is safe on disk and can be sent again.
            raise UnavailableError(f"the model cannot be sent to {self.spec.tracking_uri}: {error}") from error
        assert self.tracking is not None
        there = self.tracking.artifacts(self.spec.run_id, MODEL)
        wanted = {name: size for name, (_, size) in trained.files.items()}
        if there != wanted:
            odd = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
            raise UnavailableError(f"the server does not hold the model as it was sent: {', '.join(odd[:5])}")

    def _ship(self) -> None:
        if self.tracking is not None:
            tracking = self.tracking
            self._insist(lambda: self.spool.ship(tracking, self.spec.run_id))

    def _insist(self, deliver: Callable[[], None]) -> None:
        """Try until it is delivered or patience ends; everything stays on disk."""
        end = time.monotonic() + float(os.environ.get("WINDTUNNEL_DELIVER_WITHIN", DELIVER_WITHIN))
        pause = 0.5
        while True:
            try:
                deliver()
                return
            except UnavailableError as error:
                if time.monotonic() + pause > end:
                    raise TransientError(
                        f"trained, but not delivered: {error.message}",
                        hint="the model is kept on disk; the next attempt only delivers it",
                    ) from error
                say(f"waiting for the tracking server: {error.message}")
                time.sleep(pause)
                pause = min(pause * 2, 15.0)


def main(arguments: list[str]) -> None:
    """Run one attempt and leave with the exit code that tells how it went."""
    folder = Path(arguments[0])
    processes.die_with_parent(int(os.environ["WINDTUNNEL_RUNNER_PID"]))
    with suppress(OSError):
        os.nice(5)  # servers and the scheduler go first
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")  # when memory ends, this goes, not Airflow
    os.chdir(folder)
    child: Child | None = None
    try:
        child = Child(folder)
        done = child.work()
        if child.shipper:
            child.shipper.stop()
        files.write_json(folder / "result.json", canonical.loads(canonical.dumps(done.to_dict())))
        say(f"done in {sum(child.durations.values()):.1f} s: {child.durations}")
        code = 0
    except BaseException as error:
        failure = failures.classify(error)
        code = EXIT[failure]
        message = failures.describe(error)
        with suppress(Exception):
            traceback.print_exc()
        with suppress(Exception):
            files.write_json(folder / "failure.json", {"failure": failure, "message": message})
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    # Threads the user's code has left behind must not keep the process alive.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
