"""The house: quick to start, its layers kept apart, its lock and its pages in order."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlaif import __version__, cli
from rlaif.errors import ConfigError, RlaifError

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "vllm",
    "datasets",
    "prefect",
    "numpy",
    "pydantic",
    "aiohttp",
}

LAYERS = (  # each imports only from itself and from those above; stages not from one another
    {
        "__init__",
        "errors",
        "records",
        "intervals",
        "calibration",
        "shipped",
        "documents",
        "jsonl",
        "progress",
        "config",
    },
    {"stages", "runs", "constitution", "templates", "completions", "engine", "losses", "training"},
    {"prompts", "critique", "finetune", "preferences", "reward", "policy", "evaluation", "audit"},
    {"sandbox"},
    {"report", "trace", "touched", "keeping"},
    {"checking", "pipeline"},
    {"estimating", "planning"},
    {"cli", "__main__"},
)
STAGES = LAYERS[2]
MAY = {  # scoring needs the reward model; a probe reports what evaluation does
    ("policy", "reward"),
    ("policy", "evaluation"),
}
BELONGS_TO_SANDBOX = {("evaluation", "sandbox")}  # the oracle is for evaluation and tests alone


def python(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=os.environ | env,
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )


# --- starting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import rlaif",
        "from rlaif.cli import main; assert main(['--help']) == 0",
        "from rlaif.cli import main; assert main(['--version']) == 0",
    ],
)
def test_starts_without_anything_heavy(code: str) -> None:
    done = python("-c", f"{code}\nimport sys; print('#', *sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.rsplit("#", 1)[1].split())


def commands(of: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, of
    if isinstance(of, click.Group):
        for inner in of.list_commands(click.Context(of)):
            if found := of.get_command(click.Context(of), inner):
                yield from commands(found, f"{name} {inner}")


def test_every_command_and_option_says_what_it_is_for() -> None:
    found = dict(commands(cli.root, "rlaif"))
    assert len(found) > 25
    for name, command in found.items():
        assert command.help, name
        options = (param for param in command.params if isinstance(param, click.Option))
        assert [option.name for option in options if not option.help] == [], name


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_loads_and_needs_no_torch(name: str) -> None:
    done = python(
        "-c",
        f"from rlaif.cli import main; code = main([{name!r}, '--help'])\n"
        "import sys; print('#', *sys.modules); sys.exit(code)",
    )
    assert done.returncode == 0, done.stderr
    assert f"Usage: rlaif {name}" in done.stdout
    assert not {"torch", "transformers", "vllm"} & set(done.stdout.rsplit("#", 1)[1].split())


def test_help_names_every_command() -> None:
    done = python("-m", "rlaif", "--help")
    for name, (_, short) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(short[:30])}", done.stdout, re.M)


def test_version() -> None:
    assert python("-m", "rlaif", "--version").stdout.split() == ["rlaif,", "version", __version__]


QUIET = """
import logging
from rlaif.cli.run import _find_flows, pipeline
logging.basicConfig()
_find_flows()
pipeline()
for name in ("prefect", "prefect.flow_runs", "EventsWorker"):
    logging.getLogger(name).warning("Still processing items: 1 items remaining...")
"""


def test_prefect_says_nothing_on_the_console() -> None:
    assert python("-c", QUIET).stderr == ""


# --- ending ---------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `rlaif boom` raise this."""

    @click.command()
    def boom() -> None:
        raise error

    monkeypatch.setitem(sys.modules[__name__].__dict__, "boom", boom)
    monkeypatch.setitem(cli.COMMANDS, "boom", (f"{__name__}:boom", ""))


