"""Checks of NVIDIA's software, on what real machines said."""

from __future__ import annotations

import pytest

from edge_sft.machine.checks import jetpack as jetpacks
from edge_sft.machine.checks import nvidia, tensorrt
from edge_sft.machine.facts import Gpu, Library
from edge_sft.machine.finding import Finding
from edge_sft.machine.jetson import RELEASES

L4 = Gpu("NVIDIA L4", "8.9", 23034, "580.65.06")
OLD = Gpu("NVIDIA L4", "8.9", 23034, "550.54.14")
ORIN = Gpu("Orin (nvgpu)", "8.7", None, "540.4.0")
JP6, JP7 = RELEASES["36.4.3"], RELEASES["39.2"]
DEB6 = """libnvinfer-bin 10.3.0.30-1+cuda12.5
libnvinfer-dispatch10 10.3.0.30-1+cuda12.5
libnvinfer10 10.3.0.30-1+cuda12.5
"""
DEB7 = "libnvinfer10 10.16.2.10-1+cuda13.2\n"
LDCONFIG = """1210 libs found in cache `/etc/ld.so.cache'
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibcublas.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcublas.so.12
\tlibcudnn.so.9 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcudnn.so.9
"""


@pytest.mark.parametrize(
    ("release", "health", "word"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081", "good", "6.2 (Jetson Linux 36.4.3)"),
        ("# R38 (release), REVISION: 2.1, GCID: 42061081", "good", "TensorRT 10.13"),
        ("# R36 (release), REVISION: 3.0, GCID: 36106755", "bad", "TensorRT 10.3 is needed"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178", "bad", "5.1"),
        ("# R40 (release), REVISION: 1.0", "note", "does not list"),
    ],
)
def test_jetpack(release: str, health: str, word: str) -> None:
    finding = jetpacks.release(release)
    assert finding is not None
    assert finding.health == health
    assert word in finding.fact


def test_no_jetson_no_gpu_no_word() -> None:
    assert jetpacks.release("") is None
    assert nvidia.driver((), "") is None
    assert nvidia.cuda({"onnxruntime": "1.32.0"}, "", (), None, ()) is None
    assert nvidia.rtx({}, (), None) is None
    assert tensorrt.tensorrt(None, "", {}, None, (), (3, 11)) is None


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("nvidia-smi: Failed to initialize NVML: Driver/library version mismatch", "restart"),
        ("nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "kernel update"),
        ("nvidia-smi: did not answer within 10 s", "hangs"),
        ("DeviceError: cannot be reached: libcuda.so.1 is not here", "--runtime nvidia"),
        ("something never seen", "nvidia-smi"),
    ],
)
def test_a_gpu_that_does_not_answer(problem: str, remedy: str) -> None:
    finding = nvidia.driver((), problem)
    assert finding is not None
    assert finding.health == "bad"
    assert remedy in finding.remedy


def test_a_gpu_that_answers() -> None:
    finding = nvidia.driver((L4, ORIN), "")
    assert finding is not None
    assert "22 GB" in finding.fact
    assert "shared with the processor" in finding.fact


@pytest.mark.parametrize(
    ("version", "info", "needs"),
    [
        ("1.20.1", "", (12, 9)),
        ("1.26.0", "", (12, 9)),
        ("1.31.1", "", (13, 9)),
        ("1.31.1", "package_name = 'onnxruntime-gpu'\n__version__ = '1.31.1'\ncuda_version = '12.8'\n", (12, 9)),
        ("1.17.0", "", None),
        ("?", "", None),
    ],
)
def test_what_onnx_runtime_needs(version: str, info: str, needs: tuple[int, int] | None) -> None:
    assert nvidia.cuda_of_onnx_runtime(version, info) == needs


CUDA12 = nvidia.sonames(LDCONFIG)
NO_CUDNN = Library(problem="libcudnn.so.9: cannot open shared object file: No such file or directory")


@pytest.mark.parametrize(
    ("version", "gpus", "loads", "sonames", "health", "word"),
    [
        ("1.26.0", (L4,), Library("1.26.0"), CUDA12, "good", "both load"),
        ("1.26.0", (L4,), None, CUDA12, "good", "CUDA 12 and cuDNN 9"),
        ("1.31.1", (OLD,), None, CUDA12, "bad", "550.54.14 is older than CUDA 13"),
        ("1.31.1", (ORIN,), None, CUDA12, "bad", "540.4.0 is older"),
        ("1.31.1", (L4,), NO_CUDNN, CUDA12, "bad", "libcudart.so.13, libcublas.so.13 cannot be found"),
        ("1.26.0", (L4,), NO_CUDNN, CUDA12 - {"libcudnn.so.9"}, "bad", "libcudnn.so.9 cannot be found"),
        ("1.26.0", (L4,), NO_CUDNN, CUDA12, "bad", "does not load"),
        ("1.31.1", (), None, (), "note", "no NVIDIA GPU answers"),
        ("1.10.0", (L4,), None, (), "note", "too old to know"),
    ],
)
def test_cuda(
    version: str, gpus: tuple[Gpu, ...], loads: Library | None, sonames: set[str], health: str, word: str
) -> None:
    finding = nvidia.cuda({"onnxruntime-gpu": version}, "", gpus, loads, sonames)
    assert finding is not None
    assert finding.health == health
    assert word in finding.fact
    assert finding.remedy or health == "good"


