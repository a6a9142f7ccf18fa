"""Arrays as JSON, as the items of clips hold them."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backflip.errors import DataError


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON: shape, kind and compressed bytes."""
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "data": data}


def unpack(packed: Any) -> NDArray[Any]:
    """Return the array that `pack` wrote.

    Raises:
        DataError: it is broken, or of a kind other than numbers.
    """
    try:
        dtype = np.dtype(packed["dtype"])
        if dtype.kind not in "fiub":
            raise ValueError(f"kind {dtype} is no number")
        raw = zlib.decompress(base64.b64decode(packed["data"], validate=True))
        return np.frombuffer(raw, dtype).reshape(packed["shape"]).copy()
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise DataError(
            f"a packed array is broken ({error}); expected shape, dtype and data as a clip holds them"
        ) from error
