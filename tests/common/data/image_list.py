"""Images of any sizes in memory, as a raw source for tests."""

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
