"""What the chips' management tools print, in the form that their documents show, and what is read out of it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from flagrelease.chip import SmiQuery
from flagrelease.errors import MatrixError, PreflightError
from flagrelease.loading import load_chips
from runtime.smi import DeviceMemory, SmiReport, check_free, parse, report, used_devices, wait_free

CHIPS = load_chips()

ANSWERS = {
    "nvidia": """\
        570.158.01, 81028, 81559
        570.158.01, 12, 81559
        """,
    "metax": """\
        mx-smi  version: 2.2.9

        =================== MetaX System Management Interface Log ===================
        Timestamp                                         : Fri Nov 20 09:00:00 2026

        Attached GPUs                                     : 2
        +---------------------------------------------------------------------------------+
        | MX-SMI 2.2.9                        Kernel Mode Driver Version: 3.3.12          |
        | MACA Version: 3.3.0.15              BIOS Version: 1.30.0.0                      |
        |------------------------------------+---------------------+----------------------+
        | GPU         NAME                   | Bus-id              | GPU-Util             |
        | Temp        Pwr:Usage/Cap          | Memory-Usage        | GPU-State            |
        |====================================+=====================+======================|
        | 0           MetaX C550             | 0000:0f:00.0        | 0%                   |
        | 29C         53W / 450W             | 858/65536 MiB       | Available            |
        +------------------------------------+---------------------+----------------------+
        | 1           MetaX C550             | 0000:34:00.0        | 97%                  |
        | 61C         402W / 450W            | 60103/65536 MiB     | Available            |
        +------------------------------------+---------------------+----------------------+
        """,
    "ascend": """\
        +------------------------------------------------------------------------------------------------+
        | npu-smi 25.2.0                   Version: 25.2.0                                               |
        +---------------------------+---------------+----------------------------------------------------+
        | NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
        | Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
        +===========================+===============+====================================================+
        | 0     910B4               | OK            | 91.3        33                0    / 0             |
        | 0                         | 0000:C1:00.0  | 0           0    / 0          3197 / 65536         |
        +===========================+===============+====================================================+
        | 1     910B4               | OK            | 88.1        32                0    / 0             |
        | 0                         | 0000:01:00.0  | 0           0    / 0          59351/ 65536         |
        +===========================+===============+====================================================+
        | NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
        +===========================+===============+====================================================+
        | 1       0                 | 1712733       | python                   | 56200                   |
        """,
    "hygon": """\
        ============================ System Management Interface =============================
        Driver Version: 6.3.13-V1.12.0a
        ======================================================================================
        HCU[0]          : vram Total Memory (MiB): 65520
        HCU[0]          : vram Total Used Memory (MiB): 2
        HCU[1]          : vram Total Memory (MiB): 65520
        HCU[1]          : vram Total Used Memory (MiB): 51920
        ================================= End of SMI Log =====================================
        """,
    "cambricon": """\
        +------------------------------------------------------------------------------+
        | CNMON v5.10.31                                               Driver v5.10.31 |
        +-------------------------------+----------------------+-----------------------+
        | Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
        | Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | Mode     Compute-Mode |
        |===============================+======================+=======================|
        | 0     /   MLU370-X8    v1.1.6 |         0000:13:00.0 | 0%                  0 |
        |  0%   28C        107 W/ 250 W |     0 MiB/ 20638 MiB | FULL          Default |
        +-------------------------------+----------------------+-----------------------+
        | 1     /   MLU370-X8    v1.1.6 |         0000:16:00.0 | 0%                  0 |
        |  0%   32C        107 W/ 250 W | 20000 MiB/ 20638 MiB | FULL          Default |
        +-------------------------------+----------------------+-----------------------+
        """,
    "mthreads": """\
        Fri Nov 20 09:00:00 2026
        ---------------------------------------------------------------------
            mthreads-gmi:2.3.2           Driver Version:3.3.5-server
        ---------------------------------------------------------------------
        ID   Name                 |PCIe                |%GPU  Mem
             Device Type   Perf   |Pcie Lane Width     |Temp  MPC Capable
                                                       |      ECC Mode
        +-------------------------------------------------------------------+
        0    MTT S5000            |00000000:2a:00.0    |0%    66641MiB(81920MiB)
             Physical      P0     |16x(16x)            |52C   YES
                                                       |      On-die, EDC
        +-------------------------------------------------------------------+
        1    MTT S5000            |00000000:4c:00.0    |0%    10MiB(81920MiB)
             Physical      P0     |16x(16x)            |52C   YES
        """,
    "kunlunxin": """\
        +-----------------------------------------------------------------------------+
        | XPU-SMI               Driver Version: 5.0.21.26    XPU-RT Version: 5.0.21   |
        |-------------------------------+----------------------+----------------------+
        | XPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
        | Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | XPU-Util  Compute M. |
        |                               |             L3-Usage |            SR-IOV M. |
        |===============================+======================+======================|
        |   0  P800 OAM           N/A   | 00000000:52:00.0 N/A |                    0 |
        | N/A   38C  N/A     85W / 400W |      0MiB / 98304MiB |      0%      Default |
        |                               |      0MiB /    96MiB |             Disabled |
        +-------------------------------+----------------------+----------------------+
        |   1  P800 OAM           N/A   | 00000000:55:00.0 N/A |                    0 |
        | N/A   40C  N/A     84W / 400W |  90000MiB / 98304MiB |      0%      Default |
        |                               |      0MiB /    96MiB |             Disabled |
        +-------------------------------+----------------------+----------------------+
        """,
    "iluvatar": """\
        +-----------------------------------------------------------------------------+
        |  IX-ML: 4.4.0       Driver Version: 4.4.0       CUDA Version: 10.2          |
        |-------------------------------+----------------------+----------------------|
        | GPU  Name                     | Bus-Id               | Clock-SM  Clock-Mem  |
        | Fan  Temp  Perf  Pwr:Usage/Cap|      Memory-Usage    | GPU-Util  Compute M. |
        |===============================+======================+======================|
        | 0    Iluvatar BI-V150         | 00000000:8A:00.0     | 500MHz    1600MHz    |
        | 0%   33C   P0    N/A / N/A    | 114MiB / 32768MiB    | 0%        Default    |
        +-------------------------------+----------------------+----------------------+
        | 1    Iluvatar BI-V150         | 00000000:8D:00.0     | 500MHz    1600MHz    |
        | 0%   33C   P0    55W / 250W   | 31000MiB / 32768MiB  | 0%        Default    |
        +-------------------------------+----------------------+----------------------+
        """,
    "zhenwu": """\
        +---------------------------------------------------------------------------------+
        | PPU-SMI 1.28          Driver Version: 2.1.0-dbda51  HGGC Version: 13.0          |
        +---------------------------------+------------------------+----------------------+
        | PPU  Name        Persistence M. | Bus-Id                 | Volatile Uncorr. ECC |
        | Fan  Temp  Perf   Pwr:Usage/Cap | Memory-Usage           | PPU-Util  Compute M. |
        +=================================+========================+======================+
        | 0  PPU-ZW810E        N/A        | 00000000:08:00.0       |                    0 |
        | N/A  24C   N/A       74W / 400W | 49MiB / 98304MiB       |   4%        Default  |
        +---------------------------------+------------------------+----------------------+
        | 1  PPU-ZW810E        N/A        | 00000000:7E:00.0       |                    0 |
        | N/A  24C   N/A       74W / 400W | 91580MiB / 98304MiB    |   4%        Default  |
        +---------------------------------+------------------------+----------------------+
        """,
    "sunrise": """\
        |   0  SR-SUN-S2-X1-PCIE   N/A  | 00000000:8D:00.0     N/A |                    0 |
        | N/A   34C    P7    89W / 400W |            0B / 62847MiB |       0%         N/A |
        |   1  SR-SUN-S2-X1-PCIE   N/A  | 00000000:8E:00.0     N/A |                    0 |
        | N/A   34C    P7    89W / 400W |         32GiB / 62847MiB |       0%         N/A |
        """,
    "enflame": """\
        -------------------------------------------------------------------------------
        --------------------- Enflame System Management Interface ---------------------
        -------------------------------------------------------------------------------
        DEV ID 0
            Driver Info
                Ver                     : 1.4.3.4
            Device Info
                Dev Name                : S60
            Device Mem Info
                Total Size              : 42976 MiB
                Reserved Size           : 1129 MiB
                Used Size               : 0 MiB
                Free Size               : 41846 MiB
            Temperature Info
                GCU Temp                : 35 C
        DEV ID 1
            Driver Info
                Ver                     : 1.4.3.4
            Device Mem Info
                Total Size              : 42976 MiB
                Reserved Size           : 1129 MiB
                Used Size               : 40000 MiB
                Free Size               : 1846 MiB
        """,
    "tsingmicro": """\
        | 0    TX8110                  | 0  0000:08:00.0   41.0C   35.0W / 150.0W      12M / 65536M    0.0% |
        |                              | 1  0000:09:00.0   42.0C   36.5W / 150.0W   60000M / 65536M   97.5% |
        """,
}

EXPECTED = {
    "nvidia": ("570.158.01", [(81028, 81559), (12, 81559)]),
    "metax": ("3.3.12", [(64678, 65536), (5433, 65536)]),
    "ascend": ("25.2.0", [(62339, 65536), (6185, 65536)]),
    "hygon": ("6.3.13-V1.12.0a", [(65518, 65520), (13600, 65520)]),
    "cambricon": ("5.10.31", [(20638, 20638), (638, 20638)]),
    "mthreads": ("3.3.5-server", [(15279, 81920), (81910, 81920)]),
    "kunlunxin": ("5.0.21.26", [(98304, 98304), (8304, 98304)]),
    "iluvatar": ("4.4.0", [(32654, 32768), (1768, 32768)]),
    "zhenwu": ("2.1.0-dbda51", [(98255, 98304), (6724, 98304)]),
    "sunrise": (None, [(62847, 62847), (30079, 62847)]),
    "enflame": ("1.4.3.4", [(41846, 42976), (1846, 42976)]),
    "tsingmicro": (None, [(65524, 65536), (5536, 65536)]),
}


def answer(chip: str) -> str:
    return textwrap.dedent(ANSWERS[chip])


@pytest.mark.parametrize("chip", [key for key, chip in CHIPS.items() if chip.smi])
def test_the_answer_of_each_tool_is_understood(chip: str) -> None:
    query = CHIPS[chip].smi_query
    assert query is not None
    driver, devices = EXPECTED[chip]
    assert parse(query, answer(chip)) == SmiReport(driver, tuple(DeviceMemory(*each) for each in devices))


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"device": "(?P<used>1"}, "is not a regular expression"),
        ({"device": "(?P<used>1)"}, r"lacks the group \(\?P<total>"),
        ({"device": "(?P<used>1)(?P<total>1)", "driver": "x"}, r"lacks the group \(\?P<version>"),
    ],
)
def test_a_query_that_cannot_tell_is_refused(query: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SmiQuery(**query)  # type: ignore[arg-type]


# --- a stand-in for the tool, on PATH


@pytest.fixture
def stand_in_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for mx-smi that prints what lies in the file beside it."""
    tool = tmp_path / "mx-smi"
    tool.write_text('#!/bin/sh\nfolder=$(dirname "$0")\ncat "$folder/answer"\nexit "$(cat "$folder/code")"\n')
    tool.chmod(0o755)
    (tmp_path / "answer").write_text(answer("metax"))
    (tmp_path / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


METAX = CHIPS["metax"]


@pytest.mark.usefixtures("stand_in_smi")
def test_the_tool_is_asked() -> None:
    found = report(METAX)
    assert found is not None
    assert found.driver == "3.3.12"
    assert len(found.devices) == 2


def test_a_chip_without_a_tool_tells_nothing() -> None:
    assert report(CHIPS["cpu"]) is None


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PreflightError, match="mx-smi, the management tool of Metax, is not on PATH"):
        report(METAX)


