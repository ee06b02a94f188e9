import numpy as np
import pytest

from tuwen.evaluation import hubness


def test_skewness_and_hubs_by_hand():
    ids = np.array([[0, 1], [0, 2], [0, 3], [0, 1]])
    times = hubness.count_occurrences(ids, 5)
    assert times.tolist() == [4, 2, 1, 1, 0]
    deviations = np.array([4, 2, 1, 1, 0]) - 1.6
    assert hubness.compute_skewness(times) == pytest.approx(np.mean(deviations**3) / np.mean(deviations**2) ** 1.5)
    assert hubness.find_hubs(times, 4).tolist() == [0, 1, 2, 3]  # of equal ones the lower row
    assert hubness.compute_skewness(np.full(5, 3)) == 0
