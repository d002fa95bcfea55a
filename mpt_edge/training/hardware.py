"""Where a run computes: one CPU, one GPU, or a share of many, as `accelerate` finds them.

Every process reads its share of each batch and the gradients are summed, so a run over many
processes takes the same steps as a run of one.
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


def _on_cpu() -> bool:
    # Without being told so, accelerate does not join CPU processes into one run.
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def is_main_process() -> bool:
    """Return whether this process is the one that reports and writes."""
    return bool(PartialState(cpu=_on_cpu()).is_main_process)


class Hardware:
    """The device of this process, and its place among the others.

    Attributes:
        device: where the backbone and the prompts lie.
        main: whether this process writes checkpoint and log.
    """

    def __init__(self, precision: str = "") -> None:
        """Find out what there is.

        Args:
            precision: ``"no"``, ``"bf16"`` or ``"fp16"``; empty for what `accelerate launch` was told.

        Raises:
            InputError: the hardware does not compute in that precision.
        """
        try:
            self._accelerator = Accelerator(cpu=_on_cpu(), mixed_precision=precision or None)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"the precision {precision!r} cannot be had ({str(error).splitlines()[0]}); fp16 needs a GPU, and one "
                "process computes in one precision: pass --precision no or bf16."
            ) from error
        if self._accelerator.mixed_precision == "fp16" and self._accelerator.device.type == "cpu":
            raise InputError("fp16 needs a GPU; pass --precision no or bf16.")
        self.device: torch.device = self._accelerator.device
        self.main = bool(self._accelerator.is_main_process)

    def optimizer(self, groups: list[dict[str, object]]) -> Any:
        """Return AdamW without weight decay; with float16 it unscales and skips steps that overflow."""
        return self._accelerator.prepare_optimizer(torch.optim.AdamW(groups, weight_decay=0.0))

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in the lower precision within."""
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients; with float16 they are scaled."""
        self._accelerator.backward(loss)

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's rows of a batch; possibly none."""
        return rows[self._accelerator.process_index :: self._accelerator.num_processes]

    @torch.no_grad()
    def sum_gradients(self, optimizer: Any) -> None:
        """Sum every gradient over the processes; what no process has a gradient of keeps none."""
        if self._accelerator.num_processes == 1:
            return
        parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        summed = self._accelerator.reduce(torch.cat([there, *flat]), "sum")
        sizes = [len(parameters), *(p.numel() for p in parameters)]
        there, *parts = torch.split(summed, sizes)
        for parameter, seen, part in zip(parameters, there, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone() if seen else None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the scale of float16's gradients, if there is one."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)

    def mine(self, index: int) -> bool:
        """Return whether this process does the work with this number, of work that is dealt out in turn."""
        return bool(index % self._accelerator.num_processes == self._accelerator.process_index)

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the processes."""
        if self._accelerator.num_processes == 1:
            return list(values)
        # float32, because not every accelerator has float64; scores are rounded to four places anyway.
        found: list[float] = self._accelerator.reduce(torch.tensor(values, device=self.device), "sum").tolist()
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()
