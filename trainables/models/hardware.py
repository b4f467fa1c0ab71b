"""Where a computation runs and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from trainables.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is the current CUDA device where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that convolutions and matrix products of a backbone run in.

    ``auto`` is bfloat16 where the hardware multiplies it natively (CUDA from compute capability 8.0; x86 CPUs
    with AVX512-BF16 or AMX; there it is faster by half or more) and float32 elsewhere, since emulated
    bfloat16 is slower. Weights, gradients, heads and losses are float32 either way.

    Raises:
        ConfigError: a word other than those in `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision for the backbone alone; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
