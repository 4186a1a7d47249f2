"""The page is one file that opens anywhere: no script, no outside address, nothing from a run read as markup."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_runs import make_records, three_arms, write_run

from mixdist.report.collect import collect
from mixdist.report.losses import losses
from mixdist.report.markdown import markdown
from mixdist.report.page import page
from mixdist.report.summarise import group_runs

VOID = {"meta", "img", "br"}


class Elements(HTMLParser):
    """Collect the elements of a page and check that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def render(*paths: Path) -> str:
    found = collect([str(path) for path in paths])
    return page(group_runs(found.runs), found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = three_arms(tmp_path_factory.mktemp("runs"))
    (write_run(folder / "killed") / "result.json").unlink()
    (folder / "sl-0" / "confusion.json").write_text('{"classes": ["<oak>", "elm"], "counts": [[3, 1], [2, 6]]}')
    return render(folder)


def test_the_page_points_to_nothing_outside_and_holds_no_script(whole: str) -> None:
    elements = Elements(whole).found
    targets = [value or "" for _, attrs in elements for name, value in attrs.items() if name in LINKS]
    assert targets
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"url\((?!#)", whole)
    assert "@import" not in whole
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in elements}
    assert not any(name.startswith("on") for _, attrs in elements for name in attrs)


LINKS = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}


def test_every_figure_is_well_formed_and_described(whole: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", whole, flags=re.DOTALL)
    assert len(figures) == 5 + 3 + 1  # accuracy, two curves, throughput and over time; losses; a confusion matrix
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 40
        assert root.get("viewBox")
        assert root.get("width") is None


def test_no_id_occurs_twice_and_every_reference_is_there(whole: str) -> None:
    ids = [attrs["id"] for _, attrs in Elements(whole).found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole)) != set()
    for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole):
        assert set(pair) & set(ids)


def test_the_style_of_a_figure_stays_inside_it(whole: str) -> None:
    rules = re.findall(r"<style[^>]*>(.*?)</style>", re.sub(r"(?s)<head>.*?</head>", "", whole), flags=re.DOTALL)
    assert rules
    assert all(re.fullmatch(r"#figure-[\w-]+ \*\s*\{[^}]*\}", rule.strip()) for rule in rules)


def test_the_page_says_what_the_table_the_sentence_and_the_runs_say(whole: str) -> None:
    text = Elements(whole).text
    assert "mixtraining: 71.4 % ± 0.6 against ssl+sl" in text
    assert "71.4 ± 0.6" in text
    assert "2.20×" in text
    assert "killed" in text
    assert "unfinished: no result.json" in text
    assert re.search(r"torchrun --nproc_per_node=1 -m mixdist.train --config \S+/sl-1/config.yaml", text)
    assert "decoder_depth" in text
    assert "2.9.0" in text


def test_reconstructions_are_embedded_with_alt_text_for_the_arms_that_have_them(whole: str) -> None:
    images = [attrs for tag, attrs in Elements(whole).found if tag == "img"]
    assert [(image["alt"] or "").split(",")[0] for image in images] == [
        "Test images of ssl+sl",
        "Test images of mixtraining",
    ]


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    three_arms(tmp_path, seeds=1)
    assert render(tmp_path) == render(tmp_path)


