"""Every call we make of NVIDIA's libraries exists in the real ones, with those arguments.

`edge_sft/engines/nvidia/api.py` is the table, mypy holds our code to it, and here it is held to the Python bindings
of TensorRT 10.3 (JetPack 6.1), 10.13 and 11.4 as NVIDIA publishes them, imported over an empty libnvinfer, and to
the TensorRT-RTX that is installed. The driver's functions are held to NVIDIA's cuda.h.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge_sft.engines.nvidia import api, cuda, running

HERE = Path(__file__).parent
OURS = Path(cuda.__file__).parent
BINDINGS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu12-bindings==10.13.3.9", "tensorrt-cu13-bindings==11.4.0.106")
SYMBOL = re.compile(r"^(create|get|init|nv)\w*(Infer|Nv|Plugin|Parser|LibNv|Logger|Builder|Tensor|Registry)|_INTERNAL$")
# Classes that only TensorRT-RTX has, and what our names for its own versions of the others are
RTX_ONLY = {"IRuntimeCache", "IRuntimeConfig", "ComputeCapability", "CudaGraphStrategy"}


def downloaded(requirement: str) -> Path:
    """Return the unpacked wheel of the bindings, from a folder that later runs find again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edge-sft-tests"
    name, _, version = requirement.partition("==")
    folder = cache / f"{name}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}"
    if not (folder / "tensorrt_bindings").is_dir():
        part = cache / f"{folder.name}.{os.getpid()}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", part]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, requirement], capture_output=True, check=False, timeout=120)
        wheels = list(part.glob("*.whl"))
        if not wheels:
            pytest.skip(f"pip cannot get {requirement}: that our calls fit that TensorRT is not proved")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(part)
        try:
            part.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(part)
    return folder


def stubs(bindings: Path, out: Path) -> None:
    """Make libraries with nothing in them that the bindings can be loaded over."""
    if not all(shutil.which(tool) for tool in ("gcc", "nm", "readelf")) or sys.platform != "linux":
        pytest.skip("no gcc: that our calls fit TensorRT's real bindings is not proved")
    symbols = subprocess.check_output(["nm", "-D", "--undefined-only", bindings], text=True).split()
    wanted = sorted({each for each in symbols if SYMBOL.search(each)})
    source = out / "empty.c"
    source.write_text("".join(f"void *{each}(void) {{ return 0; }}\n" for each in wanted))
    needed = subprocess.check_output(["readelf", "-d", bindings], text=True)
    for library in re.findall(r"NEEDED.*\[(libnv[^\]]+)\]", needed):
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", out / library, source]
        subprocess.run(command, check=True)


