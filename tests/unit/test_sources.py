"""What `mixdist pack` is given: layouts recognised, and one clear line for each that cannot be used."""

import builtins
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing import class_folders, write_images

from mixdist.data.packing.keys import MAX_KEY, unique_keys
from mixdist.data.packing.sources import read_source
from mixdist.errors import MixdistError, UserError


def refused(source, match):
    with pytest.raises(UserError, match=match) as error:
        read_source(str(source))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def labels(samples):
    return {sample.key: sample.label for sample in samples}


def annotate(folder, *lines):
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def tiny(tmp_path):
    """The layout of Tiny ImageNet, two classes."""
    write_images(tmp_path, "train/n01/images/n01_0.jpg", "train/n02/images/n02_0.jpg")
    write_images(tmp_path, "val/images/val_0.jpg", "val/images/val_1.jpg")
    annotate(tmp_path, "val_0.jpg\tn02\t0\t0\t5\t5", "val_1.jpg\tn01\t1\t1\t3\t3")
    for name in ("words.txt", "wnids.txt", "train/n01/n01_boxes.txt"):
        (tmp_path / name).write_text("n01\tcat\n")
    return tmp_path


def test_class_folders_are_all_train_with_sorted_classes(tmp_path):
    found = read_source(str(class_folders(tmp_path / "pets", "dog", "cat", images=2)))
    assert (found.kind, found.name, found.classes) == ("class-folders", "pets", ("cat", "dog"))
    assert labels(found.splits["train"]) == {"cat_000": 0, "cat_001": 0, "dog_000": 1, "dog_001": 1}
    assert list(found.splits) == ["train"]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_test_folder_of_any_usual_name_becomes_the_test_split(tmp_path, name):
    write_images(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{name}/dog/c.png")
    found = read_source(str(tmp_path))
    assert (found.kind, found.classes) == ("split-folders", ("cat", "dog"))
    assert labels(found.splits["train"]) == {"cat_a": 0, "dog_b": 1}
    assert labels(found.splits["test"]) == {"dog_c": 1}


def test_tiny_imagenets_own_layout_is_read(tiny):
    found = read_source(str(tiny))
    assert found.classes == ("n01", "n02")
    assert labels(found.splits["train"]) == {"n01_images_n01_0": 0, "n02_images_n02_0": 1}
    assert labels(found.splits["test"]) == {"images_val_0": 1, "images_val_1": 0}
    assert found.left_out == Counter({".txt": 3})


def test_tiny_imagenets_test_folder_without_labels_is_passed_over_and_counted(tiny):
    write_images(tiny, "test/images/test_0.jpg", "test/images/test_1.jpg")
    found = read_source(str(tiny))
    assert labels(found.splits["test"]) == {"images_val_0": 1, "images_val_1": 0}
    assert found.left_out["in test/ (no labels)"] == 2


def test_a_flat_folder_is_unlabelled(tmp_path):
    found = read_source(str(write_images(tmp_path, "a.png", "b.jpg")))
    assert (found.kind, found.classes) == ("flat-folder", ())
    assert labels(found.splits["train"]) == {"a": -1, "b": -1}


def test_the_digits_need_no_folder():
    found = read_source("digits")
    assert found.classes == tuple("0123456789")
    assert len(found.splits["train"]) == 1797
    assert [sample.key for sample in found.splits["train"][:2]] == ["digit_0000", "digit_0001"]


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    refused("digits", r"pip install 'mixdist\[quickstart\]'")


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path):
    class_folders(tmp_path, "cat", images=1)
    for name in ("notes.TXT", "cat/list.csv", "cat/.hidden.png", ".DS_Store", "cat/README", "cat/alone.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".cache").mkdir()
    found = read_source(str(tmp_path))
    assert found.left_out == Counter({".txt": 1, ".csv": 1, "no extension": 1, ".json": 1})
    assert labels(found.splits["train"]) == {"cat_000": 0}


def test_a_json_file_goes_with_the_image_of_its_stem(tmp_path):
    class_folders(tmp_path, "cat", images=2)
    (tmp_path / "cat/001.json").write_text("{}")
    first, second = read_source(str(tmp_path)).splits["train"]
    assert (first.metadata, second.metadata) == (None, str(tmp_path / "cat/001.json"))


def test_links_to_files_and_folders_are_followed(tmp_path):
    write_images(tmp_path / "elsewhere", "cat/a.png", "b.png")
    (tmp_path / "source/dog").mkdir(parents=True)
    (tmp_path / "source/cat").symlink_to(tmp_path / "elsewhere/cat")
    (tmp_path / "source/dog/b.png").symlink_to(tmp_path / "elsewhere/b.png")
    assert labels(read_source(str(tmp_path / "source")).splits["train"]) == {"cat_a": 0, "dog_b": 1}


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    class_folders(tmp_path, "cat", images=1)
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    refused(tmp_path, r"cat/again is a link to a folder above it")


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nothing", r"nothing is not a folder; give a folder of images, .* or the word 'digits'")
    refused("digit", "did you mean 'digits'")


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    refused(tmp_path, r"holds no images; looked for \.jpg \.jpeg \.png .*\.pgm")


@pytest.mark.parametrize("place", ["", "train/"])
def test_images_beside_class_folders_are_ambiguous(tmp_path, place):
    write_images(tmp_path, f"{place}cat/a.png", f"{place}b.png", *(["test/cat/a.png"] if place else []))
    refused(tmp_path, r"holds both images \(b\.png\) and folders \(cat/\), which is ambiguous")


def test_class_folders_without_images_are_named(tmp_path):
    class_folders(tmp_path, "cat", images=1)
    (tmp_path / "dog").mkdir()
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel/notes.txt").write_text("x")
    refused(tmp_path, "no images in these class folders of .*: dog, eel; fill or remove them")


def test_a_class_only_in_test_is_named(tmp_path):
    write_images(tmp_path, "train/cat/a.png", "test/cat/a.png", "test/dog/a.png")
    refused(tmp_path, "class dog is in .*test but not in the train folder; add train images of it or remove it")


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("val", "train")])
def test_train_or_test_alone_says_what_is_missing(tmp_path, there, missing):
    refused(write_images(tmp_path, f"{there}/cat/a.png"), rf"has a {there} folder but no {missing}")


