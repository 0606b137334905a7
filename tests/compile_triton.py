"""Compile the Triton kernels as a launch would, without a GPU, and print as JSON what the compiler made of them.

A process of its own: where triton interprets (TRITON_INTERPRET=1) it cannot compile. Usage, with JSON rows of
[arch, classes, dtype, activation, options]: python tests/compile_triton.py '[[90, 19, "float32", "softmax", {}]]'
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from segfocal.kernels import triton as module

WIDE = r"\S*\.(?:v4\.b32|v8\.b32|v2\.b64|v4\.b64)"  # at least 128 bits
COUNTED = {"loads": r"ld\.global", "wide_loads": rf"ld\.global{WIDE}", "stores": r"st\.global"}
COUNTED |= {"wide_stores": rf"st\.global{WIDE}", "barriers": r"bar\.sync", "shuffles": r"shfl"}


class Launches:
    """Takes the place of a kernel and keeps the arguments of its launches."""

    def __init__(self, kernel):
        self.kernel, self.args, self.options = kernel, (), {}

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.args, self.options = args, options

        return launch


def recorded(kernel_name, function, *args):
    """The arguments that `function` launches a kernel with; its tensors have no storage."""
    launches = Launches(getattr(module, kernel_name))
    setattr(module, kernel_name, launches)
    function(*args)
    setattr(module, kernel_name, launches.kernel)
    return launches


def compiled(launches, arch):
    """What triton's launcher makes of these arguments: their types, the constants and what divides by 16."""
    target = GPUTarget("cuda", arch, 32)
    kernel, backend = launches.kernel, make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, options = bind(*launches.args, **launches.options)
    _, *specialised = kernel._pack_args(backend, launches.options, bound, specialisation, options)
    options = {"num_warps": launches.options["num_warps"]}
    return triton.compile(ASTSource(kernel, *specialised), target=target, options=options), options


def resources(program, arch):
    """Registers and spilled bytes, by the assembler's own account."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(program.asm["ptx"])
        file.flush()
        target = re.search(r"\.target (sm_\w+)", program.asm["ptx"])[1]
        command = [get_ptxas(arch).path, "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"(\d+) bytes spill stores.*?Used (\d+) registers", report, re.S)
    return {"spills": int(found[1]), "registers": int(found[2])}


def describe(arch, classes, dtype, activation, options):
    size = options.get("size", (2, 512, 512))
    logits = torch.empty(size[0], classes, *size[1:], dtype=getattr(torch, dtype), device="meta")
    if options.get("channels_last"):
        logits = logits.to(memory_format=torch.channels_last)
    target = torch.empty(size, dtype=torch.uint8, device="meta")
    if options.get("dense"):
        target = torch.empty(logits.shape, device="meta")
    softmax, smoothing, squared = activation == "softmax", options.get("smoothing", 0.0), options.get("squared", False)
    constants = (logits, target, None, 2.0, None, softmax, 255, smoothing)
    grads = torch.empty(8 if squared else 6, size[0], classes, device="meta")
    row = {"arch": arch, "classes": classes, "dtype": dtype, "activation": activation, "options": options}
    for kernel, function, args in [
        ("_sums_kernel", module._sums._init_fn, (*constants, squared)),
        ("_gradient_kernel", module._gradient._init_fn, (grads, *constants)),
    ]:
        launches = recorded(kernel, function, *args)
        program, built = compiled(launches, arch)
        ptx = program.asm["ptx"]
        counts = {name: len(re.findall(pattern, ptx)) for name, pattern in COUNTED.items()}
        yield row | built | resources(program, arch) | counts | {"kernel": kernel, "shared": program.metadata.shared}


if __name__ == "__main__":
    print(json.dumps([row for case in json.loads(sys.argv[1]) for row in describe(*case)]))
