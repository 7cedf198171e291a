"""The images' recipes: read here, for there is no container engine. Their commands run in test_cluster.py and below."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
BAKE = (ROOT / "docker" / "docker-bake.hcl").read_text(encoding="utf-8")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(word, rest) of each instruction, lines joined, comments left out."""
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def stages(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage; the last without a name is ``""``."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = "(arguments)"
    for word, rest in instructions(path):
        if word == "FROM":
            named = re.search(r" AS (\S+)$", rest)
            name = named[1] if named else ""
        found.setdefault(name, []).append((word, rest))
    return found


def finals(path: Path) -> dict[str, list[tuple[str, str]]]:
    """The stages that become images: those nobody copies from."""
    found = stages(path)
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"from=([\w-]+)", text))
    return {name: ones for name, ones in found.items() if name not in used | {"(arguments)"}}


def test_there_are_five() -> None:
    assert [path.parent.name for path in FILES] == ["airflow", "collector", "model-server", "registry", "trainer"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_images_are_slim_safe_and_pinned(path: Path) -> None:
    """DEMAND OPS-3"""
    ones = instructions(path)
    for word, rest in ones:
        if word == "FROM":
            assert re.match(r"\$\{(\w+_)IMAGE\}\$\{\1DIGEST:\+@\}\$\{\1DIGEST:-[^}]+\}( AS \w+)?$", rest), rest
        if word == "ARG" and "_IMAGE=" in rest:
            assert re.search(r":[\w.-]*\d", rest), rest
            assert "latest" not in rest
        if word == "ARG" and "_DIGEST" in rest:
            assert "=" not in rest, "a digest is given, never made up"
        assert word != "ADD"
        assert "curl" not in rest
        assert "wget" not in rest
    made = finals(path)
    assert made
    for name, stage in made.items():
        (user,) = (rest for word, rest in stage if word == "USER")
        number, group = user.split(":")
        assert int(number) >= 10001, name
        assert group == "0", "any user of group 0 must do"
        labels = " ".join(rest for word, rest in stage if word == "LABEL")
        for key in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{key}=" in labels, (name, key)
        runs = [rest for word, rest in stage if word == "RUN"]
        assert not [rest for rest in runs if re.search(r"\b(apt|gcc|make|git)\b", rest)]
        # Nothing secret is baked in.
        assert not re.search(r"(?i)password|secret=|token", " ".join(rest for word, rest in stage if word == "ENV"))


def expanded(text: str, given: dict[str, str]) -> str:
    """Variables as a Dockerfile has them: ``${A}``, ``${A:-otherwise}``, ``${A:+instead}``."""

    def value(found: re.Match[str]) -> str:
        name, how, word = found[1], found[2], found[3] or ""
        told = given.get(name, "")
        return {None: told, ":-": told or word, ":+": word if told else ""}[how]

    return re.sub(r"\$\{(\w+)(?:(:[-+])([^}]*))?\}", value, text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_digest_that_is_not_given_is_named(path: Path) -> None:
    """Every stage's base has to be a name, also of a stage that is not built; without a digest it is no image's."""
    images = {
        name: value
        for word, rest in instructions(path)
        if word == "ARG" and "_IMAGE=" in rest
        for name, value in [rest.split("=", 1)]
    }
    digests = {name.replace("_IMAGE", "_DIGEST"): f"sha256:{'a' * 64}" for name in images}
    for word, rest in instructions(path):
        if word != "FROM":
            continue
        base = rest.split()[0]
        (wanted,) = set(re.findall(r"(\w+_DIGEST)", base))
        pinned = expanded(base, images | digests)
        assert pinned == f"{images[wanted.replace('_DIGEST', '_IMAGE')]}@{digests[wanted]}"
        without = expanded(base, images)
        # A tag's form, by the specification of OCI's distribution.
        assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", without), without
        assert f"{wanted}-is-not-given" in without
    for name in digests:
        body = re.search(rf'^variable "{name}" \{{\n(.*?)^\}}', BAKE, re.M | re.S)
        assert body is not None, name
        assert f'{name} == "" || length(regexall("^sha256:[0-9a-f]{{64}}$", {name})) == 1' in body[1]


def test_what_the_airflow_image_has_besides_is_locked_with_the_rest() -> None:
    """DEMAND OPS-3: no package of EXTRA_PACKAGES, nor what it needs, changes a version of the lock."""

    def locked(path: Path) -> dict[str, str]:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^([\w.-]+)(?:\[[\w,.-]+\])?==(\S+)(.*(?:\n +.*)*)", text, re.M)
        assert all("--hash=sha256:" in more for _, _, more in found)
        return {name: version for name, version, _ in found}

    docker, recipe = ROOT / "docker", dict(stages(ROOT / "docker" / "airflow" / "Dockerfile")[""])["RUN"]
    extra, main = locked(docker / "airflow-extra.txt"), locked(ROOT / "locks" / "main.txt")
    assert not extra.keys() & main.keys()
    wanted = [line for line in (docker / "airflow-extra.in").read_text().splitlines() if not line.startswith("#")]
    text = (docker / "airflow" / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r'^ARG EXTRA_PACKAGES="([^"]*)"$', text, re.M)[1].split() == wanted  # type: ignore[index]
    for line in wanted:
        name, version = line.split("==")
        assert extra[name] == version
    # One resolution for all of it.
    (command,) = [one for one in recipe.split("&&") if "EXTRA_PACKAGES" in one]
    for lock in ("locks/main.txt", "docker/airflow-extra.txt"):
        assert f"--constraint /build/src/{lock}" in command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_what_is_installed_is_what_is_tested(path: Path) -> None:
    """Only from the locks, and only extras there are."""
    sys.path.insert(0, str(ROOT))
    extras = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(encoding="utf-8"), re.M))
    for word, rest in instructions(path):
        if word != "RUN":
            continue
        for command in re.split(r"&&", rest):
            if "pip install" in command:
                assert re.search(r"--constraint \S*locks/main.txt|--require-hashes|--no-deps", command), command
        for wanted in re.findall(r"\)\[([\w,]+)\]", rest):
            assert set(wanted.split(",")) <= extras