def test_a_class_may_be_called_train_or_valid(tmp_path):
    assert read_source(str(class_folders(tmp_path / "a", "train", "plane", images=1))).classes == ("plane", "train")
    assert read_source(str(class_folders(tmp_path / "b", "valid", "invalid", images=1))).classes == ("invalid", "valid")


def test_two_folders_to_test_on_are_ambiguous(tmp_path):
    write_images(tmp_path, "train/cat/a.png", "test/cat/a.png", "val/cat/a.png")
    refused(tmp_path, r"more than one folder to test on \(test, val\); keep one")


def test_what_stands_beside_train_and_test_is_named(tmp_path):
    write_images(tmp_path, "train/cat/a.png", "test/cat/a.png", "more/cat/a.png", "b.png")
    refused(tmp_path, r"it also has more/, b\.png")


def test_images_without_class_folders_in_train_are_refused(tmp_path):
    write_images(tmp_path, "train/a.png", "test/cat/a.png")
    refused(tmp_path, "train holds no class folders")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["val_0.jpg\tn09", "val_1.jpg\tn01"], "line 1: the train folder has no class n09"),
        (["val_0.jpg\tn01", "val_7.jpg\tn01"], r"line 2: .*val_7\.jpg does not exist"),
        (["val_0.jpg\tn01"], r"has no line for val_1\.jpg \(1 such"),
        (["val_0.jpg\tn01", "val_0.jpg\tn02"], r"line 2: val_0\.jpg has a line already"),
        (["val_0.jpg n01"], r"line 1: expected FILE<tab>CLASS"),
    ],
)
def test_annotations_that_do_not_fit_the_images_are_named_by_line(tiny, lines, message):
    annotate(tiny, *lines)
    refused(tiny, message)


def test_annotations_without_images_are_refused(tmp_path):
    write_images(tmp_path, "train/n01/a.png")
    (tmp_path / "val").mkdir()
    annotate(tmp_path, "val_0.jpg\tn01")
    refused(tmp_path, r"has val_annotations\.txt but no images folder")


def test_an_unprintable_class_name_is_refused(tmp_path):
    refused(class_folders(tmp_path, "a\nb", images=1), r"class folder 'a\\nb' .* rename it")


def test_keys_hold_no_folders_dots_or_other_characters():
    assert unique_keys(["a/b c.d", "ünï", "x-y_Z9"]) == ["a_b_c_d", "_n_", "x-y_Z9"]


def test_keys_that_collide_are_numbered_in_order():
    assert unique_keys(["a b", "a_b", "a.b", "a_b_2"]) == ["a_b", "a_b_2", "a_b_3", "a_b_2_2"]


@given(st.lists(st.text("ab/_. é", min_size=1, max_size=4) | st.text("xy", min_size=80, max_size=120), max_size=60))
def test_keys_are_unique_short_and_plain(names):
    keys = unique_keys(names)
    assert len(set(keys)) == len(names)
    assert all(len(key) <= MAX_KEY and key.isascii() and not set(key) & set("./") for key in keys)


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    class_folders(tmp_path, "cat", images=1)

    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", deny)
    with pytest.raises(MixdistError, match="cannot be read: Permission denied"):
        read_source(str(tmp_path))
