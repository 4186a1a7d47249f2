"""The config: every mistake is named with its place and what would be right; what is read is what was written."""

from importlib import import_module
from pathlib import Path
from typing import get_origin

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mixdist.cli import main
from mixdist.config.read import fields, read_config, to_yaml
from mixdist.config.schema import Config
from mixdist.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"

# Each case: the file's text, further arguments, and what the one line must hold. FILE stands for the file's path.
UNKNOWN = {
    "typo in a key": ("data: {sl: a}\ntrain:\n  btach: 8", ["unknown key train.btach (FILE:3)", "'train.batch'"]),
    "typo in a section": ("data: {sl: a}\nmehtod: {arm: sl}", ["unknown key mehtod (FILE:2)", "'method'"]),
    "typo two deep": ("data: {sl: a}\noptim:\n  ssl:\n    base_rl: 1", ["optim.ssl.base_rl (FILE:4)", "ssl.base_lr'"]),
    "key outside its section": ("data: {sl: a}\nbatch: 8", ["unknown key batch (FILE:2)", "'train.batch'"]),
    "key of one side for both": ("data: {sl: a}\noptim: {weight_decay: 0}", ["(FILE:2)", "'optim.sl.weight_decay'"]),
    "key of another section": ("data: {sl: a}\noptim: {sl: {lr: 1}}", ["optim.sl.lr (FILE:2)", "'optim.sl.base_lr'"]),
    "wrong case": ("Data: {sl: a}\ndata: {sl: a}", ["unknown key Data (FILE:1)", "'data'"]),
    "nothing near": ("data: {sl: a}\nxyzzy: 1", ["unknown key xyzzy (FILE:2)"]),
    "a number as key": ("data: {sl: a}\n1: 2", ["1 (FILE:2)", "should be strings"]),
}
WRONG = {
    "text for a number": ("train: {batch: many}", ["train.batch (FILE:2)", "integer", "got 'many'"]),
    "text for a rate": ("optim:\n  sl: {base_lr: fast}", ["optim.sl.base_lr (FILE:3)", "number", "got 'fast'"]),
    "yes for a number": ("train: {batch: yes}", ["train.batch (FILE:2)", "should be a number", "got True"]),
    "no for a rate": ("method: {mix_ratio: no}", ["method.mix_ratio (FILE:2)", "should be a number", "got False"]),
    "yes for no limit": ("train: {micro_batch: true}", ["train.micro_batch (FILE:2)", "should be a number"]),
    "a word for yes or no": ("optim: {carry_mix_to_sl: maybe}", ["optim.carry_mix_to_sl (FILE:2)", "boolean"]),
    "a number for a word": ("tracking: {group: 7}", ["tracking.group (FILE:2)", "quotes", "got 7"]),
    "a date for a path": ("run: {dir: 2025-01-31}", ["run.dir (FILE:2)", "path", "quotes"]),
    "a list for a number": ("seed: [1, 2]", ["seed (FILE:2)", "integer", "got [1, 2]"]),
    "a number for a section": ("train: 256", ["train (FILE:2)", "section", "got 256"]),
    "an empty section": ("train:", ["train (FILE:2)", "section", "got None"]),
    "nothing for a number": ("train: {batch: }", ["train.batch (FILE:2)", "integer", "got None"]),
    "a list for options": ("model: {options: [depth, 4]}", ["model.options (FILE:2)", "dictionary"]),
    "one beta": ("optim: {sl: {betas: [0.9]}}", ["optim.sl.betas.1 (FILE:2)", "required"]),
    "three betas": ("optim: {sl: {betas: [0.9, 0.95, 0.99]}}", ["optim.sl.betas (FILE:2)", "at most 2"]),
    "unknown arm": ("method: {arm: mix}", ["method.arm (FILE:2)", "'sl', 'ssl+sl' or 'mixtraining'", "got 'mix'"]),
    "off, which YAML reads as no": ("tracking: {wandb: off}", ["tracking.wandb (FILE:2)", "'disabled'", "got False"]),
    "not a number": ("method: {mix_ratio: .nan}", ["method.mix_ratio (FILE:2)", "finite", "got nan"]),
    "infinite": ("optim: {sl: {weight_decay: .inf}}", ["optim.sl.weight_decay (FILE:2)", "finite"]),
}
BOUNDS = {
    "data.fraction": ["0", "1.01"],
    "data.image_size": ["3"],
    "data.workers": ["-1"],
    "data.labelled_fraction": ["0", "1.1"],
    "data.label_noise": ["-0.1", "1"],
    "data.shards_at_once": ["0"],
    "data.cache_limit_gb": ["0"],
    "data.bad_limit": ["-1"],
    "data.clip_frames": ["0"],
    "data.ssl_samples": ["0"],
    "data.subset_seed": ["-1", "2147483648"],
    "method.ssl_epochs": ["-1"],
    "method.sl_epochs": ["-1"],
    "method.mix_ratio": ["-0.1", "1.1"],
    "method.loss_ratio": ["0", "1"],
    "method.loss_ratio_start": ["-0.1", "1.1"],
    "method.loss_ratio_end": ["-0.1", "1.1"],
    "method.input_ratio": ["-0.1", "1.1"],
    "method.mask_ratio": ["0", "1"],
    "model.patch_size": ["0"],
    "model.decoder_depth": ["0"],
    "model.decoder_dim": ["0"],
    "model.decoder_heads": ["0"],
    **{f"optim.{side}.base_lr": ["0"] for side in ("ssl", "sl")},
    **{f"optim.{side}.weight_decay": ["-0.1"] for side in ("ssl", "sl")},
    **{f"optim.{side}.warmup_epochs": ["-1"] for side in ("ssl", "sl")},
    "optim.clip_grad": ["0"],
    "train.batch": ["0"],
    "train.ema_decay": ["0", "1"],
    "train.mixup": ["-0.1"],
    "train.align_every": ["0"],
    "train.probe_every": ["0"],
    "train.max_skipped": ["-1"],
    "train.log_every": ["0"],
    "train.eval_every": ["0"],
    "train.eval_batch": ["0"],
    "run.keep_checkpoints": ["0"],
    "run.hang_timeout_s": ["-1", "3001"],
    "run.save_every_epochs": ["0"],
    "run.save_every_steps": ["0"],
    "run.save_every_minutes": ["0"],
    "tracking.timeout_s": ["0", "601"],
    "tracking.reconstruct_every": ["0"],
    "seed": ["-1", "2147483648"],
}
CONTRADICTIONS = {
    "micro-batch over batch": (
        "train:\n  batch: 8\n  micro_batch: 9",
        ["train.micro_batch 9", "train.batch 8", "at most", "train.batch at FILE:3", "train.micro_batch at FILE:4"],
    ),
    "annealed to itself": (
        "method: {loss_ratio_schedule: linear, loss_ratio_start: 0.5, loss_ratio_end: 0.5}",
        ["method.loss_ratio_schedule 'linear'", "0.5", "use 'constant'", "method.loss_ratio_end at FILE:2"],
    ),
    "a beta of one": ("optim: {sl: {betas: [0.9, 1]}}", ["optim.sl (FILE:2)", "betas [0.9, 1.0]", "[0, 1)"]),
}
COMMAND_LINE = {
    "unknown flag": (["--train.btch", "4"], ["unknown argument --train.btch", "'--train.batch'"]),
    "unknown flag with its value": (["--data.fractoin=0.5"], ["--data.fractoin;", "'--data.fraction'"]),
    "shortened flag": (["--resum"], ["unknown argument --resum", "'--resume'"]),
    "a section as flag": (["--train", "5"], ["unknown argument --train"]),
    "flag without value": (["--train.batch"], ["--train.batch", "expected one argument"]),
    "a broken whole number": (["--data.workers", "2.5"], ["data.workers (--data.workers)", "integer", "got 2.5"]),
    "unknown choice": (["--data.augment", "cut"], ["data.augment (--data.augment)", "'crop-flip'", "got 'cut'"]),
    "broken YAML": (["--model.options", "{depth: 4"], ["--model.options", "'{depth: 4'", "YAML"]),
    "nested too deep": (["--model.options", "[" * 9999], ["--model.options", "cannot be read as a YAML value"]),
    "missing file": (["--config", "none.yaml"], ["none.yaml", "No such file"]),
}
FILES = {
    "a list": ("- data", ["FILE", "sections", "list"]),
    "a word": ("hello", ["FILE", "sections", "str"]),
    "broken": ("data: [", ["FILE", "not YAML", "line 1"]),
    "nested too deep": ("data: " + "[" * 9999, ["FILE", "nested too deep"]),
    "not text": ("\x00", ["FILE", "not YAML"]),
    "an object of Python": ("data: {sl: !!python/object/apply:os.getcwd []}", ["FILE", "not YAML", "python/object"]),
    "no data.sl": ("seed: 1", ["data.sl is required", "--data.sl"]),
    "no data.sl beside others": ("data: {fraction: 0.5}", ["data.sl is required", "--data.sl"]),
    "empty": ("", ["data.sl is required"]),
    "twice in a section": ("data: {sl: a}\ntrain:\n  batch: 1\n  batch: 1", ["FILE:4", "train.batch is given twice"]),
    "a section twice": ("data: {sl: a}\nseed: 1\ndata: {sl: a}", ["FILE:3", "data is given twice"]),
}