def test_text_from_runs_is_never_read_as_markup(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    for number, name in enumerate((evil.replace("/", "|"), "plain")):
        write_run(
            tmp_path / name,
            config={"data.sl": f"{evil}{number}$x_1$"},
            result={"data": evil, "device": evil, "git": evil, "versions": {evil: evil}, "backbone": evil},
            picture=True,
        )
    (tmp_path / "<b>bold").mkdir()
    (tmp_path / "<b>bold" / "plan.json").write_text("{}")
    text = render(tmp_path)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    Elements(text)
    for figure in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(figure)


def test_a_commit_is_short_but_still_says_that_the_code_was_changed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", result={"git": "0123456789abcdef-dirty"})
    assert "<td>01234567-dirty</td>" in render(tmp_path)


def test_runs_without_metrics_have_no_curves_but_a_page(tmp_path: Path) -> None:
    (write_run(tmp_path / "a") / "metrics.jsonl").unlink()
    text = render(tmp_path)
    assert "Learning curves" not in text
    assert "Loss terms" not in text
    assert "Accuracy against training time" in text


def test_a_long_loss_curve_is_averaged_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "sl")
    record = make_records("sl", 0, 70.0)[0].as_dict()
    lines = [json.dumps({**record, "step": step, "loss_sl": step % 2}) for step in range(1, 1201)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    (picture,) = losses(group_runs(collect([str(folder)]).runs))
    assert "at most 300 points" in picture.caption
    assert "from 0.5 to 0.5" in picture.svg


def test_the_colours_of_ink_and_paper_are_those_of_the_page_and_those_of_data_are_not(whole: str) -> None:
    svg = re.search(r"<svg.*?</svg>", whole, flags=re.DOTALL)[0]
    assert "fill: var(--card, #ffffff)" in svg
    assert "stroke: var(--soft, #555555)" in svg
    assert "fill: #d55e00" in svg.lower()
    assert not re.findall(r": (?:#222222|#555555|#ffffff)", svg)


def test_a_confusion_matrix_says_which_classes_are_mixed_up(whole: str) -> None:
    said = re.search(r'aria-label="(Confusion matrix of sl[^"]*)"', whole)[1]
    assert "Right from 75 % (&lt;oak&gt;) to 75 %" in said
    assert "&lt;oak&gt; is taken for elm in 25 %" in said or "elm is taken for &lt;oak&gt; in 25 %" in said


@pytest.mark.parametrize(
    "content", ["{", '{"classes": ["a"], "counts": [[1], [2]]}', '{"classes": ["a"], "counts": [[-1]]}']
)
def test_a_damaged_confusion_matrix_leaves_its_run_out(tmp_path: Path, content: str) -> None:
    (write_run(tmp_path / "good"), write_run(tmp_path / "bad") / "confusion.json")[1].write_text(content)
    (left_out,) = collect([str(tmp_path)]).left_out
    assert left_out.reason.startswith("confusion.json: ")


def test_pictures_through_training_are_a_strip_of_at_most_six_with_the_first_and_the_last(tmp_path: Path) -> None:
    write_run(tmp_path / "a", pictures=9)
    images = [attrs["alt"] or "" for tag, attrs in Elements(render(tmp_path)).found if tag == "img"]
    epochs = [int(re.search(r"epoch (\d+)", alt)[1]) for alt in images]
    assert len(epochs) == 6
    assert (epochs[0], epochs[-1]) == (1, 9)
    assert epochs == sorted(set(epochs))


def test_the_label_budget_is_a_line_an_arm_where_only_the_labels_differ(tmp_path: Path) -> None:
    for fraction, labelled in ((0.1, 100), (0.5, 500)):
        write_run(tmp_path / f"{fraction}", "sl", config={"data.fraction": fraction}, result={"labelled": labelled})
    assert "Accuracy over the number of labelled images. sl: 70.0 % with 100, 70.0 % with 500" in render(tmp_path)
    write_run(tmp_path / "c", "sl", config={"data.fraction": 1.0, "train.batch": 9}, result={"labelled": 1000})
    assert "Label budget" not in render(tmp_path)


def test_markdown_holds_sentence_table_and_what_is_left_out(tmp_path: Path) -> None:
    three_arms(tmp_path)
    (write_run(tmp_path / "a_killed|run") / "result.json").unlink()
    found = collect([str(tmp_path)])
    text = markdown(group_runs(found.runs), found)
    assert text.startswith("# Run comparison\n\nmixtraining: 71.4 % ± 0.6 against ssl+sl")
    assert "| mixtraining | 10% (143) | 2 | 71.4 ± 0.6 | 36.0 | 1.22× | 213 | 1 | 0.010 | n/a | 33/39/28 |" in text
    assert r"a\_killed\|run: unfinished" in text
