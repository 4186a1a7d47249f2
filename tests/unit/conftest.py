"""Hypothesis without its time limit for one example, which a busy machine breaks at random; sets that tests share."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
from feeds import UNEVEN
from hypothesis import settings
from packing import class_folders, packed, pixels, write_images
from PIL import Image

settings.register_profile("mixdist", deadline=None)
settings.load_profile("mixdist")


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Path:
    """A folder of packed sets.

    "whole": 37 labelled 6 x 6 images in 3 classes of 21, 12 and 4, and 9 to test on. "partly": half of them labelled.
    "plain": 11 unlabelled images of 4 x 6 pixels. "mixed": images of two sizes.
    """
    folder = tmp_path_factory.mktemp("sets")
    source = folder / "source"
    for split, counts in (("train", UNEVEN), ("test", dict.fromkeys(UNEVEN, 3))):
        for name, count in counts.items():
            for row in range(count):
                path = source / split / name / f"{row:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(f"{split}/{name}/{row}", 6, 6)).save(path)
    packed(source, folder / "whole", shard_size=10)
    packed(source, folder / "partly", labelled_fraction=0.5)
    packed(write_images(folder / "images", *(f"{row}.png" for row in range(11))), folder / "plain")
    sizes = class_folders(folder / "sizes", "ash", "birch")
    Image.fromarray(pixels("large", 12, 9)).save(sizes / "ash" / "large.png")
    packed(sizes, folder / "mixed")
    return folder


@pytest.fixture
def served():
    """Return a function that serves a folder on loopback and returns its URL."""
    servers = []

    def serve(folder):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
