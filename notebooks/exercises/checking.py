"""How the tests compare: with a sentence that says what an answer of this kind usually got wrong."""

import numpy as np


def same(got, wanted, why, rtol=1e-6, atol=1e-9):
    """Numbers, arrays or tensors are equal to six digits, NaN where NaN is wanted; `why` is told if not."""
    if hasattr(got, "detach"):
        got = got.detach()
    try:
        np.testing.assert_allclose(np.asarray(got, dtype=float), np.asarray(wanted, dtype=float), rtol, atol)
    except AssertionError as error:
        raise AssertionError(f"{why}\n{str(error).strip()}") from None


def same_interval(got, low, high, why, tolerance=0.06):
    """Both ends agree within a share of the interval's width: what two sets of random draws may differ by."""
    assert np.shape(got) == (2,), f"expected two ends, low and high, not {got!r}"
    apart = np.abs(np.subtract(got, (low, high))) / (high - low)
    said = f"[{got[0]:.4f}, {got[1]:.4f}] instead of about [{low:.4f}, {high:.4f}]"
    assert (apart < tolerance).all(), f"{why}: {said}"
