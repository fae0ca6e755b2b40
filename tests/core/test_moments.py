"""Streaming moments equal those of NumPy, per coordinate and jointly, for any batches."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.moments import StreamingMoments


@given(st.integers(2, 50), st.integers(1, 7), st.integers(0, 99))
def test_streaming_moments_equal_numpy(n, size, seed):
    x = np.random.default_rng(seed).normal(5, 2, (n, 3))
    moments = StreamingMoments()
    for start in range(0, n, size):
        moments.update(torch.tensor(x[start : start + size]))
    np.testing.assert_allclose(moments.mean.numpy(), x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.variance.numpy(), x.var(0, ddof=1), rtol=1e-9)


@given(st.integers(2, 50), st.integers(1, 7), st.integers(0, 99))
def test_joint_moments_equal_numpys_covariance(n, size, seed):
    x = np.random.default_rng(seed).normal(5, 2, (n, 3))
    moments = StreamingMoments(joint=True)
    for start in range(0, n, size):
        moments.update(torch.tensor(x[start : start + size]))
    moments.update(torch.zeros(0, 3))
    assert moments.count == n
    np.testing.assert_allclose(moments.variance.numpy(), np.cov(x.T), rtol=1e-9, atol=1e-12)