def mistakes():
    """Return (text of the file, arguments, what the message must hold) of every case."""
    cases = []
    for table in (UNKNOWN, FILES):
        cases += [pytest.param(text, [], parts, id=name) for name, (text, parts) in table.items()]
    for table in (WRONG, CONTRADICTIONS):
        cases += [pytest.param(f"data: {{sl: a}}\n{text}", [], parts, id=name) for name, (text, parts) in table.items()]
    cases += [pytest.param("data: {sl: a}", argv, parts, id=name) for name, (argv, parts) in COMMAND_LINE.items()]
    for key, values in BOUNDS.items():
        for value in values:
            parts = [f"{key} (--{key})", "should be", f"got {value}"]
            cases.append(pytest.param("data: {sl: a}", [f"--{key}={value}"], parts, id=f"{key}={value}"))
    return cases


@pytest.fixture
def read(tmp_path):
    """Read texts as config files a.yaml, b.yaml …, followed by arguments."""

    def read(*texts: str, argv: tuple[str, ...] = ()) -> Config:
        paths = [tmp_path / f"{letter}.yaml" for letter in "abc"[: len(texts)]]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return read_config([*(["--config", *map(str, paths)] if paths else []), *argv])

    return read


@pytest.mark.parametrize(("text", "argv", "parts"), mistakes())
def test_a_mistake_is_one_line_with_key_place_and_remedy(text, argv, parts, read, tmp_path):
    with pytest.raises(UserError) as caught:
        read(text, argv=argv)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part.replace("FILE", str(tmp_path / "a.yaml")) in message


