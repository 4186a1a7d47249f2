"""A set that is decoded before the first step gives a sign of life with every chunk."""

from pathlib import Path

import pytest
from feeds import ALONE, UNEVEN, config

from mixdist.data import decoded, images
from mixdist.data.open import open_feed
from mixdist.data.samples import find_samples


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_every_chunk_that_is_decoded_is_a_sign_of_life(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    signs, touched = [], []
    monkeypatch.setattr(images, "CHUNK", 8)
    monkeypatch.setattr(decoded, "touch", touched.append)
    settings = config(sets / "whole", data__cache=kind, data__cache_dir=tmp_path)
    samples = find_samples(settings)
    open_feed(settings, samples, ALONE, alive=lambda: signs.append(0))
    tested = int((samples.sl.split("test").labels >= 0).sum())
    assert len(signs) == -(-sum(UNEVEN.values()) // 8) - (-tested // 8)
    assert len(touched) == (len(signs) if kind == "disk" else 0)  # for those who wait for it
