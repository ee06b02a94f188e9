"""Tell a stage that ran out of memory from one that failed, and say what helps."""

import re

# What torch prints when a card has no room; the kernel's SIGKILL as DVC, a shell and torchrun print it; what
# torch, NumPy and Python print when the machine has no room.
ON_THE_CARD = re.compile(r"OutOfMemoryError|CUDA (error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED")
KILLED = re.compile(r"exited with (-9|137)\b|exitcode\s*:\s*-9\b")
ON_THE_MACHINE = re.compile(
    r"DefaultCPUAllocator: (not enough|can't allocate) memory|^\S*MemoryError\b", re.MULTILINE
)


def is_about_memory(line: str) -> bool:
    """Whether a line of a stage's output says that memory ran out."""
    return any(pattern.search(line) for pattern in (ON_THE_CARD, ON_THE_MACHINE))


def explain_memory(output: str, *, trains: bool) -> str:
    """Return what to change where a failed stage ran out of memory, ending with a blank line; "" where it did not.

    trains: whether the stage is a training, whose settings are others.
    """
    if ON_THE_CARD.search(output):
        advice = _TRAINING if trains else _OTHERS
        return f"out of memory on the GPU: {advice}; `nvidia-smi` names who else uses it\n\n"
    if KILLED.search(output):
        why = "killed by SIGKILL, as the kernel does where this machine's memory runs out (`journalctl -k` tells)"
    elif ON_THE_MACHINE.search(output):
        why = "out of memory on this machine"
    else:
        return ""
    return f"{why}: {_ON_THE_MACHINE}{_CHUNK if trains else ''}\n\n"


_TRAINING = (
    "set in params.yaml, in this order, fit.precision: bf16, fit.gradient_checkpointing: true, fit.chunk: 32 "
    "(GradCache: that many pairs at a time; docs/training.md)"
)
_OTHERS = (
    "set in params.yaml a smaller embed.batch_size or, for augment, a smaller augment.paraphrase.batch_size, or "
    "train the model with a smaller image.size_px"
)
_ON_THE_MACHINE = (
    "set TUWEN_PARALLEL_STAGES=1 (one stage at a time), TUWEN_WORKERS=1 (one process for data work), or a smaller "
    "image.size_px"
)
_CHUNK = "; for a training on the CPU also fit.chunk"
