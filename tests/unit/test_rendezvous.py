"""The ranks of a start agree on a name, whatever the ranks of earlier starts have left in the store."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore, PrefixStore

from mixdist.errors import HangError, MixdistError
from mixdist.rendezvous import NAME, agree, shared_store

SIZE = 3


def start(store: HashStore, order: list[int]) -> list[str]:
    """Start ranks in an order; return the name that each takes."""
    with ThreadPoolExecutor(SIZE) as ranks:
        return [each.result() for each in [ranks.submit(agree, store, rank, SIZE, 30.0) for rank in order]]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(SIZE)), st.permutations(range(SIZE)))
def test_all_ranks_take_one_name_that_the_start_before_did_not_have(first, second):
    store = HashStore()
    before, after = start(store, first), start(store, second)
    assert len(set(before)) == len(set(after)) == 1
    assert before[0] != after[0]


def test_a_name_that_a_dead_rank_0_put_up_is_answered_in_vain():
    store = HashStore()
    store.set(NAME, "dead")
    store.set("dead/1", "a token of the start before")
    with ThreadPoolExecutor(SIZE) as ranks:
        others = [ranks.submit(agree, store, rank, SIZE, 30.0) for rank in (1, 2)]
        store.wait(["dead/2"])  # it has read the old name
        name = ranks.submit(agree, store, 0, SIZE, 30.0).result()
        assert [each.result() for each in others] == [name, name]
    assert name != "dead"


def test_rank_0_names_those_that_do_not_come_and_the_others_give_up():
    store = HashStore()
    with ThreadPoolExecutor(SIZE) as ranks:
        first, second = (ranks.submit(agree, store, rank, SIZE, 1.0) for rank in (0, 1))
        with pytest.raises(HangError, match=r"^of 3 ranks, 2 did not come"):
            first.result()
        with pytest.raises(HangError, match=r"^rank 1 waited in vain"):
            second.result()


def test_a_key_under_the_name_of_one_start_is_none_under_that_of_the_next():
    store = HashStore()
    PrefixStore(start(store, [0, 1, 2])[0], store).set("mixdist/fallen", "rank 1")
    assert not PrefixStore(start(store, [0, 1, 2])[0], store).check(["mixdist/fallen"])


def test_a_port_that_another_job_has_is_said_in_one_line(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(
            MixdistError, match=rf"^no store for 2 ranks at 127.0.0.1:{port} \(MASTER_ADDR, MASTER_PORT\)"
        ):
            shared_store(0, 2)
