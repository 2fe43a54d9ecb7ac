"""Options of `docker run`, read into a specification and printed again: the same container, token by token."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.card.shell import commands, docker_run
from flagrelease.card.text import docker_run as printed
from flagrelease.errors import MatrixError
from flagrelease.loading import load_matrix
from flagrelease.matrix import Cell
from runtime.launch.container_spec import ContainerSpec, Device, Gpus, Mount, Port, Ulimit, size_bytes
from runtime.launch.docker_run import options, parse, sdk_arguments, tokens
from tests.conftest import ROOT

SOURCE_CELLS = {cell.id: cell for cell in load_matrix(ROOT / "matrix.yaml").cells if cell.published}

# What a reader of `docker run --help` knows, written apart from the code under test.
SAME = {"--detach": "-d", "--net": "--network", "--volume": "-v", "--env": "-e", "--user": "-u", "--memory": "-m"}
WITHOUT_VALUE = {"-d", "-i", "-t", "--rm", "--init", "--privileged"}


def flags(words: Sequence[str]) -> set[tuple[str, str]]:
    """Options as a set of (option, value)."""

    def each() -> Iterator[tuple[str, str]]:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                name = SAME.get(name, name)
                if name in WITHOUT_VALUE:
                    assert value in {"", "true"}
                    yield name, ""
                else:
                    yield name, value if equals else rest.pop(0)
            elif f"-{word[1]}" in WITHOUT_VALUE:
                yield from ((f"-{letter}", "") for letter in word[1:])
            else:
                yield word, rest.pop(0)

    return set(each())


def spec_of(cell: Cell) -> ContainerSpec:
    assert cell.container
    container = cell.container
    return parse(container.options, image=container.image, command=container.command, name=container.name)


def of(line: str) -> ContainerSpec:
    """The options in `line`, as a shell would hand them over."""
    return parse(shlex.split(line), image="busybox")


def test_there_are_five_source_cells() -> None:
    assert len(SOURCE_CELLS) == 5


@pytest.mark.parametrize("cell_id", SOURCE_CELLS)
def test_a_source_cell_prints_the_flags_that_it_was_read_from(cell_id: str) -> None:
    cell = SOURCE_CELLS[cell_id]
    assert cell.container
    spec = spec_of(cell)
    assert flags(options(spec)) == flags([*cell.container.options, "--name", cell.container.name])
    assert parse(options(spec), image=spec.image, command=spec.command) == spec


@pytest.mark.parametrize("cell_id", SOURCE_CELLS)
def test_the_printed_line_of_a_source_cell_is_the_same_container(cell_id: str) -> None:
    spec = spec_of(SOURCE_CELLS[cell_id])
    lines = printed(options(spec), spec.name or "", spec.image, spec.command)
    run = docker_run(commands(lines)[0])
    assert run is not None
    assert run.image is not None
    assert parse(run.options, image=run.image, command=run.command) == spec


def test_the_sdk_is_given_what_the_card_of_qwen3_on_metax_says() -> None:
    assert sdk_arguments(spec_of(SOURCE_CELLS["qwen3-metax"])) == {
        "image": "harbor.baai.ac.cn/flagrelease-public/flagrelease_metax_qwen3_8b:latest",
        "command": ["bash"],
        "name": "qwen3_8b_release",
        "hostname": None,
        "user": None,
        "working_dir": None,
        "environment": ["USE_FLAGGEMS=1"],
        "labels": {},
        "detach": True,
        "stdin_open": True,
        "tty": True,
        "ports": [],
        "host_config": {
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no"},
            "Privileged": True,
            "NetworkMode": "host",
            "UTSMode": "host",
            "IpcMode": "host",
            "GroupAdd": ["video"],
            "ShmSize": 100 * 2**30,
            "Ulimits": [{"Name": "memlock", "Soft": -1, "Hard": -1}],
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "Devices": [
                {"PathOnHost": "/dev/dri", "PathInContainer": "/dev/dri", "CgroupPermissions": "rwm"},
                {"PathOnHost": "/dev/mxcd", "PathInContainer": "/dev/mxcd", "CgroupPermissions": "rwm"},
            ],
            "Binds": ["/usr/share/zoneinfo/Asia/Shanghai:/etc/localtime:ro", "/nfs/:/nfs/"],
        },
    }


def test_the_sdk_is_given_what_the_card_of_minimax_on_nvidia_says() -> None:
    arguments = sdk_arguments(spec_of(SOURCE_CELLS["minimax-nvidia"]))
    host = arguments["host_config"]
    assert arguments["command"] == ["sleep", "infinity"]
    assert arguments["user"] == "0"
    assert host["Init"] is True
    assert host["ShmSize"] == 512 * 2**30
    assert host["Ulimits"] == [
        {"Name": "memlock", "Soft": -1, "Hard": -1},
        {"Name": "stack", "Soft": 67108864, "Hard": 67108864},
    ]
    assert host["DeviceRequests"] == [
        {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    ]


# As the cards and the documents of the chips write them.
SEEN = [
    "--gpus all --net=host --uts=host --ipc=host --security-opt=seccomp=unconfined --privileged=true "
    "--ulimit stack=67108864 --ulimit memlock=-1 --ulimit nofile=1048576:1048576 --shm-size=32G -v /share:/share",
    "--user 0 --shm-size=512G -e USE_FLAGGEMS=1",
    "--device=/dev/dri --device=/dev/mxcd --device=/dev/mem --group-add video --network=host "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --shm-size '100gb' --ulimit memlock=-1",
    "--privileged=true --shm-size=1000g --net=host -v /usr/local/Ascend/driver:/usr/local/Ascend/driver "
    "-v /etc/ascend_install.info:/etc/ascend_install.info",
    "--device=/dev/davinci0 --device=/dev/davinci_manager --device=/dev/devmm_svm --device=/dev/hisi_hdc "
    "-e PYTORCH_NPU_ALLOC_CONF=max_split_size_mb:256 -e VLLM_USE_V1=1 -e CPU_AFFINITY_CONF=2",
    "--device=/dev/kfd --device=/dev/mkfd --device=/dev/dri --group-add video -u root -v /opt/hyhal:/opt/hyhal "
    '--cap-add=SYS_PTRACE --security-opt seccomp=unconfined --shm-size=16G --memory="512g" --ulimit stack=-1:-1 '
    "--ulimit memlock=-1:-1",
    "--privileged --pid=host -v /usr/bin/cnmon:/usr/bin/cnmon -v /tmp/.X11-unix:/tmp/.X11-unix",
    "--privileged -e MTHREADS_VISIBLE_DEVICES=all -e MTHREADS_DRIVER_CAPABILITIES=all -e VLLM_USE_V1=0 "
    "--shm-size 80g --cap-add=SYS_PTRACE --tmpfs /tmp:exec",
    "--device=/dev/xpu0 --device=/dev/xpuctrl --tmpfs /dev/shm:rw,nosuid,nodev,exec,size=32g "
    "-e XPU_FORCE_SHARED_DEVICE_CONTEXT=1 -e BKCL_TREE_THRESHOLD=1",
    "-v /dev:/dev -v /usr/src/:/usr/src -v /lib/modules/:/lib/modules --privileged --cap-add=ALL --pid=host "
    '--shm-size="32g"',
    "--device=/dev/alixpu --device=/dev/alixpu_ctl -e XPU_VISIBLE_DEVICES=all",
    "-itd --rm --init --hostname box -w /workspace -m 4g -l a=b -p 127.0.0.1:8000:8000 -p 53/udp --cap-drop NET_RAW",
    "--runtime=mthreads --gpus 2",
    """--gpus '"device=0,1"'""",
    "--gpus device=GPU-3a23c669",
    "-e TZ=Asia/Shanghai -e 'WORDS=a b  \"c\" $(d)' -e EMPTY=",
    "--device /dev/null:/dev/davinci0 --device /dev/zero:/dev/zero:r --device /dev/full:/dev/x:rw",
]


@pytest.mark.parametrize("line", SEEN)
def test_what_chips_are_started_with_is_understood_and_printed_again(line: str) -> None:
    spec = of(line)
    assert parse(options(spec), image="busybox") == spec


@pytest.mark.parametrize("line", SEEN)
def test_no_flag_is_lost_or_added(line: str) -> None:
    spelled = {"--label": "-l", "--publish": "-p", "--hostname": "-h", "--workdir": "-w"}

    def spelling(words: Sequence[str]) -> set[tuple[str, str]]:
        return {(spelled.get(name, name), value.strip('"') if name == "-m" else value) for name, value in flags(words)}

    assert spelling(options(of(line))) == spelling(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("-it", "tty", True),
        ("-d=false", "detach", False),
        ("--privileged=true", "privileged", True),
        ("--gpus all", "gpus", Gpus(count=-1)),
        ("--gpus 2", "gpus", Gpus(count=2)),
        ("""--gpus '"device=0,1"'""", "gpus", Gpus(ids=("0", "1"))),
        ("--ulimit nofile=1024:2048", "ulimits", (Ulimit(name="nofile", soft=1024, hard=2048),)),
        ("--ulimit memlock=-1", "ulimits", (Ulimit(name="memlock", soft=-1),)),
        ("-v/a:/b:ro,z", "mounts", (Mount(source="/a", target="/b", modes=("ro", "z")),)),
        ("--device=/dev/a:r", "devices", (Device(host="/dev/a", container="/dev/a", access="r"),)),
        ("--device=/dev/a:/dev/b:r", "devices", (Device(host="/dev/a", container="/dev/b", access="r"),)),
        ("--security-opt seccomp:unconfined", "security", ("seccomp=unconfined",)),
        ("-p 8000", "ports", (Port(container=8000),)),
        ("-p 127.0.0.1::8000", "ports", (Port(container=8000, address="127.0.0.1"),)),
        ("--shm-size \"'100gb'\"", "shm_size", "100gb"),
        ("--tmpfs /run", "tmpfs", {"/run": ""}),
        ("-e A=1 -e A=2", "environment", {"A": "2"}),
    ],
)
def test_values_are_read_as_docker_reads_them(line: str, field: str, value: Any) -> None:
    assert getattr(of(line), field) == value


@pytest.mark.parametrize(
    ("size", "expected"),
    [("100gb", 100 * 2**30), ("512G", 512 * 2**30), ("1.5k", 1536), ("7", 7), ("64 MiB", 64 * 2**20), ("5b", 5)],
)
def test_sizes_are_powers_of_1024(size: str, expected: int) -> None:
    assert size_bytes(size) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--storage-opt size=1", r"docker run option --storage-opt is not one that FlagRelease knows"),
        ("-P", r"docker run option -P is not one"),
        ("--privileged true", r"`true`: stands where an option is expected; docker would take it for the image"),
        ("--privileged=maybe", r"--privileged: is on or off, not `maybe`"),
        ("--shm-size", r"--shm-size: has no value"),
        ("--shm-size=100gigs", r"--shm-size: `100gigs` is not a size"),
        ("--shm-size 1g --shm-size 2g", r"--shm-size: is there twice, as `1g` and as `2g`"),
        ("-e HF_TOKEN", r"--env: `HF_TOKEN` takes its value from whoever runs it"),
        ("-e '=x'", r"--env"),
        ("-v models:/models", r"--volume: `models`"),
        ("-vitd", r"--volume: `itd`"),
        ("-v /a", r"--volume: `/a` is not source:target"),
        ("-v /a:/b:/c:/d", r"--volume"),
        ("--ulimit nofile=2:1", r"--ulimit: nofile: the soft limit 2 is above the hard limit 1"),
        ("--ulimit nofile=many", r"--ulimit: `nofile=many`"),
        ("--gpus none", r"--gpus: `none`: write all"),
        ("--gpus 0", r"--gpus: `0`"),
        ("--gpus device=0,1", r"--gpus: `device=0,1`: write all.*with the quotes"),
        ("--device dri", r"--device: `dri`"),
        ("--device /dev/a:/dev/b:x", r"--device: `x`"),
        ("--security-opt seccomp=/etc/profile.json", r"seccomp=/etc/profile.json: only seccomp=unconfined"),
        ("--network=host -p 80:80", r"--publish cannot be used with --network=host"),
        ("--uts=host --hostname=a", r"--hostname cannot be set with --uts=host"),
        ("--name=-x", r"--name"),
        ("--user '0 --privileged'", r"--user"),
        ("-p 99999:1", r"--publish"),
    ],
)
def test_what_cannot_be_is_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        of(line)


@pytest.mark.parametrize(
    "image", ["", "-v", "--privileged", "UPPER", "a b", "a:$(id)", "a\nb", "registry/../x", "a@sha256:1"]
)
def test_an_image_can_be_no_option_and_no_command(image: str) -> None:
    with pytest.raises(MatrixError, match="is not the name of an image"):
        parse([], image=image)


@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "127.0.0.1:5000/a/b_c:1.0-x",
        "harbor.baai.ac.cn/flagrelease-public/flagrelease_metax_robo2_7",
        "a@sha256:" + "0" * 64,
    ],
)
def test_names_of_images(image: str) -> None:
    assert parse([], image=image).image == image


hostile = st.text(st.characters(codec="utf-8"), max_size=30)


@given(value=hostile, path=hostile, word=hostile)
def test_hostile_values_stay_values(value: str, path: str, word: str) -> None:
    """Whatever the matrix holds: refused, or the printed line is read back as the same container by a shell's rules."""
    try:
        spec = parse(
            ["-e", f"A={value}", "-v", f"/{path}:/{word}", "--label", f"k={value}", f"--hostname={word}"],
            image="busybox",
            command=["sh", "-c", value] if value.isprintable() else [],
            name="box",
        )
    except MatrixError:
        return
    words = shlex.split(
        " ".join(line.removesuffix(" \\") for line in printed(options(spec), "box", spec.image, spec.command))
    )
    assert words == ["docker", "run", *tokens(spec)]
    assert parse(options(spec), image=spec.image, command=spec.command) == spec
