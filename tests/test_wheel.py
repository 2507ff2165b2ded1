"""A wheel builds, holds everything, and works in an environment that has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output; a failure shows both streams. PYTHONPATH must not find the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither build/ nor stale files of the checkout take part."""
    room = tmp_path_factory.mktemp("wheel")
    copy = room / "source"
    shutil.copytree(
        ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", room)
    run(sys.executable, "-m", "pip", "wheel", *options, copy, cwd=room)
    (built,) = room.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; the dependencies are borrowed through a .pth file.

    Site does not follow .pth files in a borrowed folder, so the editable checkout stays hidden.
    """
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False, symlinks=os.name == "posix")
    bin_dir = home / ("Scripts" if os.name == "nt" else "bin")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", bin_dir / "python")
    run(*pip, "install", *options, wheel, cwd=home)
    (site,) = home.glob("[lL]ib/**/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return bin_dir


def test_wheel_holds_every_file(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "subquad").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names
    extra = {name for name in names - wanted if ".dist-info/" not in name}
    assert extra == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_imports_without_the_checkout(clean: Path):
    code = "import subquad; print(*subquad.__path__)"
    (where,) = run(clean / "python", "-c", code, cwd=clean).split()
    assert Path(where).is_relative_to(clean.parent)


def test_entry_point_runs(clean: Path):
    if not (ROOT / "src" / "subquad" / "cli" / "__init__.py").is_file():
        pytest.skip("there is no cli yet")
    assert "train" in run(clean / "subquad", "--help", cwd=clean)
