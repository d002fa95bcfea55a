"""The devices of a run: one CPU, one GPU or many, as `accelerate` finds them.

Each process reads its share of each batch, and the gradients are summed. A run of many processes
therefore takes the same steps as a run of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import parse_flag_from_env
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.errors import InputError
from mpt_edge.training.settings import MixedPrecision


def is_main_process() -> bool:
    """Return whether this process reports and writes files."""
    return bool(PartialState(cpu=_is_on_cpu()).is_main_process)


def _is_on_cpu() -> bool:
    # Without being told so, accelerate does not join CPU processes into one run.
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


class Hardware:
    """The device of this process, and its place among the others."""

    device: torch.device
    """Device of the backbone and the prompts."""
    main: bool
    """Whether this process writes checkpoint and log."""

    def __init__(self, precision: MixedPrecision | None = None) -> None:
        """Find the device.

        Args:
            precision: mixed precision; None for the setting of `accelerate launch`.

        Raises:
            InputError: the hardware does not support this precision.
        """
        try:
            self._accelerator = Accelerator(cpu=_is_on_cpu(), mixed_precision=precision)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"the precision '{precision}' cannot be had ({str(error).splitlines()[0]}); fp16 needs a GPU, and one "
                "process computes in one precision: pass --precision no or bf16."
            ) from error
        if self._accelerator.mixed_precision == MixedPrecision.FP16 and self._accelerator.device.type == "cpu":
            raise InputError("fp16 needs a GPU; pass --precision no or bf16.")
        self.device = self._accelerator.device
        self.main = bool(self._accelerator.is_main_process)

    def optimizer(self, groups: list[dict[str, object]]) -> Any:
        """Return AdamW without weight decay; in float16 it unscales gradients and skips steps that overflow."""
        return self._accelerator.prepare_optimizer(torch.optim.AdamW(groups, weight_decay=0.0))

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that computes in mixed precision."""
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, scaled in float16."""
        self._accelerator.backward(loss)

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's rows of a batch, possibly none."""
        return rows[self._accelerator.process_index :: self._accelerator.num_processes]

    @torch.no_grad()
    def sum_gradients(self, optimizer: Any) -> None:
        """Sum each gradient over the processes; a parameter without any gradient keeps none."""
        if self._accelerator.num_processes == 1:
            return
        parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        has_gradient = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        summed = self._accelerator.reduce(torch.cat([has_gradient, *flat]), "sum")
        sizes = [len(parameters), *(p.numel() for p in parameters)]
        counts, *parts = torch.split(summed, sizes)
        for parameter, count, part in zip(parameters, counts, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone() if count else None

    def state(self) -> dict[str, Any]:
        """Return the state for checkpoints: the gradient scaler's in float16, otherwise nothing."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a result of `state`."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)

    def mine(self, index: int) -> bool:
        """Return whether this process does the work item of this number; items are dealt out in turn."""
        return bool(index % self._accelerator.num_processes == self._accelerator.process_index)

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the processes."""
        if self._accelerator.num_processes == 1:
            return list(values)
        # Not every accelerator has float64; scores are rounded to four digits anyway.
        sums: list[float] = self._accelerator.reduce(torch.tensor(values, device=self.device), "sum").tolist()
        return sums

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()