def test_an_error_is_a_message_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, ConfigError("no weight", where="law.yaml:3:5", remedy="add one"))
    monkeypatch.delenv("RLAIF_DEBUG", raising=False)
    assert cli.main(["boom"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: law.yaml:3:5: no weight\n  remedy: add one\n")


def test_a_long_or_hostile_error_stays_on_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "\n".join(f"line {i} \x1b[2J" for i in range(1000))
    failing(monkeypatch, RlaifError(f"the server died\n{log}", remedy="look at its log"))
    monkeypatch.delenv("RLAIF_DEBUG", raising=False)
    assert cli.main(["boom"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == cli.LINES
    assert "\x1b" not in err
    assert "the server died" in err
    assert "963 lines left out" in err
    assert err.endswith("remedy: look at its log\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, RlaifError("no"))
    monkeypatch.setenv("RLAIF_DEBUG", "1")
    with pytest.raises(RlaifError, match="no"):
        cli.main(["boom"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, cli.STOPPED),
        (click.Abort(), 1, "Aborted."),
        (click.ClickException("which one?"), 1, "Error: which one?"),
    ],
)
def test_other_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    failing(monkeypatch, error)
    assert cli.main(["boom"]) == code
    assert capsys.readouterr().err.strip() == said


def test_a_reader_that_left_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "rlaif", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rlaif", "--help"]
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_what_a_terminal_cannot_show_is_a_question_mark(tmp_path: Path) -> None:
    law = tmp_path / "law.yaml"
    law.write_text(
        "id: a\nversion: 1\ntitle: One → two\nprinciples:\n"
        "  - {id: x, critique: A, revise: B, prefer: C}\n",
        "utf-8",
    )
    done = python("-m", "rlaif", "constitution", "show", str(law), PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("One ? two 1 (")


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["constituton"]) == 2
    assert "constituton" in capsys.readouterr().err


# --- layers ---------------------------------------------------------------------------------------


def part(module: str) -> str:
    """`rlaif.engine.client` belongs to `engine`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path) -> Iterator[str]:
    """The modules of rlaif that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "rlaif")
        elif isinstance(node, ast.ImportFrom) and node.module == "rlaif":
            yield from (f"rlaif.{a.name}" for a in node.names if not a.name.startswith("_"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlaif."):
            yield str(node.module)


def test_layers_are_kept() -> None:
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    used = set()
    for path in sorted((ROOT / "rlaif").rglob("*.py")):
        here = path.relative_to(ROOT / "rlaif").parts[0].removesuffix(".py")
        assert here in level, f"{path}: which layer is {here} in? Say so in LAYERS"
        for there in {part(module) for module in imported(path)} - {here}:
            if (here, there) in MAY | BELONGS_TO_SANDBOX:
                used.add((here, there))
                continue
            assert level[there] <= level[here], f"{path} reaches up to {there}"
            assert not {here, there} <= STAGES, f"{path}: stages meet through files, not imports"
    assert used == MAY | BELONGS_TO_SANDBOX


# --- packaging ------------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, str]:
    rows = [line.split("==") for line in (ROOT / lock).read_text().splitlines() if "==" in line]
    return {canonicalize_name(name): version for name, version in rows}


@pytest.mark.parametrize(
    ("lock", "left_out"), [("constraints.txt", "gpu"), ("constraints-gpu.txt", "cpu")]
)
def test_lock_meets_every_requirement(lock: str, left_out: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        line for extra, lines in extras.items() if extra != left_out for line in lines
    ]
    pinned = pins(lock)
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{lock} has no {requirement.name}: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, {lock} has {version}"


def test_wheel_carries_what_it_needs(tmp_path: Path) -> None:
    done = python("-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    shipped = [("constitution", "*.yaml"), ("flows", "*.py"), ("prompts", "*.j2")]
    for folder, pattern in shipped:
        for path in (ROOT / folder).glob(pattern):
            assert f"rlaif/_shipped/{folder}/{path.name}" in names
    for path in (ROOT / "rlaif" / "sandbox" / "seed").rglob("*"):
        assert path.is_dir() or path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "runs/"))]


# --- pages ----------------------------------------------------------------------------------------


def pages() -> list[Path]:
    folders = ("", "docs", "docs/decisions", "constitution", "prompts", "tests/bench")
    return sorted(page for folder in folders for page in (ROOT / folder).glob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert not [link for link in local if not (page.parent / link).exists()]


def test_readme_names_every_command_and_target() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony
    assert not [t for t in phony[1].split() if t != "help" and f"`make {t}`" not in text]
    assert not [name for name in cli.COMMANDS if f"rlaif {name}" not in text]


@pytest.mark.parametrize(("right", "said"), [(0, "no virtual"), (1, "Python 3.11 is needed")])
def test_setup_wants_the_python_of_the_locks(tmp_path: Path, right: int, said: str) -> None:
    """A Python that answers so when it is asked for its version, and makes no environment."""
    python, venv = tmp_path / "python3", tmp_path / "venv"
    python.write_text(f'#!/bin/sh\ntest "$1" = -c && exit {right}\nexit 1\n')
    python.chmod(0o755)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/false")  # left by another Python
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "setup", "DEVICE=cpu", f"VENV={venv}", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode
    assert said in done.stdout
    assert venv.exists() == bool(right)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_example_without_prefect_trains_a_reward_model_where_the_config_wants_one(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlaif import checking, config, pipeline

    called: list[str] = []

    class Stages:
        config = SimpleNamespace(reward=SimpleNamespace(enabled=enabled))

        def __getattr__(self, stage: str) -> Any:
            return lambda *inputs: called.append(stage)

    monkeypatch.setattr(pipeline.Pipeline, "open", lambda given: nullcontext(Stages()))
    monkeypatch.setattr(config, "load", lambda path: None)
    monkeypatch.setattr(checking, "check", lambda given: called.append("check"))
    monkeypatch.setattr(sys, "argv", ["without_prefect.py", "CONFIG"])
    runpy.run_path(str(ROOT / "examples" / "without_prefect.py"))
    assert called[:2] == ["check", "prompts"]
    assert ("reward" in called) is enabled
    assert called[-1] == "report"
