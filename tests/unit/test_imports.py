"""The collector pauses while libraries are imported, and looks at nothing of them afterwards."""

import gc
import subprocess
import sys

import pytest

from mixdist.imports import uncollected


@pytest.fixture
def collecting():
    frozen = gc.get_freeze_count()
    yield
    gc.enable()
    if not frozen:
        gc.unfreeze()


def test_nothing_is_collected_within_and_what_was_made_there_is_left_out_later(collecting):
    with uncollected():
        assert not gc.isenabled()
        kept = [[] for _ in range(10)]
    assert gc.isenabled()
    assert not [each for each in gc.get_objects() if any(each is one for one in kept)]


def test_the_collector_runs_again_after_an_import_that_failed(collecting):
    with pytest.raises(ImportError), uncollected():
        import mixdist.no_such_module  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_the_caller_switched_off_stays_off(collecting):
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize(
    "code",
    [
        "import mixdist.train",
        "import contextlib, mixdist.cli\nwith contextlib.suppress(SystemExit): mixdist.cli.main(['train', '--help'])",
    ],
)
def test_a_training_leaves_its_libraries_out(code):
    ask = "sys.__stdout__.write(f'{gc.isenabled()} {gc.get_freeze_count()}')"
    told = f"import gc, sys\nsys.stdout = sys.stderr\n{code}\n{ask}"
    done = subprocess.run([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True, check=True)
    enabled, frozen = done.stdout.split()
    assert enabled == "True"
    assert int(frozen) > 100_000
