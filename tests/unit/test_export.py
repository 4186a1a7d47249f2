"""Exported models: they answer as the run's model does, in programs that know nothing of mixdist, or do not appear."""

from __future__ import annotations

import json
import sys

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from served_runs import CLASSES, SIZE, finished, finished_of, normalised, other_model, pixels
from tiny_run import FAMILIES, family_config

from mixdist.errors import MixdistError, UserError
from mixdist.model.backbone import timm_options
from mixdist.serving.description import read_description
from mixdist.serving.export import export
from mixdist.serving.layouts import LAYOUTS, layout_module, own_names
from mixdist.serving.served import load_model


def logits_of(model, images):
    with torch.no_grad():
        return model(normalised(images), reconstruct=False, classify=True).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_timm_loads_the_weights_strictly_and_answers_alike(family, tmp_path):
    run, model = finished(family)
    exported = export(run, "timm", tmp_path / "out", "mit", pixels())
    assert exported.description.head == "inside"
    options = timm_options(run.config.model, SIZE)
    theirs = timm.create_model(run.config.model.backbone, num_classes=len(CLASSES), **options).eval()
    theirs.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs(normalised(pixels(5))), logits_of(model, pixels(5)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_answers_alike_for_any_number_of_images(family, layout, tmp_path):
    run, model = finished(family)
    exported = export(run, layout, tmp_path / "out", "mit", pixels())
    assert exported.difference <= 1e-4
    description = read_description(tmp_path / "out")
    assert description.task == run.task
    served = layout_module(layout).read(tmp_path / "out", description, torch.device("cpu"))
    for count in (1, 5):
        torch.testing.assert_close(served(pixels(count)), logits_of(model, pixels(count)), rtol=1e-4, atol=1e-4)


def test_a_pt2_model_is_not_opened_as_it_could_run_code(tmp_path):
    export(finished("vit")[0], "pt2", tmp_path / "out", "mit", pixels())
    with pytest.raises(UserError, match="is a pt2 model, whose file may hold pickled objects"):
        load_model(tmp_path / "out")


def test_timm_opens_the_folder_by_itself_at_another_image_size_too(tmp_path):
    run, model = finished("vit")
    export(run, "timm", tmp_path / "out", "mit", pixels())
    name = f"local-dir:{tmp_path / 'out'}"
    same = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(same(normalised(pixels())), logits_of(model, pixels()), rtol=1e-4, atol=1e-4)
    assert same.pretrained_cfg["label_names"] == list(CLASSES)
    assert same.pretrained_cfg["mean"] == list(run.task.mean)
    larger = timm.create_model(name, pretrained=True, img_size=2 * SIZE).eval()
    resampled = timm.layers.resample_abs_pos_embed(same.pos_embed, (8, 8), num_prefix_tokens=1)
    torch.testing.assert_close(larger.pos_embed, resampled)
    assert larger(normalised(pixels(2, 2 * SIZE))).shape == (2, len(CLASSES))


def test_a_head_that_timms_model_has_no_place_for_lies_beside_it(tmp_path):
    run, model = finished_of(other_model("resnet", "repvit_m0_9"))  # whose own classifier has a BatchNorm before it
    exported = export(run, "timm", tmp_path / "out", "mit", pixels())
    assert exported.description.head == "separate"
    torch.testing.assert_close(load_model(tmp_path / "out")(pixels()), logits_of(model, pixels()), rtol=1e-4, atol=1e-4)
    body = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=0).eval()
    head = load_file(tmp_path / "out" / "head.safetensors")
    with torch.no_grad():
        theirs = body(normalised(pixels())) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(theirs, logits_of(model, pixels()), rtol=1e-4, atol=1e-4)


def test_the_card_and_the_description_say_what_the_model_is(tmp_path):
    run, _ = finished("vit")
    export(run, "timm", tmp_path / "trees", "cc-by-4.0", pixels())
    text = (tmp_path / "trees" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "timm")
    for said in ("# trees", "ash, birch, cedar", "50.00 %", "trees, fingerprint `f00`", "method.arm: sl", "plan `abc`"):
        assert said in text
    said = json.loads((tmp_path / "trees" / "model.json").read_text())
    assert (said["accuracy"], said["license"], said["options"]["img_size"]) == (50.0, "cc-by-4.0", SIZE)
    assert said["files"].keys() == {"config.json", "model.safetensors"}
    assert (tmp_path / "trees" / "model.safetensors").stat().st_mode & 0o044  # others may read it where they may read


def test_the_graph_names_its_classes(tmp_path):
    onnx = pytest.importorskip("onnx")
    export(finished("resnet")[0], "onnx", tmp_path / "out", "mit", pixels())
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(graph)
    assert {entry.key: json.loads(entry.value) for entry in graph.metadata_props if entry.key == "classes"} == {
        "classes": list(CLASSES)
    }
    assert [each.name for each in (*graph.graph.input, *graph.graph.output)] == ["pixels", "logits"]