@pytest.fixture(scope="module", params=[*BINDINGS, "tensorrt_rtx"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the real module has."""
    environment = dict(os.environ)
    module = request.param
    if module == "tensorrt_rtx":
        pytest.importorskip(module, reason="tensorrt_rtx is not installed: that our calls fit it is not proved")
    else:
        folder, out = downloaded(request.param), tmp_path_factory.mktemp("stubs")
        stubs(folder / "tensorrt_bindings" / "tensorrt.so", out)
        environment |= {"LD_LIBRARY_PATH": str(out), "PYTHONPATH": str(folder)}
        module = "tensorrt_bindings"
    script = HERE.parent / "contracts" / "nvidia" / "dump_api.py"
    command = [sys.executable, "-P", script] if sys.version_info >= (3, 11) else [sys.executable, script]
    told: dict[str, Any] = json.loads(subprocess.check_output([*command, module], env=environment, text=True))
    told["rtx"] = module == "tensorrt_rtx"
    return told


def table(*, rtx: bool) -> list[tuple[str, str, inspect.Signature | None]]:
    """Return (class, member, signature of a method) of all that we use."""
    rows: list[tuple[str, str, inspect.Signature | None]] = []
    for name, item in vars(api).items():
        if not inspect.isclass(item) or item.__module__ != api.__name__ or name == "Library":
            continue
        if name.startswith("Rtx") and not rtx:
            continue
        real = name.removeprefix("Rtx")
        rows += [(real, each, None) for each in vars(item).get("__annotations__", {})]
        methods = {each: made for each, made in vars(item).items() if inspect.isfunction(made)}
        rows += [
            (real, each, inspect.signature(made))
            for each, made in methods.items()
            if not each.startswith("_") and not (rtx and item is api.ICudaEngine and each == "create_execution_context")
        ]
    return rows


def overloads(doc: str, name: str) -> list[list[tuple[str, bool]]]:
    """Read (argument, may be left out) of each overload off a docstring of pybind11, `self` left out."""
    found = []
    for arguments in re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", doc, re.MULTILINE):
        flat = re.sub(r"\[[^\[\]]*\]|<[^<>]*>", "", re.sub(r"\[[^\[\]]*\]", "", arguments))
        parts = [part.strip() for part in flat.split(",") if ":" in part]
        found.append([(part.split(":")[0], "=" in part) for part in parts if not part.startswith("self")])
    return found


def test_every_call_that_we_make_is_there(real: dict[str, Any]) -> None:
    missing, unlike = [], []
    for cls, member, signature in table(rtx=real["rtx"]):
        doc = real["classes"].get(cls, {}).get(member)
        if doc is None:
            missing.append(f"{cls}.{member}")
            continue
        if signature is None:
            continue
        ours = [name for name in signature.parameters if name != "self"]
        fits = [
            [name for name, _ in theirs][: len(ours)] == ours and all(left_out for _, left_out in theirs[len(ours) :])
            for theirs in overloads(doc, member)
        ]
        if not any(fits):
            unlike.append(f"{cls}.{member}({', '.join(ours)}): {doc.splitlines()[0] if doc else 'no signature told'}")
    assert not missing, f"{real['version']} lacks {missing}"
    assert not unlike, f"{real['version']} has them otherwise: {unlike}"


@pytest.mark.parametrize(("cls", "count"), [("Builder", 1), ("OnnxParser", 2), ("Runtime", 1)])
def test_what_we_construct_takes_those_arguments(real: dict[str, Any], cls: str, count: int) -> None:
    found = overloads(real["inits"][cls], "__init__")
    assert any(len([name for name, left_out in each if not left_out]) <= count <= len(each) for each in found), (
        f"{real['version']}: {real['inits'][cls]}"
    )


def test_nothing_gets_around_the_table(real: dict[str, Any]) -> None:
    """No name of NVIDIA's in our source that the table lacks, be the object's type as unknown as it may."""
    rows = table(rtx=True)
    used = {cls for cls, _, _ in rows}
    known = {member for _, member, _ in rows} | set(vars(api)) | RTX_ONLY | set(api.Library.__annotations__)
    theirs = {member for cls in used for member in real["classes"].get(cls, {})} | set(real["classes"])
    ours = set()
    for file in OURS.glob("*.py"):
        if file.name not in ("api.py", "cuda.py"):
            ours |= {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    ordinary = {"name", "dtype", "itemsize", "flags"}  # of numpy and of our own too
    assert (ours & theirs) - known - ordinary == set()


def test_every_type_of_a_tensor_that_we_know_is_theirs(real: dict[str, Any]) -> None:
    assert set(running._DTYPES) <= set(real["classes"]["DataType"])


def test_the_tests_own_reading_of_docstrings() -> None:
    doc = "f(*args)\n1. f(self: A, name: str, shape: tuple[int, int]) -> bool\n\n2. f(self: A, x: int = <B: 0>) -> None"
    assert overloads(doc, "f") == [[("name", False), ("shape", False)], [("x", True)]]


SIZES = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "unsigned long long": ctypes.c_ulonglong,
    "CUdeviceptr": ctypes.c_ulonglong,
    "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
    "cuuint64_t": ctypes.c_ulonglong,
}


def header() -> str:
    """Return NVIDIA's cuda.h, of the wheel or of the toolkit."""
    spec = find_spec("nvidia")
    places = [Path(each) / "cu13" / "include" for each in (spec.submodule_search_locations or [])] if spec else []
    for place in (*places, Path("/usr/local/cuda/include")):
        if (place / "cuda.h").is_file():
            return (place / "cuda.h").read_text(errors="replace")
    pytest.skip("no cuda.h here: that the driver's functions take what we give them is not proved")


def test_the_drivers_functions_take_what_we_give_them() -> None:
    text = re.sub(r"/\*.*?\*/", "", header(), flags=re.DOTALL)
    for name, ours in cuda.FUNCTIONS.items():
        macro = re.search(
            rf"#define (\w+)\s+(?:__CUDA_API_\w+\()?{name}\b", text
        )  # the header's name of the newest form
        plain = macro[1] if macro else name
        match = re.search(rf"CUresult CUDAAPI {plain}\(([^)]*)\);", text)
        assert match, name
        theirs = [" ".join(part.split()) for part in match[1].split(",")]
        assert len(theirs) == len(ours), name
        for given, wanted in zip(ours, theirs, strict=True):
            kind = wanted.rpartition(" ")[0].replace("const ", "") if "*" not in wanted else "*"
            size = ctypes.sizeof(SIZES[kind]) if kind in SIZES else ctypes.sizeof(ctypes.c_void_p)  # handles: pointers
            assert ctypes.sizeof(given) == size, f"{name}: {wanted}"


def test_the_drivers_numbers_are_nvidias() -> None:
    text = header()
    for name, ours in {
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cuda._CAPABILITY_MAJOR,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cuda._CAPABILITY_MINOR,
        "CU_STREAM_NON_BLOCKING": cuda._NON_BLOCKING,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": cuda._THREAD_LOCAL,
    }.items():
        match = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", text)
        assert match, name
        assert int(match[1], 0) == ours, name
