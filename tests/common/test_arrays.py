"""Whether named arrays are those that somebody expects. Oracle: the differences, listed by hand."""

import numpy as np
import pytest

from ddim_jax.common.arrays import check_fit


def test_arrays_that_fit():
    check_fit({"b": np.zeros(2), "a": np.zeros((1, 3))}, {"a": np.ones((1, 3)), "b": np.ones(2)}, "weights.bin")


def test_every_array_that_does_not_fit_is_named():
    found = {"same": np.zeros(2), "shape": np.zeros((2, 3)), "dtype": np.zeros(4, np.int32), "unknown": np.zeros(5, np.uint8)}
    expected = {"same": np.zeros(2), "shape": np.zeros((3, 2)), "dtype": np.zeros(4, np.float32), "missing": np.zeros(6)}
    with pytest.raises(ValueError) as error:
        check_fit(found, expected, "weights.bin")
    first, *listed = str(error.value).splitlines()
    assert first.startswith("weights.bin does not fit")
    assert [line.strip() for line in listed] == [
        "dtype: int32[4], expected float32[4]",
        "missing: missing, expected float64[6]",
        "shape: float64[2, 3], expected float64[3, 2]",
        "unknown: uint8[5], expected nothing of this name",
    ]


def test_a_long_list_is_cut():
    with pytest.raises(ValueError) as error:
        check_fit({}, {f"{i:02d}": np.zeros(1) for i in range(30)}, "weights.bin")
    listed = str(error.value).splitlines()[1:]
    assert len(listed) == 21 and listed[-1].strip() == "... 30 in all"