def test_packages_of_the_system() -> None:
    assert tensorrt.packages(DEB6) == ("10.3.0.30", "12.5")
    assert tensorrt.packages("libnvinfer10 11.4.1.5-1+cuda13.2\n") == ("11.4.1.5", "13.2")
    assert tensorrt.packages("dpkg-query: no packages found matching libnvinfer*") == ("", "")


NOT_SEEN = Library(problem="No module named 'tensorrt'")


@pytest.mark.parametrize(
    ("pack", "dpkg", "wheels", "loads", "python", "health", "word"),
    [
        (JP6, DEB6, {"tensorrt": "10.3.0"}, Library("10.3.0"), (3, 10), "good", "as JetPack 6.2 has it"),
        (JP7, DEB7, {}, Library("10.16.2.10"), (3, 12), "good", "as JetPack 7.2 has it"),
        (JP7, "libnvinfer10 11.4.1.5-1+cuda13.2\n", {}, Library("11.4.1"), (3, 12), "note", "came with 10.16"),
        (JP6, DEB6, {}, NOT_SEEN, (3, 10), "bad", "not for this Python"),
        (JP6, DEB6, {}, NOT_SEEN, (3, 11), "bad", "made for Python 3.10, this is 3.11"),
        (JP6, DEB7, {}, NOT_SEEN, (3, 10), "bad", "JetPack 6.2 has CUDA 12.6"),
        (JP6, DEB6, {"tensorrt-cu12": "10.13", "tensorrt-cu12-libs": "10.13"}, None, (3, 10), "bad", "came by pip"),
        (JP6, "", {}, NOT_SEEN, (3, 10), "bad", "is not installed; JetPack 6.2 has 10.3"),
        (JP6, "", {}, Library("10.3.0"), (3, 10), "good", "loads"),
        (RELEASES["36.3"], "libnvinfer8 8.6.2.3-1+cuda12.2\n", {}, None, (3, 10), "bad", "too old"),
    ],
)
def test_tensorrt_on_a_jetson(
    pack: object,
    dpkg: str,
    wheels: dict[str, str],
    loads: Library | None,
    python: tuple[int, int],
    health: str,
    word: str,
) -> None:
    finding = tensorrt.tensorrt(loads, dpkg, wheels, pack, (ORIN,), python)  # type: ignore[arg-type]
    assert finding is not None
    assert finding.health == health
    assert word in finding.fact
    assert finding.remedy or health == "good"


@pytest.mark.parametrize(
    ("dpkg", "wheels", "loads", "gpus", "health", "word"),
    [
        ("", {"tensorrt-cu13": "11.4.0"}, Library("11.4.0"), (L4,), "good", "11.4.0 loads"),
        ("", {"tensorrt-cu13": "11.4.0"}, Library("11.4.0"), (OLD,), "bad", "550.54.14 is older"),
        ("", {"tensorrt-cu12": "8.6.1"}, Library("8.6.1"), (OLD,), "bad", "too old"),
        ("", {"tensorrt-cu12": "10.13"}, Library(problem="libnvinfer.so.10: no"), (L4,), "bad", "does not load"),
        (DEB6, {}, None, (), "note", "no NVIDIA GPU"),
    ],
)
def test_tensorrt_on_a_pc(
    dpkg: str, wheels: dict[str, str], loads: Library | None, gpus: tuple[Gpu, ...], health: str, word: str
) -> None:
    finding = tensorrt.tensorrt(loads, dpkg, wheels, None, gpus, (3, 12))
    assert finding is not None
    assert finding.health == health
    assert word in finding.fact


def test_tensorrt_rtx() -> None:
    wheels = {"tensorrt-rtx-cu13": "1.7.1", "tensorrt-rtx-cu13-libs": "1.7.1"}

    def of(gpus: tuple[Gpu, ...], loads: Library | None = None) -> Finding:
        finding = nvidia.rtx(wheels, gpus, loads)
        assert finding is not None
        return finding

    assert of((L4,), Library("1.7.1")) == Finding("good", "TensorRT-RTX", "tensorrt-rtx-cu13 1.7.1")
    assert "builds engines and runs none" in of(()).fact
    assert of((OLD,)).health == "bad"
    assert "does not load" in of((L4,), Library(problem="libtensorrt_rtx.so: no")).fact
