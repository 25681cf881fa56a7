"""Images of any sizes in memory, as a raw source, and which records of such a source cannot be used."""

import numpy as np

from common.data.source import Source, digest


class ImageList(Source):
    """Images of any sizes in memory, with a name each."""

    def __init__(self, images, *, names, label="images"):
        self.images, self.names, self.label = list(images), list(names), label
        self.fingerprint = digest(*self.names, *self.images)

    def __repr__(self):
        return f"ImageList({self.label}, {len(self)})"

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}

    def name(self, index):
        return self.names[index]

    def shapes(self):
        return np.asarray([image.shape for image in self.images], np.int64).reshape(-1, 3)


def unusable(source):
    """Returns {index: reason} of the records whose shape is unknown."""
    indices = np.flatnonzero(source.shapes()[:, 0] == 0).tolist()
    return {index: error.reason for index, error in zip(indices, source.elements(indices), strict=True)}
