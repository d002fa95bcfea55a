"""What is added to attention scores so that some keys are not seen."""

from __future__ import annotations

import torch
from torch import Tensor

#: Large and negative, and finite in float16, so that fully masked rows stay free of NaN.
MASKED = -3e4


def visibility_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where ``visible``, of any shape and boolean, is true, and `MASKED` elsewhere, in ``dtype``."""
    return torch.where(visible, 0.0, MASKED).to(dtype)
