"""Our declarations of DLPack's structs against the official header, which torch ships."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
CSRC = Path(__file__).parents[2] / "csrc"
MEMBERS = {
    "Version DLPackVersion": "major minor",
    "Device DLDevice": "type=device_type id=device_id",
    "DataType DLDataType": "code bits lanes",
    "Tensor DLTensor": "data device ndim dtype shape strides byte_offset",
    "ManagedTensor DLManagedTensorVersioned": "version manager=manager_ctx deleter flags tensor=dl_tensor",
    "ExchangeApi DLPackExchangeAPI": "header allocate=managed_tensor_allocator managed_from_object=managed_tensor_from_py_object_no_sync "
    "object_from_managed=managed_tensor_to_py_object_no_sync tensor_from_object=dltensor_from_py_object_no_sync "
    "current_stream=current_work_stream",
    "ExchangeApi::Header DLPackExchangeAPIHeader": "version previous=prev_api",
}
CODES = {"code_int": "kDLInt", "code_uint": "kDLUInt", "code_float": "kDLFloat", "code_bfloat": "kDLBfloat", "code_bool": "kDLBool"}
DEVICES = {"cpu": "kDLCPU", "cuda": "kDLCUDA", "cuda_host": "kDLCUDAHost"}


def test_the_structs_are_those_of_the_official_header(tmp_path):
    lines = ["#include <cstddef>", "#include <ATen/dlpack.h>", '#include "bindings/dlpack.hpp"', "namespace ours = pyrl::dlpack;"]
    for types, members in MEMBERS.items():
        our, official = types.split()
        lines.append(f"static_assert(sizeof(ours::{our}) == sizeof({official}));")
        for member in members.split():
            here, _, there = member.partition("=")
            lines.append(f"static_assert(offsetof(ours::{our}, {here}) == offsetof({official}, {there or here}));")
    lines += [f"static_assert(ours::{our} == {official});" for our, official in (CODES | DEVICES).items()]
    source = tmp_path / "same.cpp"
    source.write_text("\n".join(lines))
    include = Path(torch.__file__).parent / "include"
    command = [COMPILER, "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{CSRC}", "-isystem", str(include), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
