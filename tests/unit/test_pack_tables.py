"""Packing what a CSV, TSV or Parquet file lists: the same set as from folders, and mistakes named by line."""

import builtins
import csv
import json
import signal
import sys

import launching
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import class_folders, packed, run, write_images

from mixdist.cli import main
from mixdist.data.open_set import open_set
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.sources import read_source
from mixdist.errors import UserError

HEADER = ("path", "label")


def table(path, *rows, header=HEADER):
    """Write rows as the suffix of ``path`` says; return the path."""
    if path.suffix == ".parquet":
        columns = zip(*rows, strict=True)
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(header, map(list, columns), strict=True))), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def listed(folder, *classes, images=10):
    """Return (path, label) of what ``class_folders`` writes."""
    class_folders(folder, *classes, images=images)
    return [(f"{name}/{row:03d}.png", name) for name in classes for row in range(images)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def labels(found, split="train"):
    names = {-1: None, **dict(enumerate(found.classes))}
    return {sample.key: names[sample.label] for sample in found.splits[split]}


def refused(source, match, **reading):
    with pytest.raises(UserError, match=match) as error:
        read_source(str(source), Reading(**reading))
    assert "\n" not in str(error.value)


# What a table may say


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "CSV"])
def test_a_table_of_class_folders_packs_to_the_same_bytes_as_the_folders(tmp_path, suffix):
    rows = listed(tmp_path / "pets", "cat", "dog")
    listing = table(tmp_path / "pets" / f"list.{suffix}", *reversed(rows))  # the order of the rows decides nothing
    run(listing, tmp_path / "a", labelled_fraction=0.5)
    listing.unlink()
    run(tmp_path / "pets", tmp_path / "b", labelled_fraction=0.5)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert json.loads((tmp_path / "a/manifest.json").read_text())["source"] == {
        "kind": "table",
        "name": f"list.{suffix}",
    }


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_empty_label_is_unlabelled(tmp_path, suffix):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    empty = None if suffix == "parquet" else " "
    found = read_source(str(table(tmp_path / f"list.{suffix}", ("a.png", "cat"), ("b.png", ""), ("c.png", empty))))
    assert labels(found) == {"a": "cat", "b": None, "c": None}


def test_unlabelled_rows_stay_in_train_and_do_not_change_which_rows_are_drawn(tmp_path):
    rows = listed(tmp_path, "cat", "dog")
    write_images(tmp_path, *(f"aa/{row}.png" for row in range(9)))
    unlabelled = [(f"aa/{row}.png", "") for row in range(9)]
    with_them, without = (
        packed(table(tmp_path / "list.csv", *some), tmp_path / str(len(some)), labelled_fraction=0.5)
        for some in (rows + unlabelled, rows)
    )
    keys = [
        [{row["key"] for row in each.split(name).index if row["label"] >= 0} for name in ("train", "test")]
        for each in (with_them, without)
    ]
    assert keys[0] == keys[1]
    assert len(with_them.split("train").index) == len(without.split("train").index) + 9