def test_what_the_recipes_copy_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    from setuptools import find_packages  # the folders of setup.py

    assert find_packages is not None
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    folders = {where.split("/")[0] for where in re.findall(r'^    "\w+": "([\w/]+)",$', setup, re.M)}
    assert folders | {"setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "locks", "docker"} == kept
    for name in kept:
        assert (ROOT / name).exists()


def test_bake_builds_each_of_them_with_a_list_of_what_is_inside() -> None:
    targets = dict(re.findall(r'^target "([\w-]+)" \{\n(.*?)^\}', BAKE, re.M | re.S))
    assert set(targets) == {"common", "registry", "airflow", "trainer", "trainer-cuda", "model-server", "collector"}
    assert "type=sbom" in targets["common"]
    assert "type=provenance,mode=max" in targets["common"]
    assert re.search(r'PLATFORMS" \{\s+default = "linux/amd64,linux/arm64"', BAKE)
    used = {path.parent.name: set() for path in FILES}
    for name, body in targets.items():
        if name == "common":
            continue
        assert 'inherits   = ["common"]' in body
        file = re.search(r'dockerfile = "([^"]+)"', body)[1]  # type: ignore[index]
        path = ROOT / file
        assert path in FILES
        used[path.parent.name].add(name)
        wanted = re.search(r'target\s+= "(\w+)"', body)
        assert (wanted[1] if wanted else "") in finals(path)
        # Every argument without a default is given.
        needed = set(re.findall(r"^ARG (\w+)$", path.read_text(encoding="utf-8"), re.M))
        given = set(re.findall(r"^    (\w+)\s+= ", body + targets["common"], re.M))
        if name == "trainer":
            needed.discard("CUDA_DIGEST")
        assert needed <= given, name
    assert all(used.values())
    groups = dict(re.findall(r'^group "(\w+)" \{\n\s+targets = \[([^]]+)\]', BAKE, re.M))
    assert set(re.findall(r'"([\w-]+)"', groups["all"])) == set(targets) - {"common"}


def test_images_and_chart_agree(helpers: object) -> None:
    """Names, users, ports and folders that both have."""
    import yaml

    values = yaml.safe_load((ROOT / "helm" / "windtunnel" / "values.yaml").read_text(encoding="utf-8"))
    chart = yaml.safe_load((ROOT / "helm" / "windtunnel" / "Chart.yaml").read_text(encoding="utf-8"))
    registry = stages(ROOT / "docker" / "registry" / "Dockerfile")[""]
    said = dict(registry)
    assert said["USER"] == f"{values['registry']['runAsUser']}:0"
    assert said["EXPOSE"] == str(values["registry"]["port"])
    assert re.search(rf'VERSION" \{{\s+default = "{chart["appVersion"]}"', BAKE)
    assert re.search(r'REGISTRY" \{[^}]+default = "windtunnel"', BAKE)
    assert values["image"]["repository"] == "windtunnel/registry"
    assert "WINDTUNNEL_HOME=/var/lib/windtunnel" in said["ENV"]


def test_entry_points_are_commands_that_run() -> None:
    """Each image's entry point and default command, with the environments that the images are made of."""
    registry = dict(stages(ROOT / "docker" / "registry" / "Dockerfile")[""])
    entry, command = json.loads(registry["ENTRYPOINT"]), json.loads(registry["CMD"])
    assert entry[0] == "python"
    done = subprocess.run([sys.executable, *entry[1:], *command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout
    collector = dict(stages(ROOT / "docker" / "collector" / "Dockerfile")[""])
    argv = [*json.loads(collector["ENTRYPOINT"]), *json.loads(collector["CMD"])]
    done = subprocess.run(
        [Path(sys.executable).with_name(argv[0]), *argv[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--spool" in done.stdout
    server = dict(stages(ROOT / "docker" / "model-server" / "Dockerfile")[""])
    mlserver = ROOT / ".venv-serving" / "bin" / "mlserver"
    if not mlserver.exists():
        pytest.skip("no .venv-serving: make setup")
    entry = json.loads(server["ENTRYPOINT"])
    done = subprocess.run([mlserver, *entry[1:], "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FOLDER" in done.stdout


def test_the_wheel_holds_every_package_the_images_run(tmp_path: Path) -> None:
    """Built as the images build it; nothing that a command imports was forgotten."""
    source = tmp_path / "src"
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    words = shlex.split("-m build --wheel --no-isolation --outdir")
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path / "dist"), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    import zipfile

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    for module in ("windtunnel_mlflow/cluster/__main__.py", "windtunnel_mlflow/migrations/versions/0001_first.py"):
        assert module in names
    needs = [
        Requirement(line.removeprefix("Requires-Dist: ")) for line in metadata.splitlines() if "Requires-Dist" in line
    ]
    assert any(need.name == "boto3" and need.marker and need.marker.evaluate({"extra": "s3"}) for need in needs)
