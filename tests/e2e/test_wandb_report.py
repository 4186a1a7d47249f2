"""`mixdist compare --wandb` sends a report to a server on loopback; a second call updates it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launching
import pytest
from wandb_server import WandbServer, operation, wandb_server

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from fake_runs import three_arms, write_run

pytest.importorskip("wandb_workspaces")
CANARY = "canary-5b1c"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A server with the project team/trees that keeps the reports it is sent."""
    with wandb_server() as state:
        kept: dict[str, dict[str, Any]] = {}
        person = {"id": "u", "entity": "team", "username": "u", "email": "", "flags": "{}", "teams": {"edges": []}}
        project = {"__typename": "Project", "id": "p", "name": "trees", "entityName": "team", "isBenchmark": False}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}

        def upsert(variables: dict[str, Any]) -> dict[str, Any]:
            report = {"id": variables["id"] or f"report{len(kept)}", "createdAt": "2026-01-01T00:00:00", "user": None}
            report |= {name: variables[name] for name in ("name", "displayName", "description", "spec", "type")}
            kept[report["id"]] = report | {"updatedAt": "2026-01-01T00:00:00"}
            where = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
            return {"upsertView": {"view": kept[report["id"]] | {"project": where}, "inserted": True}}

        def views(_: dict[str, Any]) -> dict[str, Any]:
            edges = [{"node": report, "cursor": "c"} for report in kept.values()]
            return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

        state.answers = {
            "Viewer": {"viewer": person},
            "GetDefaultEntity": {"viewer": person},
            "ProjectInternalId": {"project": {"id": "p", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}},
            "GetProjects": {
                "models": {
                    "pageInfo": page,
                    "edges": [{"node": {**project, "createdAt": "2026-01-01T00:00:00", "user": None}}],
                }
            },
            "ProjectViews": views,
            "upsertView": upsert,
        }
        yield state


def compare(server: WandbServer, folder: Path, *arguments: str) -> launching.Done:
    (folder / "home").mkdir(exist_ok=True)
    done = subprocess.run(
        launching.mixdist("compare", *arguments),
        cwd=folder,
        env=launching.environment() | server.environment | {"HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=launching.TIMEOUT_S,
        check=False,
    )
    return launching.Done(done.returncode, done.stdout, done.stderr)


def sent(server: WandbServer) -> list[dict[str, Any]]:
    return [body["variables"] for body in server.queries if operation(body) == "upsertView"]


def grid(spec: dict[str, Any]) -> dict[str, Any]:
    (found,) = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return dict(found)


@pytest.mark.slow
def test_the_report_holds_the_groups_as_run_sets_and_a_second_call_updates_it(
    server: WandbServer, tmp_path: Path
) -> None:
    runs = three_arms(tmp_path / CANARY / "experiment", config={"data.sl": f"/home/{CANARY}/digits"})
    write_run(runs / "mixed", config={"method.mix_ratio": 0.25, "data.sl": f"/home/{CANARY}/other"})
    for number, folder in enumerate(sorted(runs.iterdir())):
        if folder.name != "sl-0":
            (folder / "wandb-id.txt").write_text(f"id{number}\n")
    first = compare(server, tmp_path, str(runs), "--wandb", "team/trees")
    assert first.code == 0, first.err
    again = compare(server, tmp_path, str(runs), "--wandb", "team/trees", "--by", "world_size")
    assert again.code == 0, again.err
    url = f"{server.url}/team/trees/reports/mixdist-comparison:-experiment--report0"
    assert first.out.splitlines()[-1] == again.out.splitlines()[-1] == url
    assert "sl-0 is not in the W&B report: it was trained without W&B" in first.err

    one, two = sent(server)
    assert (one["id"], two["id"]) == (None, "report0")
    assert one["displayName"] == two["displayName"] == "mixdist comparison: experiment"
    spec = json.loads(one["spec"])
    names = [each["name"] for each in grid(spec)["runSets"]]
    assert [re.split(",", name)[0] for name in names] == ["sl", "ssl+sl", "mixtraining", "mixtraining"]
    ids = [re.findall(r'"(id\d)"', json.dumps(each["filters"])) for each in grid(spec)["runSets"]]
    assert ids == [["id4"], ["id5", "id6"], ["id0"], ["id1", "id2"]]  # by mix_ratio: 0.25, then 0.5
    panels = grid(spec)["panelBankSectionConfig"]["panels"] or grid(spec)["panels"]
    kinds = [panel["viewType"] for panel in panels]
    assert kinds[0] == "Run History Line Plot"
    assert {"Scatter Plot", "Bar Chart", "Parallel Coordinates Plot", "Run Comparer", "Media Browser"} <= set(kinds)
    assert "train/latency_s" in json.dumps(panels[0])
    assert "eval/accuracy" in json.dumps(panels[0])
    assert "mixtraining" in one["spec"]
    assert CANARY not in "".join(map(json.dumps, sent(server)))
    assert "world_size" in json.dumps(grid(json.loads(two["spec"]))["runSets"][0]["grouping"])


@pytest.mark.slow
def test_without_runs_the_project_is_compared_by_arm_and_what_goes_wrong_is_said(
    server: WandbServer, tmp_path: Path
) -> None:
    done = compare(server, tmp_path, "--wandb", "team/trees")
    assert done.code == 0, done.err
    sets = grid(json.loads(sent(server)[0]["spec"]))["runSets"]
    assert [each["name"] for each in sets] == ["sl", "ssl+sl", "mixtraining"]
    server.answers["ProjectInternalId"] = {"project": None}
    gone = compare(server, tmp_path, "--wandb", "team/trees")
    assert gone.code == 2
    assert "error: --wandb team/trees: " in gone.err
    assert "not found" in gone.err
    assert gone.own_tracebacks == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wandb", "trees"], "should be ENTITY/PROJECT"),
        ([], "give run folders"),
        (["runs", "--by", "world_size"], "no two groups of these runs differ in the number of ranks alone"),
        (["runs", "--wandb", "team/trees"], "none of these runs was trained with W&B"),
    ],
)
def test_what_cannot_be_reported_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from mixdist.cli import main

    write_run(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
