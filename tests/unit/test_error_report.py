"""error.json, on what may fail while an error is reported: the error itself is raised all the same."""

import json
import os

import pytest
from tiny_run import make_trainer, tiny_config, tiny_set

from mixdist.engine.error_report import error_kept


@pytest.fixture
def trainer(tmp_path):
    return make_trainer(tiny_config(tiny_set(tmp_path / "set"), tmp_path / "run"))


def test_a_device_that_failed_and_cannot_tell_the_samples_does_not_hide_the_error(trainer, tmp_path):
    def broken():
        raise RuntimeError("CUDA error: device-side assert triggered")

    trainer.under_way = broken
    with pytest.raises(ValueError, match="the first"), error_kept(trainer, tmp_path / "error.json"):
        raise ValueError("the first")
    report = json.loads((tmp_path / "error.json").read_text())
    assert (report["error"], report["samples"]) == ("ValueError: the first", None)


def test_where_the_file_system_has_no_links_nothing_is_left_behind(trainer, tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ValueError, match="the first"), error_kept(trainer, tmp_path / "error.json"):
        raise ValueError("the first")
    assert not list(tmp_path.glob("error.json*"))
