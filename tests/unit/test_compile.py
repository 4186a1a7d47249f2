"""torch.compile: two graphs a phase, the short last batch included, and the same run to rounding."""

from functools import partial

import pytest
import torch
from tiny_run import family_config, make_trainer, tiny_config, tiny_set, weights

from mixdist.engine import compiling
from mixdist.errors import UserError

pytestmark = pytest.mark.minutes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("compile") / "set", size=32)


def compiled_too(config):
    return config.model_copy(update={"train": config.train.model_copy(update={"compile": True})})


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_each_phase_has_a_graph_for_its_first_size_and_one_for_all_others(data, tmp_path, monkeypatch, family):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    # Without the code generator, whose minutes prove nothing about us; and a graph break is an error.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting, fullgraph=True))
    config = family_config(family, data, tmp_path / "compiled")
    plain, run = make_trainer(family_config(family, data, tmp_path / "plain")), make_trainer(compiled_too(config))
    expected, found = [], []
    for record in plain.records():
        expected.append((record.loss, record.grad_norm))
    for record in run.records():  # 11 images in steps of 8 and 3
        found.append((record.loss, record.grad_norm))
        assert len(graphs) == record.step
    assert len(graphs) == 6
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert weights(run).keys() == weights(plain).keys()


def has_compiler():
    try:
        compiling.check_compiler(torch.device("cpu"))
    except UserError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(
    not has_compiler(), reason="no C++ compiler; runs where there is one, as in .ci/run: apt-get install g++"
)
def test_generated_code_trains_the_same(data, tmp_path):
    changes = {  # one graph: each takes half a minute
        "method.arm": "sl",
        "method.sl_epochs": 2,
        "data.image_size": 8,
        "train.batch": 11,
        "model.options": {"depth": 1, "embed_dim": 16, "num_heads": 1},
    }
    plain, run = (
        make_trainer(tiny_config(data, tmp_path / name, {**changes, "train.compile": compile}))
        for name, compile in (("plain", False), ("compiled", True))
    )
    expected, found = ([record.loss for record in each.records()] for each in (plain, run))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_machine_without_a_compiler_is_told_so_before_training(data, tmp_path, monkeypatch):
    def absent():
        raise RuntimeError("none")

    monkeypatch.setattr(compiling, "get_cpp_compiler", absent)
    with pytest.raises(UserError, match=r"train\.compile needs a C\+\+ compiler on a CPU"):
        make_trainer(compiled_too(family_config("vit", data, tmp_path / "run")))