def test_a_backbone_without_a_classifier_goes_to_timm_only_and_answers_nothing(tmp_path):
    run, model = finished_of(family_config("vit"), accuracy=None)
    exported = export(run, "timm", tmp_path / "out", "mit", pixels())
    assert exported.description.head == "none"
    body = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        theirs, ours = body(normalised(pixels())), model.backbone.pool(model.backbone(normalised(pixels())))
    torch.testing.assert_close(theirs, ours)
    with pytest.raises(UserError, match="has no classifier"):
        load_model(tmp_path / "out")
    with pytest.raises(UserError, match="--to timm exports its backbone alone"):
        export(run, "onnx", tmp_path / "onnx", "mit", pixels())


# What goes wrong


def test_a_model_that_answers_differently_is_not_written(tmp_path, monkeypatch):
    def spoilt(folder, run, net):
        net.classifier.bias[0] += 0.01
        own_names.write_weights(folder / own_names.FILE, net)
        net.classifier.bias[0] -= 0.01
        return "inside"

    monkeypatch.setattr(own_names, "write", spoilt)
    with pytest.raises(MixdistError, match=r"answers differently .* differ by up to 0\.01,"):
        export(finished("vit")[0], "safetensors", tmp_path / "out", "mit", pixels())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_export_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, error):
    def breaks(folder, run, net):
        (folder / "half").write_text("half")
        raise error

    monkeypatch.setattr(own_names, "write", breaks)
    with pytest.raises((KeyboardInterrupt, UserError)):
        export(finished("vit")[0], "safetensors", tmp_path / "out", "mit", pixels())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_left_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists; remove it, or name another folder with --out"):
        export(finished("vit")[0], "safetensors", tmp_path / "out", "mit", pixels())


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'mixdist\[onnx\]'"):
        export(finished("vit")[0], "onnx", tmp_path / "out", "mit", pixels())
    assert list(tmp_path.iterdir()) == []


def test_a_timm_that_no_longer_knows_the_model_is_told_with_the_one_that_did(tmp_path, monkeypatch):
    run, _ = finished("vit")
    export(run, "timm", tmp_path / "out", "mit", pixels())
    monkeypatch.setattr(timm, "__version__", "9.9")
    unknown = other_model("vit", "vit_of_yore")
    with pytest.raises(UserError, match=rf"timm 9\.9 .*vit_of_yore.* pip install timm=={run.result.versions['timm']}"):
        export(finished_of_weights(run, unknown), "timm", tmp_path / "new", "mit", pixels())
    rewrite(tmp_path / "out", backbone="vit_of_yore")
    with pytest.raises(UserError, match=r"timm 9\.9 .*vit_of_yore.* pip install timm=="):
        load_model(tmp_path / "out")


def test_a_timm_that_builds_another_model_is_told_with_the_one_that_did(tmp_path):
    export(finished("vit")[0], "timm", tmp_path / "out", "mit", pixels())
    rewrite(tmp_path / "out", options={"img_size": SIZE, "depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8})
    with pytest.raises(UserError, match=r"pip install timm=="):
        load_model(tmp_path / "out")


@pytest.mark.parametrize("layout", ["timm", "safetensors"])
@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "hf-hub:someone/else"},
        {"options": {"pretrained": True}},
        {"options": {"img_size": "huge"}},
        {"options": {"unheard_of": 1}},
    ],
)
def test_a_strangers_description_is_refused_in_one_line(tmp_path, layout, fields):
    export(finished("vit")[0], layout, tmp_path / "out", "mit", pixels())
    rewrite(tmp_path / "out", **fields)
    with pytest.raises(UserError, match="cannot be built with timm"):
        load_model(tmp_path / "out")


@pytest.mark.parametrize("layout", ["timm", "safetensors"])
@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg"])
def test_a_strangers_description_has_no_other_weights_loaded(tmp_path, layout, option):
    run, _ = finished("vit")
    export(run, layout, tmp_path / "out", "mit", pixels())
    others = tmp_path / "others.pt"  # harmless here; of an older timm it might hold code, and would run it
    torch.save(run.classifier().backbone.net.state_dict(), others)
    theirs = {"checkpoint_path": str(others), "pretrained_cfg": {"file": str(others)}}[option]
    rewrite(tmp_path / "out", options={**timm_options(run.config.model, SIZE), option: theirs})
    with pytest.raises(UserError, match="cannot be built with"):
        load_model(tmp_path / "out")


def test_damaged_files_are_refused_by_name(tmp_path):
    export(finished("vit")[0], "safetensors", tmp_path / "out", "mit", pixels())
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["classifier.bias"][0] += 1
    save_file(weights, tmp_path / "out" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that was exported"):
        load_model(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: No such file"):
        read_description(tmp_path / "out")
    rewrite(tmp_path / "out", version=2)
    with pytest.raises(UserError, match=r"model\.json is not the description .*: version: "):
        read_description(tmp_path / "out")


def finished_of_weights(run, config):
    return type(run)(**{**vars(run), "config": config})


def rewrite(folder, **fields):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