def test_every_bounded_number_has_its_bounds_tested():
    rules = ("gt", "ge", "lt", "le")
    bounded = {key for key, info in fields() if any(hasattr(rule, name) for rule in info.metadata for name in rules)}
    assert bounded == set(BOUNDS)


def test_all_mistakes_are_named_at_once(read):
    with pytest.raises(UserError) as caught:
        read("data: {sl: a}\ntrain: {batch: 0, btach: 1}\nmethod: {arm: mix}")
    for part in ("train.batch", "train.btach", "method.arm"):
        assert part in str(caught.value)


def test_a_mistake_names_the_place_that_it_came_from_last(read, tmp_path):
    with pytest.raises(UserError, match=r"train\.batch \(.*b\.yaml:1\)"):
        read("data: {sl: a}\ntrain: {batch: 8}", "train: {batch: 0}")
    with pytest.raises(UserError, match=r"train\.batch \(--train\.batch\)"):
        read("data: {sl: a}\ntrain: {batch: 8}", argv=["--train.batch", "0"])


def test_an_override_below_something_that_is_no_section_names_the_line(read, tmp_path):
    with pytest.raises(UserError, match=r"a\.yaml:3: optim\.sl should be a section with keys, got 5"):
        read("data: {sl: a}\noptim:\n  sl: 5", argv=["--optim.sl.base_lr", "1"])


def test_the_command_leaves_with_exit_code_2_and_one_line(capsys):
    assert main(["train", "--train.btch", "4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# What is read


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "'1e-4'"])
def test_a_learning_rate_is_a_number_however_it_is_written(text, read):
    assert read(f"data: {{sl: a}}\noptim: {{ssl: {{base_lr: {text}}}}}").optim.ssl.base_lr == 1e-4
    assert read("data: {sl: a}", argv=["--optim.ssl.base_lr", text]).optim.ssl.base_lr == 1e-4


def test_a_later_file_wins_key_by_key(read):
    config = read("data: {sl: a, workers: 3}\noptim: {sl: {base_lr: 1}}", "data: {sl: b}\noptim: {sl: {betas: [0, 0]}}")
    assert (config.data.sl, config.data.workers) == ("b", 3)
    assert (config.optim.sl.base_lr, config.optim.sl.betas) == (1, (0, 0))


def test_files_of_two_config_flags_are_read_in_turn(read, tmp_path):
    (tmp_path / "later.yaml").write_text("data: {sl: later}")
    assert read("data: {sl: a}", argv=["--config", str(tmp_path / "later.yaml")]).data.sl == "later"


def test_the_command_line_wins_over_every_file(read):
    config = read("data: {sl: a}\nseed: 1", "seed: 2", argv=["--seed", "3", "--data.sl=c"])
    assert (config.seed, config.data.sl) == (3, "c")


