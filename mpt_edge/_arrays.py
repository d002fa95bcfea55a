"""Names for the arrays that are passed around most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Vectors, hidden states, keys, values, scores.
Floats = NDArray[np.float32]

#: Tokens, masks, positions, numbers of rows.
Ids = NDArray[np.int64]
