"""What is read of a prompt once: keys and values, by the names of the graph's inputs that take them."""

from __future__ import annotations

import numpy as np

from mpt_edge._arrays import Floats, Ids

#: Keys and values, by graph input name; each ``(batch, heads, rows, head size)``.
PromptCache = dict[str, Floats]


def stack(caches: list[PromptCache]) -> tuple[PromptCache, Ids]:
    """Join one cache a row into one batch; shorter prompts are padded and masked.

    Returns:
        The joined cache and its mask, ``(rows, longest prompt)``.
    """
    first = next(iter(caches[0]))
    lengths = np.array([cache[first].shape[2] for cache in caches])
    longest = int(lengths.max())
    mask = (np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64)
    joined: PromptCache = {}
    for name, example in caches[0].items():
        _, heads, _, size = example.shape
        array = np.zeros((len(caches), heads, longest, size), np.float32)
        for i, cache in enumerate(caches):
            array[i, :, : lengths[i]] = cache[name][0]
        joined[name] = array
    return joined, mask
