r"""Compiles a C++ program here against the libraries of the installed torch.

    python examples/cpp/build.py run_model

writes ``./run_model``. With CMake, ``find_package(Torch)`` does the same.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths


def build(name: str, target: Path) -> None:
    """Compiles ``name.cpp`` beside this file to ``target``.

    Raises:
        FileNotFoundError: If there is no compiler.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise FileNotFoundError("no C++ compiler: install g++, or name yours in the variable CXX")
    libraries = ["torch", "torch_cpu", "c10"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        libraries += ["torch_cuda", "c10_cuda"]
    command = [compiler, "-std=c++20", "-O1", str(Path(__file__).with_name(f"{name}.cpp"))]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-I{path}" for path in include_paths(device)]
    for path in library_paths(device):
        command += [f"-L{path}", f"-Wl,-rpath,{path}"]
    command += ["-Wl,--no-as-needed", *[f"-l{library}" for library in libraries]]
    subprocess.run([*command, "-o", str(target)], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/cpp/build.py NAME")
    build(sys.argv[1], Path(sys.argv[1]))