@pytest.mark.parametrize(("said", "code"), [("cannot open /dev/mxcd", "3"), ("Attached GPUs : 0", "0")])
def test_a_tool_that_names_no_device_is_quoted(stand_in_smi: Path, said: str, code: str) -> None:
    (stand_in_smi / "answer").write_text(said)
    (stand_in_smi / "code").write_text(code)
    with pytest.raises(PreflightError, match=f"`mx-smi` names no device.*{said}"):
        report(METAX)


@pytest.mark.usefixtures("stand_in_smi")
def test_a_device_in_use_is_named() -> None:
    with pytest.raises(PreflightError, match=r"less than 90% .* Metax is free: device 1: 5.3 of 64.0 GiB"):
        check_free(METAX, 0.9)
    assert check_free(METAX, 0.9, only={0})
    assert check_free(METAX, 0.05)


def test_a_container_may_be_left_some_devices_only() -> None:
    assert used_devices(METAX, {"CUDA_VISIBLE_DEVICES": "0,3"}) == {0, 3}
    assert used_devices(METAX, {"CUDA_VISIBLE_DEVICES": "GPU-1"}) is None
    assert used_devices(METAX, {}) is None
    assert used_devices(CHIPS["cpu"], {}) is None


def test_memory_that_is_not_given_back_is_named(stand_in_smi: Path) -> None:
    before = report(METAX)
    assert before is not None
    assert wait_free(METAX, before, slack_mib=1, timeout_s=0) == []
    (stand_in_smi / "answer").write_text(answer("metax").replace(" 858/65536", " 30858/65536"))
    assert wait_free(METAX, before, slack_mib=1, timeout_s=0) == ["device 0: 29.3 GiB"]


def test_a_query_in_a_chip_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("key: new\nvendor: N\ndisplay: N\nsmi: n\nsmi_query: {device: '(?P<total>1)'}\n")
    with pytest.raises(MatrixError, match="lacks the group"):
        load_chips(tmp_path)
