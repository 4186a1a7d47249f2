"""DeepSpeed's config: generated from ours, added to by a user's JSON file, and never said twice."""

import json
from dataclasses import replace

import pytest

from mixdist.engine.deepspeed_config import Asked, deepspeed_config
from mixdist.errors import UserError

ASKED = Asked(
    zero_stage=2, offload=False, batch=64, micro_batch=8, accumulation=4, clip_grad=1.5, parameters=5000, pinned=False
)


@pytest.fixture
def added(tmp_path):
    """Write a user's file and return the config with it."""

    def make(text, asked=ASKED):
        path = tmp_path / "ds.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
        return deepspeed_config(asked, path)

    return make


def test_batch_accumulation_precision_clipping_and_stage_are_always_stated():
    assert deepspeed_config(ASKED) == {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.5,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "zero_optimization": {"stage": 2, "compute_grad_norm": True, "reduce_bucket_size": 5000},
    }


def test_a_bucket_is_no_larger_than_what_a_phase_trains_unless_the_file_says_so(added):
    large = replace(ASKED, parameters=10**10)
    assert deepspeed_config(large)["zero_optimization"]["reduce_bucket_size"] == 500_000_000
    assert added({"zero_optimization": {"reduce_bucket_size": 7}})["zero_optimization"]["reduce_bucket_size"] == 7
    assert "reduce_bucket_size" not in deepspeed_config(replace(ASKED, zero_stage=0))["zero_optimization"]


def test_no_clipping_is_stated_as_none_for_left_out_deepspeed_would_clip_at_1():
    assert deepspeed_config(replace(ASKED, clip_grad=None))["gradient_clipping"] == 0.0


def test_offload_moves_the_moments_and_in_stage_3_the_parameters():
    to_cpu = {"device": "cpu", "pin_memory": True}
    for stage, parts in (
        (1, {"offload_optimizer"}),
        (2, {"offload_optimizer"}),
        (3, {"offload_optimizer", "offload_param"}),
    ):
        zero = deepspeed_config(replace(ASKED, zero_stage=stage, offload=True, pinned=True))["zero_optimization"]
        assert {key: value for key, value in zero.items() if key.startswith("offload")} == dict.fromkeys(parts, to_cpu)


def test_stage_0_has_nothing_to_offload():
    with pytest.raises(UserError, match=r"parallel\.offload true needs parallel\.zero_stage 1, 2 or 3"):
        deepspeed_config(replace(ASKED, zero_stage=0, offload=True))


def test_a_file_adds_keys_at_any_depth(added):
    config = added({"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 1000}})
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"] == {"reduce_bucket_size": 1000, "stage": 2, "compute_grad_norm": True}


CONFLICTS = {  # file -> what the message says of it
    '{"train_micro_batch_size_per_gpu": 4}': "is 4 there, line 1, 8 by train.micro_batch",
    '{"train_micro_batch_size_per_gpu": 8}': "is 8 there, line 1, 8 by train.micro_batch",
    '{"train_batch_size": 128}': "train_batch_size is 128 there, line 1, 64 by train.batch",
    '{"gradient_accumulation_steps": "auto"}': 'is "auto" there, line 1, 4 by train.batch and train.micro_batch',
    '{\n "steps_per_print": 5,\n "gradient_clipping": 1.0}': "is 1.0 there, line 3, 1.5 by optim.clip_grad",
    '{"bf16": {"enabled": true}}': "bf16.enabled is true there, line 1, false by train.precision",
    '{"fp16": true}': "fp16 is true there, line 1, false by train.precision",
    '{\n\t"torch_autocast": {\n\t\t"enabled": true}}': "enabled is true there, line 3, false by train.precision",
    '{"zero_optimization": {"stage": 3}}': "zero_optimization.stage is 3 there, line 1, 2 by parallel.zero_stage",
    '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}': 'line 1, "none" by parallel.offload',
    '{"zero_optimization": {"cpu_offload": true}}': "zero_optimization.cpu_offload is true there",
    '{"zero_optimization": {"compute_grad_norm": false}}': "is false there, line 1, true by mixdist",
    '{"zero_optimization": 2}': "zero_optimization is 2 there, line 1, 2 by parallel.zero_stage",
    '{"optimizer": {"type": "Adam", "params": {"lr": 1e-3}}}': 'is "Adam" there, line 1, "AdamW" by optim.*',
    '{"scheduler": {"type": "WarmupLR"}}': "scheduler.type is",
    '{"amp": {"enabled": true}}': "amp.enabled is true there",
    '{"prescale_gradients": true}': "is true there, line 1, false by mixdist",
    '{"communication_data_type": "fp16"}': '"fp16" there, line 1, "fp32" by mixdist',
}


@pytest.mark.parametrize("text", CONFLICTS)
def test_a_key_that_mixdist_states_is_refused_with_both_values_and_where_each_comes_from(added, text):
    with pytest.raises(UserError) as caught:
        added(text)
    message = str(caught.value)
    assert "ds.json may only add keys" in message
    assert CONFLICTS[text] in message
    assert "\n" not in message


def test_all_conflicts_of_a_file_are_told_at_once(added):
    with pytest.raises(UserError, match=r"gradient_clipping is 1.*; zero_optimization\.stage is 3"):
        added({"gradient_clipping": 1, "zero_optimization": {"stage": 3}})


def test_offload_asked_for_in_both_places_is_a_conflict_too(added):
    with pytest.raises(UserError, match=r'device is "nvme" there, line \d, "cpu" by parallel\.offload'):
        added({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, replace(ASKED, offload=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n "a": 1,\n "b": }', r"ds\.json:3 is not JSON"),
        ("", r"ds\.json:1 is not JSON"),
        ("[" * 99999, r"ds\.json is not JSON: maximum recursion depth"),
        ("[1, 2]", r"should hold an object, it holds a list"),
        ('{"a": 1, "a": 2}', r"a is given twice in one object"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused_with_its_line(added, text, message):
    with pytest.raises(UserError, match=message):
        added(text)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read: No such file"):
        deepspeed_config(ASKED, tmp_path / "nowhere.json")
    (tmp_path / "ds.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"ds\.json is not JSON"):
        deepspeed_config(ASKED, tmp_path / "ds.json")
