"""Random Inception-v3 weights from a fixed seed, by the names of pytorch-fid's file, and images to try them on."""

import numpy as np


def layers():
    """Yields (name, outputs, inputs, kernel) of every convolution, written down from the published file's table."""
    table = [("Conv2d_1a_3x3", 32, 3, (3, 3)), ("Conv2d_2a_3x3", 32, 32, (3, 3)), ("Conv2d_2b_3x3", 64, 32, (3, 3))]
    table += [("Conv2d_3b_1x1", 80, 64, (1, 1)), ("Conv2d_4a_3x3", 192, 80, (3, 3))]
    for block, inputs, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        table += [
            (f"Mixed_{block}.branch1x1", 64, inputs, (1, 1)),
            (f"Mixed_{block}.branch5x5_1", 48, inputs, (1, 1)),
            (f"Mixed_{block}.branch5x5_2", 64, 48, (5, 5)),
            (f"Mixed_{block}.branch3x3dbl_1", 64, inputs, (1, 1)),
            (f"Mixed_{block}.branch3x3dbl_2", 96, 64, (3, 3)),
            (f"Mixed_{block}.branch3x3dbl_3", 96, 96, (3, 3)),
            (f"Mixed_{block}.branch_pool", pooled, inputs, (1, 1)),
        ]
    table += [
        ("Mixed_6a.branch3x3", 384, 288, (3, 3)),
        ("Mixed_6a.branch3x3dbl_1", 64, 288, (1, 1)),
        ("Mixed_6a.branch3x3dbl_2", 96, 64, (3, 3)),
        ("Mixed_6a.branch3x3dbl_3", 96, 96, (3, 3)),
    ]
    for block, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        table += [
            (f"Mixed_{block}.branch1x1", 192, 768, (1, 1)),
            (f"Mixed_{block}.branch7x7_1", inner, 768, (1, 1)),
            (f"Mixed_{block}.branch7x7_2", inner, inner, (1, 7)),
            (f"Mixed_{block}.branch7x7_3", 192, inner, (7, 1)),
            (f"Mixed_{block}.branch7x7dbl_1", inner, 768, (1, 1)),
            (f"Mixed_{block}.branch7x7dbl_2", inner, inner, (7, 1)),
            (f"Mixed_{block}.branch7x7dbl_3", inner, inner, (1, 7)),
            (f"Mixed_{block}.branch7x7dbl_4", inner, inner, (7, 1)),
            (f"Mixed_{block}.branch7x7dbl_5", 192, inner, (1, 7)),
            (f"Mixed_{block}.branch_pool", 192, 768, (1, 1)),
        ]
    table += [
        ("Mixed_7a.branch3x3_1", 192, 768, (1, 1)),
        ("Mixed_7a.branch3x3_2", 320, 192, (3, 3)),
        ("Mixed_7a.branch7x7x3_1", 192, 768, (1, 1)),
        ("Mixed_7a.branch7x7x3_2", 192, 192, (1, 7)),
        ("Mixed_7a.branch7x7x3_3", 192, 192, (7, 1)),
        ("Mixed_7a.branch7x7x3_4", 192, 192, (3, 3)),
    ]
    for block, inputs in (("7b", 1280), ("7c", 2048)):
        table += [
            (f"Mixed_{block}.branch1x1", 320, inputs, (1, 1)),
            (f"Mixed_{block}.branch3x3_1", 384, inputs, (1, 1)),
            (f"Mixed_{block}.branch3x3_2a", 384, 384, (1, 3)),
            (f"Mixed_{block}.branch3x3_2b", 384, 384, (3, 1)),
            (f"Mixed_{block}.branch3x3dbl_1", 448, inputs, (1, 1)),
            (f"Mixed_{block}.branch3x3dbl_2", 384, 448, (3, 3)),
            (f"Mixed_{block}.branch3x3dbl_3a", 384, 384, (1, 3)),
            (f"Mixed_{block}.branch3x3dbl_3b", 384, 384, (3, 1)),
            (f"Mixed_{block}.branch_pool", 192, inputs, (1, 1)),
        ]
    return table


def state_dict():
    """Returns `{name: array}` with weights of unit gain and normalisation that is not trivial."""
    rng = np.random.default_rng(20151205)
    tensors = {}
    for name, outputs, inputs, kernel in layers():
        fan_in = inputs * kernel[0] * kernel[1]
        weight = rng.standard_normal((outputs, inputs, *kernel), dtype=np.float32)
        tensors[f"{name}.conv.weight"] = weight * np.float32((2 / fan_in) ** 0.5)
        tensors[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, outputs).astype(np.float32)
        tensors[f"{name}.bn.bias"] = rng.uniform(-0.2, 0.2, outputs).astype(np.float32)
        tensors[f"{name}.bn.running_mean"] = rng.uniform(-0.2, 0.2, outputs).astype(np.float32)
        tensors[f"{name}.bn.running_var"] = rng.uniform(0.8, 1.2, outputs).astype(np.float32)
    tensors["fc.weight"] = np.zeros((1008, 2048), np.float32)
    tensors["fc.bias"] = np.zeros(1008, np.float32)
    return tensors


def images():
    """Returns two smooth 8-bit images that are neither square nor of the network's size, `[2, 24, 40, 3]`."""
    rows, columns = np.linspace(0, 1, 24)[:, None, None], np.linspace(0, 1, 40)[None, :, None]
    phase = np.arange(3) + np.array([0.0, 2.5])[:, None, None, None]
    waves = np.sin(7 * rows + 3 * phase) * np.cos(11 * columns - phase)
    return np.round(127.5 + 127.5 * waves).astype(np.uint8)