def test_a_table_without_any_label_is_an_unlabelled_set(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    found = packed(table(tmp_path / "list.csv", ("a.png", ""), ("b.png", "")), tmp_path / "set")
    assert found.classes == ()
    assert found.split("train").labels.tolist() == [-1, -1]


def test_classes_that_are_all_whole_numbers_sort_by_number_and_others_as_text(tmp_path):
    write_images(tmp_path, *(f"{row}.png" for row in range(3)))
    assert read_classes(tmp_path, "10", "9", "-2") == ("-2", "9", "10")
    assert read_classes(tmp_path, "10", "9", "x") == ("10", "9", "x")
    assert read_classes(tmp_path, "Katze, groß", "犬", '"q"') == ('"q"', "Katze, groß", "犬")


def read_classes(folder, *names):
    return read_source(
        str(table(folder / "list.csv", *((f"{row}.png", name) for row, name in enumerate(names))))
    ).classes


def test_whole_numbers_in_parquet_are_class_names_also_where_pandas_made_floats_of_them(tmp_path):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    found = read_source(str(table(tmp_path / "list.parquet", ("a.png", 10.0), ("b.png", float("nan")), ("c.png", 9.0))))
    assert found.classes == ("9", "10")
    assert labels(found) == {"a": "10", "b": None, "c": "9"}


def test_a_split_column_decides_the_splits(tmp_path):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    rows = (("a.png", "cat", "train"), ("b.png", "cat", "test"), ("c.png", "", "train"))
    listing = table(tmp_path / "list.csv", *rows, header=(*HEADER, "split"))
    found = read_source(str(listing))
    assert (labels(found), labels(found, "test")) == ({"a": "cat", "c": None}, {"b": "cat"})
    with pytest.raises(UserError, match=r"list\.csv has a test split of its own"):
        run(listing, tmp_path / "set", test_fraction=0.5)


def test_columns_may_have_other_names_and_stand_anywhere(tmp_path):
    write_images(tmp_path, "a.png")
    listing = table(tmp_path / "list.csv", ("7", "cat", "a.png"), header=("id", "species", "file"))
    found = read_source(str(listing), Reading(path_column="file", label_column="species"))
    assert labels(found) == {"a": "cat"}


def test_paths_are_relative_to_the_root_or_absolute(tmp_path):
    write_images(tmp_path / "images", "x/a.png", "x/b.png")
    (tmp_path / "lists").mkdir()
    rows = (("x/a.png", "cat"), (str(tmp_path / "images/x/b.png"), "cat"))
    found = read_source(str(table(tmp_path / "lists/list.csv", *rows)), Reading(root=tmp_path / "images"))
    assert labels(found) == {"x_a": "cat", "x_b": "cat"}  # nothing of where the root lies


def test_a_file_needs_no_image_extension_and_its_json_goes_with_it(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a")
    (tmp_path / "a.json").write_text("{}")
    shards = packed(table(tmp_path / "list.csv", ("a", "cat")), tmp_path / "set", test_fraction=0).split("train")
    (sample,) = webdataset.WebDataset(str(shards.folder / "train-000000.tar"), shardshuffle=False)
    assert (set(sample) & {"png", "cls", "json"}, sample["json"]) == ({"png", "cls", "json"}, b"{}")


def test_a_spreadsheets_byte_order_mark_and_blank_lines_are_read_over(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfpath,label\r\n\r\na.png,cat\r\n\r\n")
    assert labels(read_source(str(tmp_path / "list.csv"))) == {"a": "cat"}


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_may_be_separated_as_spreadsheets_of_any_country_do(tmp_path, suffix, separator):
    write_images(tmp_path, "a,b.png", "c;d.png")
    lines = ["path|label", '"a,b.png"|cat', '"c;d.png"|"dog, small"', ""]
    (tmp_path / f"list.{suffix}").write_text("\n\n".join(lines).replace("|", separator))
    assert labels(read_source(str(tmp_path / f"list.{suffix}"))) == {"a_b": "cat", "c_d": "dog, small"}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_a_test_split_may_be_called_as_a_test_folder_is(tmp_path, name):
    write_images(tmp_path, "a.png", "b.png", "c.png")
    rows = (("a.png", "cat", "Train"), ("b.png", "cat", name))
    assert labels(read_source(str(table(tmp_path / "list.csv", *rows, header=(*HEADER, "split")))), "test") == {
        "b": "cat"
    }
    other = "val" if name == "Test" else "test"
    both = table(tmp_path / "list.csv", *rows, ("c.png", "cat", other), header=(*HEADER, "split"))
    refused(both, r"list\.csv has more than one split to test on \(test, val.*\); keep the rows of one")


def test_webdataset_reads_a_partly_labelled_table(tmp_path):
    rows = listed(tmp_path, "cat", "dog", images=4)
    rows[2] = (rows[2][0], "")
    split = packed(table(tmp_path / "list.csv", *rows), tmp_path / "set", test_fraction=0).split("train")
    samples = list(webdataset.WebDataset(str(split.folder / "train-000000.tar"), shardshuffle=False).decode("rgb8"))
    assert [sample.get("cls", -1) for sample in samples] == split.labels.tolist()
    assert [sample["__key__"].encode() for sample in samples] == split.index["key"].tolist()


# Mistakes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a.png", "cat"), ("x.png", "cat")], r"list\.csv, line 3: .*x\.png does not exist .* relative to --root"),
        ([("a.png", "cat"), ("b.png", "cat"), ("./a.png", "dog")], r"line 4: \./a\.png is given twice, .*, line 2; "),
        ([("a.png", "cat"), ("", "cat")], "line 3: the path is empty"),
        ([("a.png", "cat\tdog")], r"line 2: label 'cat\\tdog' is not printable"),
        ([("a.png", "-1")], "line 2: label -1 may mean a class or none; leave the cell empty"),
        ([("a.png", "cat", "more")], "line 2: 3 cells where the header has 2"),
        ([("a.png",)], "line 2: 1 cells where the header has 2"),
        ([], r"list\.csv has no rows below its header"),
    ],
)
def test_rows_that_cannot_be_used_are_named_by_line(tmp_path, rows, message):
    write_images(tmp_path, "a.png", "b.png")
    refused(table(tmp_path / "list.csv", *rows), message)


def test_a_zero_byte_is_named_by_line(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png\0,cat\n")  # by hand: csv of Python 3.10 writes none
    refused(tmp_path / "list.csv", "line 2: .*zero byte|line 2: line contains NUL")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("b.png", "cat", "tset"),
            r"line 3: split 'tset' is .*train or one of test, val, .*; did you mean 'test'\? --skip-bad leaves it out$",
        ),
        (("b.png", "", "test"), "line 3: a test image needs a label"),
        (("b.png", "dog", "test"), "line 3: class dog has test images but no labelled train image"),
    ],
)
def test_splits_that_cannot_be_used_are_named_by_line(tmp_path, row, message):
    write_images(tmp_path, "a.png", "b.png")
    refused(table(tmp_path / "list.csv", ("a.png", "cat", "train"), row, header=(*HEADER, "split")), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"list\.csv has no column 'path' \(its first line has: nothing\)"),
        (b"paths,label\n", r"no column 'path' .*has: paths, label\); name .* --path-column; did you mean 'paths'\?$"),
        (b"path,path,label\n", "more than one column 'path'"),
        (b"path,label\nb.png,cat\n\xff.png,cat\n", r"list\.csv, line 3: not UTF-8 text .*; save as UTF-8"),
        ("path,label\n".encode("utf-16"), r"list\.csv, line 1: not UTF-8 text"),
        (b'path,label\n"a.png,cat\n', r"list\.csv, line \d: unexpected end of data"),
    ],
)
def test_text_that_is_no_such_table_is_refused(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    refused(tmp_path / "list.csv", message)


def test_parquet_that_cannot_be_used_is_refused(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "list.parquet").write_bytes(b"path,label\n")
    refused(tmp_path / "list.parquet", r"list\.parquet cannot be read as Parquet: ")
    refused(table(tmp_path / "list.parquet", ("a.png", [1])), r"row 1: column 'label' holds \[1\]; it should be text")
    refused(table(tmp_path / "list.parquet", ("a.png", 0.5)), r"row 1: column 'label' holds 0\.5; it should be text")
    refused(table(tmp_path / "list.parquet", ("a.png", "cat"), ("x.png", "cat")), r"list\.parquet, row 2: .*x\.png")


def test_missing_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    listing = table(tmp_path / "list.parquet", ("a.png", "cat"))
    original = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    refused(listing, r"pip install 'mixdist\[parquet\]'")


def test_a_missing_table_or_root_is_named(tmp_path):
    refused(tmp_path / "list.csv", r"SOURCE .*list\.csv does not exist or is no file")
    refused(table(tmp_path / "list.csv", ("a.png", "")), r"--root .*nowhere is not a folder", root=tmp_path / "nowhere")


def test_options_of_tables_are_refused_for_other_sources(tmp_path):
    write_images(tmp_path, "a.png")
    refused(tmp_path, "--root makes no sense for SOURCE .*; it belongs to tables and torchvision", root=tmp_path)
    refused("digits", "--label-column makes no sense for SOURCE digits; it belongs to tables", label_column="x")
    refused(table(tmp_path / "list.csv", ("a.png", "")), "--download makes no sense for", download=True)


def test_out_may_lie_below_the_root_but_holds_neither_the_root_nor_the_table(tmp_path):
    write_images(tmp_path, "a.png")
    listing = table(tmp_path / "list.csv", ("a.png", ""))
    run(listing, tmp_path / "set")
    (tmp_path / "set/images").mkdir()
    with pytest.raises(UserError, match=r"--root .*images lies in OUT"):
        run(listing, tmp_path / "set", overwrite=True, reading=Reading(root=tmp_path / "set/images"))
    with pytest.raises(UserError, match="lie in one another"):
        run(listing.rename(tmp_path / "set/list.csv"), tmp_path / "set", overwrite=True)


# By the command line


def test_a_file_that_is_no_image_is_named_with_its_line_and_leaves_nothing(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "b.png").write_text("hello")
    table(tmp_path / "list.csv", ("a.png", "cat"), ("b.png", "cat"))
    done = launching.run(launching.mixdist("pack", "list.csv", "set", "--test-fraction", "0"), tmp_path)
    assert done.code == 2
    assert done.err.startswith("mixdist: error: list.csv, line 3: image b.png cannot be read: its content is not a")
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "list.csv"]