def test_the_options_of_a_model_are_replaced_as_a_whole(read):
    # They belong to one backbone: those of an earlier file's backbone would not fit another.
    config = read("data: {sl: a}\nmodel: {options: {depth: 4, embed_dim: 64}}", "model: {options: {depth: 2}}")
    assert config.model.options == {"depth": 2}


def test_null_takes_a_limit_back(read):
    config = read("data: {sl: a}\ntrain: {micro_batch: 8}", argv=["--train.micro_batch", "null"])
    assert config.train.micro_batch is None


def test_resume_is_short_for_run_resume_require(read):
    assert read("data: {sl: a}").run.resume == "auto"
    assert read("data: {sl: a}", argv=["--resume"]).run.resume == "require"


def test_d_ssl_is_d_sl_unless_given(read):
    assert read("data: {sl: a}").ssl_set == "a"
    assert read("data: {sl: a, ssl: b}").ssl_set == "b"


def test_the_defaults_are_those_of_tables_12_and_13(read):
    optim = read("data: {sl: a}").optim
    shared = {"betas": (0.9, 0.95), "weight_decay": 0.05}
    assert optim.ssl.model_dump() == {"base_lr": 1.5e-4, "warmup_epochs": 20, **shared}
    assert optim.sl.model_dump() == {"base_lr": 1e-3, "warmup_epochs": 5, **shared}


EVERY_KIND = """
data: {sl: données/été, ssl: b, fraction: 0.1, image_size: 32}
model: {options: {depth: 4, qkv_bias: false}, decoder_dim: 96}
optim: {ssl: {base_lr: 1e-4, betas: [0.9, 0.999]}, clip_grad: 1}
train: {micro_batch: 8}
tracking: {group: "7", entity: "null"}
seed: 5
"""


@pytest.mark.parametrize("text", ["data: {sl: a}", EVERY_KIND])
def test_the_printed_config_reads_back_to_an_equal_one(text, read, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        read(text, argv=["--print-config", "--method.arm", "ssl+sl"])
    printed = capsys.readouterr().out
    assert left.value.code == 0
    config = read(text, argv=["--method.arm", "ssl+sl"])
    assert printed == to_yaml(config)
    assert read(printed) == config
    assert config.method.arm == "ssl+sl"


def test_the_printed_config_holds_every_setting(read, capsys):
    printed = yaml.safe_load(to_yaml(read("data: {sl: a}")))
    for key, _ in fields():
        value = printed
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_help_names_every_setting_and_its_default(capsys):
    with pytest.raises(SystemExit):
        read_config(["--help"])
    shown = capsys.readouterr().out
    assert all(f"--{key} " in shown for key, _ in fields())
    assert "over all ranks (default: 256)" in " ".join(shown.split())


@pytest.mark.parametrize(
    "path", sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("*/*.yaml")]), ids=lambda path: path.stem
)
def test_a_config_of_the_repository_is_read(path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    beside = [] if "sl" in given["data"] else ["--data.sl", "data/mine"]  # those of hardware go with another
    config = read_config(["--config", str(path), *beside]).model_dump(mode="json")
    assert config["data"]["sl"] == given["data"].get("sl", "data/mine")
    assert [key for key, value in given["train"].items() if config["train"][key] != value] == []


# Frozen


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = [info.annotation for info in model.model_fields.values() if get_origin(info.annotation) is None]
    found = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return {model}.union(*(sections(kind) for kind in found))


def test_no_setting_can_be_written_once_read(read):
    config = read("data: {sl: a}")
    for key, _ in fields():
        *path, name = key.split(".")
        section = config
        for part in path:
            section = getattr(section, part)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


def test_every_setting_says_what_it_means():
    assert all(info.description for _, info in fields())
    assert all(kind.__doc__ and kind.model_config["extra"] == "forbid" for kind in sections(Config))


def test_a_yaml_alias_that_holds_itself_is_named(tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text("data: &d {sl: *d}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"loop\.yaml has a YAML alias that refers to itself"):
        read_config(["--config", str(file)])


@pytest.mark.parametrize(
    "command", ["mixdist.planning.command", "mixdist.check_engines", "mixdist.paper.gradient_alignment"]
)
def test_a_mistyped_option_of_a_command_that_takes_settings_too_is_answered_with_the_nearest(command):
    typed, meant = ("--jsno", "--json") if "paper" in command else ("--rnaks", "--ranks")
    with pytest.raises(UserError, match=rf"unknown argument {typed}; did you mean '{meant}'\?"):
        import_module(command).main(["--data.sl", "set", typed, "2"])
