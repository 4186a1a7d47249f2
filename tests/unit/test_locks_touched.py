"""Who waits for a lock hears of an owner that gets on, and of no other."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from mixdist.locks import locked, touch


def test_those_who_wait_hear_each_touch_of_the_owner_and_get_the_lock_after_it(tmp_path: Path) -> None:
    path, heard = tmp_path / "lock", Event()

    def wait() -> bool:
        with locked(path, touched=heard.set):
            return path.exists()

    with ThreadPoolExecutor() as others:
        with locked(path) as file:
            waiting = others.submit(wait)
            assert not heard.wait(0.3)  # an owner that does nothing
            while not heard.wait(0.1):  # until it has come
                touch(file)
            assert not waiting.done()
        assert waiting.result()
    assert not path.exists()
