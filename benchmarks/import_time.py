"""Duration of `import mpt_edge` beside that of its dependencies, as whole processes, in turn.

python benchmarks/import_time.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

IMPORTS = {"numpy, onnxruntime, tokenizers": "import numpy, onnxruntime, tokenizers", "mpt_edge": "import mpt_edge"}
RUNS = 15

#: By itself, ONNX Runtime reports usage; mpt_edge turns that off, so that neither side pays for it.
ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}


def main() -> None:
    """Print both medians and the median of the paired ratios."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for run in range(RUNS + 1):
        for name, statement in IMPORTS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], env=ENVIRONMENT, check=True)
            if run:  # the first warms the file cache
                times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        print(f"import {name}: {1e3 * median(values):.0f} ms")
    base, ours = times.values()
    print(f"ratio: {median(b / a for a, b in zip(base, ours, strict=True)):.2f}")


if __name__ == "__main__":
    main()