def test_what_a_user_types_for_a_table_packs_it(tmp_path, capsys):
    rows = [(f"x/{path}", name) for path, name in listed(tmp_path / "root/x", "cat", "dog")]
    table(tmp_path / "list.tsv", *rows, header=("file", "class"))
    command = ["pack", str(tmp_path / "list.tsv"), str(tmp_path / "set"), "--root", str(tmp_path / "root")]
    assert main([*command, "--path-column", "file", "--label-column", "class"]) == 0
    options = json.loads((tmp_path / "set/manifest.json").read_text())["options"]
    assert (options["path_column"], options["label_column"]) == ("file", "class")
    assert "2 classes" in capsys.readouterr().out


def test_a_killed_process_leaves_no_set_of_a_table(tmp_path):
    rows = listed(tmp_path, "cat", images=12)
    listing = table(tmp_path / "list.csv", *rows)
    script = (
        "import os, signal, mixdist.data.packing.pack as p\n"
        "p.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"  # all shards and indexes are written
        f"from mixdist.cli import main; main(['pack', {str(listing)!r}, {str(tmp_path / 'set')!r}])"
    )
    assert launching.run([sys.executable, "-c", script], tmp_path).code == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    assert (tmp_path / "set.partial/train.index.npy").exists()
    assert not (tmp_path / "set.partial/manifest.json").exists()
    run(listing, tmp_path / "set")
    assert len(open_set(tmp_path / "set").split("train").index) == 10
    assert not (tmp_path / "set.partial").exists()


# Properties


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    return table(folder / "list.csv", *listed(folder, "a", "b", "c", images=20))


@settings(max_examples=12, deadline=None)
@given(
    fractions=st.lists(st.integers(3, 100), min_size=2, max_size=2, unique=True).map(sorted),
    seed=st.integers(0, 2**63 - 1),
    workers=st.integers(1, 4),
)
def test_labelled_samples_of_a_packed_set_are_among_those_at_any_larger_fraction(
    zoo, tmp_path_factory, fractions, seed, workers
):
    folder = tmp_path_factory.mktemp("sets")
    small, large = (
        packed(zoo, folder / str(each), labelled_fraction=each / 100, test_fraction=0, seed=seed, workers=workers)
        for each in fractions
    )
    few, more = (
        {row["key"]: row["label"] for row in each.split("train").index if row["label"] >= 0} for each in (small, large)
    )
    assert few.items() <= more.items()
    assert np.bincount(list(few.values())).tolist() == [round(fractions[0] / 100 * 20)] * 3
    assert small.split("train").index["key"].tolist() == large.split("train").index["key"].tolist()
