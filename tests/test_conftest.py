"""The test run itself: skips fail where everything is required, and the PostgreSQL server is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

CASES = """
import pytest

def test_passes():
    assert True

def test_skips_by_name():
    pytest.skip("needs a thing")

@pytest.mark.xfail(strict=True)
def test_expected_failure():
    assert False
"""


def run_cases(folder: Path, source: str, required: str) -> subprocess.CompletedProcess[str]:
    """Run a test file of its own under this conftest."""
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_cases.py").write_text(source)
    environment = {**os.environ, "BACKFLIP_REQUIRE": required}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_skip_passes_where_not_everything_is_required(tmp_path: Path) -> None:
    result = run_cases(tmp_path, CASES, required="")
    assert result.returncode == 0, result.stdout
    assert "1 skipped" in result.stdout


def test_a_skip_fails_where_everything_is_required(tmp_path: Path) -> None:
    result = run_cases(tmp_path, CASES, required="all")
    assert result.returncode == 1, result.stdout
    assert "1 failed, 1 passed, 1 xfailed" in result.stdout
    assert "needs a thing" in result.stdout


def test_a_file_that_skips_itself_fails_too(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('no_such_module_at_all')\ndef test_never(): pass\n"
    assert run_cases(tmp_path, source, required="").returncode in (0, 5)
    result = run_cases(tmp_path, source, required="all")
    assert result.returncode not in (0, 5), result.stdout


def test_each_postgres_database_is_empty_and_real(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        version = connection.execute("SELECT version()").fetchone()
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert version is not None and version[0].startswith("PostgreSQL")
    assert tables == (0,)
