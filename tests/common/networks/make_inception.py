"""Writes data/inception.npz with PyTorch and torchvision, which no test needs: python make_inception.py

The network is torchvision's Inception3 with the pools of the 2015 graph, the resizing PyTorch's own.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision.models.inception as tv
from inception_weights import images, state_dict


def average(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def maximum(x):
    return F.max_pool2d(x, 3, 1, 1)


class A(tv.InceptionA):
    def forward(self, x):
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        wide = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), wide, deep, self.branch_pool(average(x))], 1)


class C(tv.InceptionC):
    def forward(self, x):
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(average(x))], 1)


class E(tv.InceptionE):
    pool = staticmethod(average)

    def forward(self, x):
        one, two = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ends = [each(one) for each in (self.branch3x3_2a, self.branch3x3_2b)]
        ends += [each(two) for each in (self.branch3x3dbl_3a, self.branch3x3dbl_3b)]
        return torch.cat([self.branch1x1(x), *ends, self.branch_pool(self.pool(x))], 1)


class LastE(E):
    pool = staticmethod(maximum)


def build():
    net = tv.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
    net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e = C(768, 128), C(768, 160), C(768, 160), C(768, 192)
    net.Mixed_7b, net.Mixed_7c = E(1280), LastE(2048)
    weights = {name: torch.from_numpy(array) for name, array in state_dict().items()}
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    net.dropout, net.fc = torch.nn.Identity(), torch.nn.Identity()
    return net.eval()


def main():
    net, x = build(), torch.from_numpy(images()).permute(0, 3, 1, 2).float()
    half = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    rows, columns = x.shape[2:]
    theta = torch.eye(2, 3).repeat(len(x), 1, 1)
    theta[:, 0, 2] = 1 / columns - 1 / 299
    theta[:, 1, 2] = 1 / rows - 1 / 299
    grid = F.affine_grid(theta, [*x.shape[:2], 299, 299], align_corners=False)
    tf1 = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    with torch.no_grad():
        found = {"half_pixel": net(half / 127.5 - 1), "tf1": net((tf1 - 128) / 128)}
    found |= {
        f"resized.{name}": each.permute(0, 2, 3, 1)[:, ::23, ::23]
        for name, each in (("half_pixel", half), ("tf1", tf1))
    }
    path = Path(__file__).parent / "data" / "inception.npz"
    np.savez_compressed(path, **{name: each.numpy() for name, each in found.items()})


if __name__ == "__main__":
    main()
