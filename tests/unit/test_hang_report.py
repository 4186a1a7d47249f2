"""The report of a run that stands still names the ranks that the others wait for."""

from dataclasses import replace

from mixdist.engine.hang import Standing, hang_report, waited_for

NOW = 1000.0


def at(rank: int, beats: int, stage: str = "backward", step: int = 36, still_s: float = 300.0) -> Standing:
    return Standing(rank, f"node{rank}", 100 + rank, step, "mix", stage, beats, still_s, NOW - 2)  # type: ignore[arg-type]


def report(standings: list[Standing], silent: list[int], size: int) -> list[str]:
    return hang_report(standings, silent, range(size), NOW, "run/hang/rank-*.txt").splitlines()


def test_the_rank_furthest_behind_is_named_and_the_others_wait_for_it():
    lines = report([at(0, 3), at(1, 0, "data", still_s=301), at(2, 3)], [], 3)
    assert lines[0] == (
        "the run stands still: a process holds the others up: rank 1 (node1, pid 101) in data of step 37 (mix)"
    )
    assert [line.split()[:8] for line in lines[2:5]] == [
        ["0", "node0", "100", "37", "mix", "backward", "302", "s"],
        ["1", "node1", "101", "37", "mix", "data", "303", "s"],
        ["2", "node2", "102", "37", "mix", "backward", "302", "s"],
    ]
    assert [line.rpartition("  ")[2] for line in lines[2:5]] == ["waits for 1", "behind", "waits for 1"]
    assert lines[5] == "stacks of all threads: run/hang/rank-*.txt"


def test_a_rank_a_step_behind_is_behind_whatever_its_stage():
    assert waited_for([at(0, 0, "data", step=37), at(1, 5, "optim", step=36)], []) == [1]


def test_a_silent_rank_is_the_cause_also_where_it_was_last_seen_ahead():
    lines = report([at(0, 3), at(1, 4)], [1], 2)
    assert "does not answer any more, last seen: rank 1 (node1, pid 101)" in lines[0]
    assert lines[2].endswith("waits for 1")
    assert lines[3].endswith("silent for 2 s: stopped, gone or cut off")


def test_a_rank_that_never_spoke_has_a_line_of_its_own():
    lines = report([at(0, 3)], [], 2)
    assert "rank 1, which never spoke" in lines[0]
    assert lines[3].split() == ["1", "?", "?", "?", "?", "?", "?", "never", "spoke"]


def test_where_all_stand_at_one_place_nobody_is_blamed():
    lines = report([at(0, 3), at(1, 3)], [], 2)
    assert lines[0] == "the run stands still: all ranks stand in backward of step 37 (mix)"
    assert lines[2].endswith("s")
    assert waited_for([at(0, 3), at(1, 3)], []) == []


def test_a_run_of_one_says_where_it_stands():
    assert report([at(0, 0, "data")], [], 1)[0] == (
        "the run stands still: rank 0 (node0, pid 100) in data of step 37 (mix)"
    )


def test_a_run_that_is_set_up_has_no_step_yet():
    set_up = [Standing(rank, "node", 100 + rank, 0, "", "start", 2 - rank, 300.0, NOW) for rank in (0, 1)]
    lines = report(set_up, [], 2)
    assert lines[0].endswith("holds the others up: rank 1 (node, pid 101) in start, before its first step")
    assert lines[2].split()[3:6] == ["-", "-", "start"]
    assert report([set_up[0], replace(set_up[1], beats=2)], [], 2)[0].endswith(
        "all ranks stand in start, before its first step"
    )


def test_of_many_ranks_behind_the_first_four_are_named():
    lines = report([at(rank, 0 if rank else 3) for rank in range(8)], [], 8)
    assert lines[0].endswith("rank 4 (node4, pid 104) in backward of step 37 (mix); and 3 more")


def test_a_standing_survives_the_store():
    assert Standing.from_json(at(3, 2).to_json().encode()) == at(3, 2)
