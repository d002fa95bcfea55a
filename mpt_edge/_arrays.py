"""Type aliases of the most common arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Hidden states, keys, values, scores.
Floats = NDArray[np.float32]

#: Vectors and prompts as files hold them: float16 or float32.
Stored = NDArray[np.floating[Any]]

#: Token ids, masks, positions, counts.
Ids = NDArray[np.int64]
