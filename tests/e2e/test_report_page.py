"""The page renders in a real browser: figures have a size, and a phone needs no sideways scrolling."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from fake_runs import three_arms
from PIL import Image

from mixdist.report.compare import main

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"needs {CHROMIUM}; runs where it is installed: apt-get install chromium"
)

# The page allows no script, so a page around it measures it: same origin through --allow-file-access-from-files.
MEASURE = """<!DOCTYPE html><iframe id="inner" src="report.html" style="border:0;width:{width}px;height:800px"></iframe>
<script>
document.getElementById("inner").onload = (event) => {{
  const page = event.target.contentDocument;
  const sizes = [...page.querySelectorAll("svg, img")].map((one) => one.getBoundingClientRect());
  document.body.dataset.figures = sizes.length;
  document.body.dataset.smallest = Math.round(Math.min(...sizes.map((size) => Math.min(size.width, size.height))));
  document.body.dataset.width = page.documentElement.scrollWidth;
  document.body.dataset.headline = page.querySelector(".headline").innerText;
}};
</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    three_arms(folder / "runs", pictures=3, confusion=[[3, 1], [0, 4]])
    main([str(folder / "runs"), "--out", str(folder / "report.html")])
    return folder


def chromium(profile: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_renders_at_the_width_of_a_phone_and_of_a_desktop(folder: Path, tmp_path: Path, width: int) -> None:
    outer = folder / f"outer-{width}.html"
    outer.write_text(MEASURE.format(width=width))
    dom = chromium(tmp_path, "--allow-file-access-from-files", "--window-size=1300,900", "--dump-dom", outer.as_uri())
    measured = dict(re.findall(r'data-(\w+)="([^"]*)"', dom))
    assert int(measured["figures"]) == 5 + 3 + 3 + 3 * 3  # plots, losses, matrices, pictures of three runs
    assert int(measured["smallest"]) > 80
    assert int(measured["width"]) == width
    assert measured["headline"].startswith("mixtraining: 71.4 %")


def test_the_browser_has_nothing_to_complain_about(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    log = subprocess.run(
        [
            *(str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--window-size=1200,3000", f"--screenshot={picture}", (folder / "report.html").as_uri()),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stderr
    assert picture.stat().st_size > 50_000
    assert "CONSOLE" not in log


def test_a_dark_screen_has_light_ink_on_dark_paper_in_the_figures_too(folder: Path, tmp_path: Path) -> None:
    shades = {}
    for theme, flag in (("light", "1"), ("dark", "0")):
        shot = tmp_path / f"{theme}.png"
        chromium(
            tmp_path / theme,
            f"--blink-settings=preferredColorScheme={flag}",
            *("--window-size=700,2600", f"--screenshot={shot}", (folder / "report.html").as_uri()),
        )
        grey = np.asarray(Image.open(shot).convert("L"))
        shades[theme] = (float(np.median(grey)), float((grey > 200).mean()), float((grey < 60).mean()))
    assert shades["light"][0] > 240
    assert shades["light"][2] < 0.1
    assert shades["dark"][0] < 40
    assert shades["dark"][1] < 0.1  # a figure left white would be far more
