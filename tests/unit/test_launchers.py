"""What srun, mpirun and the deepspeed launcher say in the environment, by torchrun's names."""

import zlib

import pytest

from mixdist.errors import UserError
from mixdist.launchers import is_restart, torchrun_names, without_local_rank

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.9.9.9",
}
BY_SLURM = TORCHRUN | {"MASTER_ADDR": "gpu003", "MASTER_PORT": str(20000 + 1234 * 7)}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
PORT_OF_1234 = str(20000 + zlib.crc32(b"1234") % 20000)
ADDRESS = {"MASTER_ADDR": "10.0.0.1"}
ONE_NODE = {"OMPI_COMM_WORLD_LOCAL_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "5"}
CASES = {
    "nothing": ({}, {}),
    "torchrun": (TORCHRUN, TORCHRUN),
    "torchrun started by srun": (SLURM | {"SLURM_STEP_NUM_TASKS": "2"} | TORCHRUN, TORCHRUN),
    "torchrun started by mpirun": (OPEN_MPI | TORCHRUN, TORCHRUN),
    "the deepspeed launcher": (
        {key: value for key, value in TORCHRUN.items() if key != "LOCAL_WORLD_SIZE"} | {"LOCAL_SIZE": "4"},
        TORCHRUN,
    ),
    "srun": (SLURM, BY_SLURM),
    "srun with an address of the user's": (
        SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "1"},
        BY_SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "1"},
    ),
    "srun over nodes of different sizes": (
        SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2,4,2"},
        BY_SLURM,
    ),
    "srun without a list of nodes": (
        {key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"},
        BY_SLURM | {"MASTER_ADDR": "10.9.9.9"},
    ),
    "a Slurm batch script, without srun": (
        {key: value for key, value in SLURM.items() if not key.startswith("SLURM_STEP_")},
        {},
    ),
    "srun of one task": (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, {}),
    "mpirun of Open MPI": (OPEN_MPI | ADDRESS, TORCHRUN | {"MASTER_PORT": "29500"}),
    "mpirun of Open MPI on one node": (
        OPEN_MPI | ONE_NODE,
        TORCHRUN | {"LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    ),
    "mpirun of MPICH and Intel MPI": (HYDRA | ADDRESS, TORCHRUN | {"MASTER_PORT": "29500"}),
    "mpirun of Open MPI in a Slurm job, whose daemons srun started": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"} | OPEN_MPI | ADDRESS,
        TORCHRUN | {"MASTER_PORT": PORT_OF_1234},
    ),
    "mpirun of Open MPI of one rank in a Slurm job": (
        SLURM | {"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {},
    ),
    "srun that speaks PMI as well": (SLURM | HYDRA | {"PMI_RANK": "7"}, BY_SLURM),
    "mpirun of one rank": (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_launcher_s_environment_is_read_as_torchrun_s(case):
    environ, expected = CASES[case]
    assert torchrun_names(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("gpu[003-007,9],head", "gpu003"),
        ("gpu[12]", "gpu12"),
        ("rack1-gpu[1-2].cluster.org", "rack1-gpu1.cluster.org"),
    ],
)
def test_rank_0_of_a_slurm_step_is_on_its_first_node(nodes, first):
    assert torchrun_names(SLURM | {"SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_the_next_slurm_job_on_a_node_gets_another_port():
    ports = {torchrun_names(SLURM | {"SLURM_JOB_ID": job})["MASTER_PORT"] for job in ("1234", "1235", "1236")}
    assert len(ports) == 3


@pytest.mark.parametrize("job", ["PMIX_NAMESPACE", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"])
def test_two_mpiruns_on_a_node_get_a_port_each_where_a_job_has_a_number(job):
    ports = {torchrun_names(OPEN_MPI | ADDRESS | {job: number})["MASTER_PORT"] for number in ("1234", "1235.pbs")}
    assert len(ports) == 2
    assert all(20000 <= int(port) < 40000 for port in ports)
    own = OPEN_MPI | ADDRESS | {job: "1234", "MASTER_PORT": "7"}
    assert torchrun_names(own)["MASTER_PORT"] == "7"


def test_mpi_ranks_on_several_nodes_are_asked_for_the_address_of_rank_0():
    with pytest.raises(UserError, match=r"OMPI_COMM_WORLD_RANK.*mpirun -x MASTER_ADDR=HOST"):
        torchrun_names(OPEN_MPI)


def test_slurm_without_any_node_asks_for_the_address():
    nameless = {
        key: value for key, value in SLURM.items() if key not in ("SLURM_STEP_NODELIST", "SLURM_LAUNCH_NODE_IPADDR")
    }
    with pytest.raises(UserError, match="set MASTER_ADDR to the host of rank 0"):
        torchrun_names(nameless)


def test_a_slurm_variable_that_is_no_number_is_named():
    with pytest.raises(UserError, match=r"SLURM_NODEID should be a number, got 'x'"):
        torchrun_names(SLURM | {"SLURM_NODEID": "x"})


def test_the_flag_that_the_deepspeed_launcher_adds_is_no_argument_of_ours():
    assert without_local_rank(["--local_rank=1", "--seed", "2"], {"LOCAL_RANK": "1"}) == ["--seed", "2"]
    assert without_local_rank(["--local_rank=1"], {}) == ["--local_rank=1"]
    assert without_local_rank(["--seed", "2"], {"LOCAL_RANK": "1"}) == ["--seed", "2"]


@pytest.mark.parametrize(
    ("environ", "again"),
    [
        ({}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_JOB_ID": "7"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_RESTART_COUNT": "1"}, True),
    ],
)
def test_a_restart_is_told_by_the_count_of_torchrun_or_slurm(environ, again):
    assert is_restart(environ) == again
