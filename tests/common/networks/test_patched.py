"""Images as cells and back: the order of the channels, and sizes that do not divide."""

import numpy as np
import pytest

from common.errors import InputError
from common.networks.unets import to_cells, to_pixels


def test_cells_hold_rows_of_pixels():
    image = np.arange(2 * 4 * 6 * 2).reshape(2, 4, 6, 2)
    cells = np.asarray(to_cells(image, 2))
    assert cells.shape == (2, 2, 3, 8)
    np.testing.assert_array_equal(cells[1, 1, 2], image[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(to_pixels(cells, 2), image)


def test_cells_must_fit():
    with pytest.raises(InputError, match="x: expected height and width divisible by 3, got 6x4; crop the image"):
        to_cells(np.zeros((1, 6, 4, 1)), 3)
