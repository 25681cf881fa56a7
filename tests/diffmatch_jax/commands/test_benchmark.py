"""The verb: rows are kept, the same command goes on, tables and figures come from the files alone."""

import json
import shutil

import matplotlib
import numpy as np
import pytest
from PIL import Image

from common.cli.app import App
from common.cli.dispatch import main
from common.errors import InputError
from common.io import results
from diffmatch_jax.__main__ import BENCHMARK
from diffmatch_jax.commands import benchmark as verb
from diffmatch_jax.evaluation import baselines
from diffmatch_jax.evaluation.baselines import Baseline
from diffmatch_jax.evaluation.datasets import catalogue, record
from diffmatch_jax.figures import benchmark, runs, sheets


def still(source, target):
    y, x = np.mgrid[: target.shape[0], : target.shape[1]]
    return np.zeros((*target.shape[:2], 2), np.float32), x + 0.5 * y


def shifts():
    def load(index):
        image = np.random.default_rng(index).integers(0, 256, (48, 48, 3), np.uint8)
        return record.Example(f"p{index}", image, image, np.full((48, 48, 2), 1.0 + index), np.ones((48, 48), bool))

    return record.make("warps", [("p0", "homography"), ("p1", "affine")], load, content=[])


def app():
    # Figures are drawn once, by their own test.
    return App("diffmatch_jax", "", None, None, None, None, lambda: {"benchmark": lambda workdir: []}, (BENCHMARK,))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished benchmark of two matchers on two data sets."""
    place = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            baselines.BASELINES,
            "sure",
            lambda name: Baseline(name, "still, sure", still, {"version": 1}, {"known": "well"}),
        )
        # In the place of generated warps, whose program takes longest to compile.
        patch.setitem(catalogue.KINDS, "warps", catalogue.Kind("two kinds", lambda where, options: shifts(), ""))
        command = ["benchmark", "--workdir", str(place), "--methods", "still,sure", "--side", "64", "--count", "2"]
        assert main([*command, "--data", "stereo,warps", "--size", "48"], app()) == 0
    return place


def test_table(workdir, capsys):
    numbers, arrays = benchmark.read(workdir)
    rows = {(row["data"], row["method"], row["group"]): row for row in numbers["rows"]}
    assert rows["stereo", "still", "all"]["images"] == 1 and rows["warps", "sure", "all"]["images"] == 2
    assert rows["warps", "still", "homography"]["aepe"] == pytest.approx(2**0.5)
    assert rows["warps", "sure", "all"]["aepe"] == pytest.approx(1.5 * 2**0.5)
    stored = results.read(workdir / "results" / f"{numbers['shown']['stereo']}.json")[1]
    error = np.linalg.norm(stored["flow"], axis=-1)[stored["mask"]]
    assert stored["target"].shape == (43, 64, 3)
    assert rows["stereo", "still", "all"]["aepe"] == pytest.approx(error.mean(), rel=1e-5)
    assert rows["stereo", "sure", "all"]["rank_correlation"] is not None
    assert rows["stereo", "still", "all"]["rank_correlation"] is None
    assert list(arrays) == [f"{data}.clean.sure.{name}" for data in ("stereo", "warps") for name in ("curve", "oracle")]
    assert numbers["step"] is None and numbers["nfe"] is None
    assert numbers["matchers"] == {"still": {"nfe": 0}, "sure": {"nfe": 0, "known": "well"}}
    text = numbers.path.with_suffix(".md").read_text()
    assert "### stereo, 1 pair, clean" in text
    assert f"| no motion | {rows['stereo', 'still', 'all']['aepe']:.2f} |" in text
    assert "| matcher | homography | affine |" in text


def test_same_command_computes_nothing_again(workdir, tmp_path, monkeypatch, capsys):
    workdir = shutil.copytree(workdir, tmp_path / "again")
    calls = []

    def counted(source, target):
        calls.append(1)
        return still(source, target)

    monkeypatch.setitem(
        baselines.BASELINES, "sure", lambda name: Baseline(name, "still, sure", counted, {"version": 1})
    )
    before, _ = benchmark.read(workdir)
    command = ["benchmark", "--workdir", str(workdir), "--methods", "sure", "--side", "64", "--data", "stereo"]
    assert main(command, app()) == 0
    assert len(calls) == 1  # the pair that is shown
    (path,) = set((workdir / "results").glob("benchmark-*.json")) - {before.path}
    after, _ = results.read(path)
    assert [row for row in before["rows"] if (row["data"], row["method"]) == ("stereo", "sure")] == after["rows"]
    # Another version of the package, or another matcher of the same name, is measured anew; nothing is replaced.
    kept = {path: path.read_bytes() for path in (workdir / "results").rglob("benchmark*.json")}
    with monkeypatch.context() as patch:
        patch.setattr(results, "version", lambda name: "another")
        assert main(command, app()) == 0
    assert len(calls) == 1 + 2 + 1  # the pair is compiled, measured and shown
    monkeypatch.setitem(baselines.BASELINES, "sure", lambda name: Baseline(name, "still, sure", still, {"version": 2}))
    assert main(command, app()) == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((workdir / "results").glob("benchmark-*.json"))) == 4


def test_wrong_use(tmp_path, capsys):
    for flags, message in (
        (["--methods", "wat"], 'did you mean "wta"'),
        (["--methods", "still,still"], "each name once"),
        (["--data", "stereo:x"], "leave out what follows the colon"),
        (["--side", "3"], "--side: expected at least 16, got 3"),
        (["--methods", f"run:{tmp_path}/none"], "none"),
        (["--config.nonsense=1"], "--config.nonsense: expected none with this verb, got one"),
        (["--config", "configs/diffmatch_jax/base.py"], "--config: expected none with this verb, got one"),
        (["--hypotheses", "0"], "--hypotheses: expected at least 1, got 0"),
        (["--methods", "still@2"], 'got "still@2"; did you mean "still"?'),
        (["--methods", "match@0"], "--methods match@0: expected at least 1 hypothesis, got 0"),
        (["--seed", "-1", "--corruptions", "gaussian_noise", "--dry-run"], "--seed: expected 0 to 2**32 - 1, got -1"),
        (["--methods", "run:.."], "--methods: expected a label of letters, digits, _ . and -, got '..'"),
        (["--methods", "a/../../b=run:x"], "expected a label of letters, digits, _ . and -, got 'a/../../b'"),
        (["--methods", "=run:/"], "expected a label of letters, digits, _ . and -, got ''"),
    ):
        flags = flags if "--methods" in flags else [*flags, "--methods", "still"]
        assert main(["benchmark", "--workdir", str(tmp_path / "w"), *flags], app()) == 2, flags
        assert message in capsys.readouterr().err
    assert main(["benchmark", "--workdir", str(tmp_path / "w"), "--methods", "still", "--dry-run"], app()) == 0
    assert "warps: 32 pairs" in capsys.readouterr().out and not (tmp_path / "w").exists()


def test_figures_need_only_files(workdir):
    (page,) = runs.index(workdir)
    found = {path.name for path in (workdir / "figures").iterdir()}
    names = ["accuracy", "sparsification", "shown"]
    assert {name.split("-")[0] for name in found} == set(names)
    assert {"shown-warps.png", "shown-warps-still.png", "sparsification-warps-clean.png"} <= found
    with Image.open(workdir / "figures" / "shown-stereo-sure.png") as image:
        pixels = np.asarray(image)
    assert pixels.ndim == 3 and np.ptp(pixels) > 200
    text = page.read_text()
    assert "Benchmark" in text and text.count("data:image/png") == len(found)
    with pytest.raises(InputError, match="run benchmark first"):
        benchmark.read(workdir / "none")


def _colour(name, value):
    return np.asarray(matplotlib.colormaps[name](float(value))[:3])


def _middle(path, colour, least=2000):
    """Returns where (x, y) a picture has a colour (in [0, 1]): the median of its pixels, of which there are many."""
    with Image.open(path) as image:
        found = (np.abs(np.asarray(image.convert("RGB")) - 255 * np.asarray(colour)) < 1.5).all(-1)
    assert found.sum() > least
    return np.median(np.argwhere(found), axis=0)[::-1]


def test_corruption_table(tmp_path):
    rows = [
        {"data": "d", "corruption": each, "method": method, "group": "all", "aepe": value}
        for each, values in {"clean": (1.0, 2.0), "fog": (8.0, None)}.items()
        for method, value in zip("ab", values, strict=True)
    ]
    numbers = {"data": ["d"], "corruptions": ["clean", "fog"], "severity": 5, "methods": {"a": "A", "b": "B"}}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "benchmark-0.json").write_text(json.dumps({**numbers, "rows": rows, "step": None}))
    (path,) = benchmark.corruptions(tmp_path)
    # Logarithmic in the error, over white: of 1 to 8, 2 is a third of the way; no number is no colour.
    first, second, below = (_middle(path, 0.8 * _colour("Blues", each) + 0.2) for each in (0, 1 / 3, 1))
    assert second[0] > first[0] + 50 and abs(second[1] - first[1]) < 10
    assert below[1] > first[1] + 30 and abs(below[0] - first[0]) < 10


def test_tables_and_picture_by_region(tmp_path):
    numbers = {"data": ["d"], "corruptions": ["clean"], "severity": 5, "methods": {"a": "A"}, "pairs": {"d": 2}}
    row = {"data": "d", "corruption": "clean", "method": "a", "group": "all", "seconds": 1.0, "covisible_said": 0.75}
    row |= dict.fromkeys(("median", "pck_1_per_image", "pck_3_per_image", "pck_5_per_image", "area"), 0.5)
    row |= {"aepe": 2.0, "rank_correlation": None, "visible.aepe": 1.5, "occluded.aepe": 9.25, "occluded.pixels": 70}
    text = verb.markdown({**numbers, "rows": [row]})
    assert "AEPE by region\n\n| matcher | visible | occluded |" in text and "| A | 1.50 | 9.25 |" in text
    assert "| matcher | said to be in both |" in text and "| A | 0.750 |" in text
    del row["covisible_said"]
    assert "by region" not in verb.markdown({**numbers, "rows": [row]})

    quarters = {name: np.zeros((16, 16), bool) for name in ("visible", "ambiguous", "flat", "occluded", "outside")}
    quarters["visible"][:8] = quarters["ambiguous"][8:, :8] = quarters["occluded"][8:, 8:] = True
    arrays = {f"region.{name}": mask for name, mask in quarters.items()}
    arrays |= {name: np.zeros((16, 16, 3), np.uint8) for name in ("source", "target")}
    arrays |= {"flow": np.zeros((16, 16, 2)), "a.flow": np.ones((16, 16, 2)), "a.covisible": quarters["visible"]}
    (tmp_path / "results").mkdir()
    results.write(tmp_path / "results", "shown-d", numbers={"name": "p", "methods": {"a": "A"}}, arrays=arrays,
                  settings={})  # fmt: skip
    (stem,) = (path.stem for path in (tmp_path / "results").glob("shown-d-*.json"))
    whole = {**numbers, "rows": [], "shown": {"d": stem}, "step": None}
    (tmp_path / "results" / "benchmark-0.json").write_text(json.dumps(whole))
    (path,) = benchmark.regions(tmp_path)
    ambiguous, occluded = (
        _middle(path, 0.7 * np.asarray(sheets.REGION_COLOURS[name])) for name in ("ambiguous", "occluded")
    )
    assert occluded[0] > ambiguous[0] + 50 and abs(occluded[1] - ambiguous[1]) < 10
    unseen = _middle(path, sheets.UNKNOWN)  # the lower half, below the painted target
    assert abs(unseen[0] - (ambiguous[0] + occluded[0]) / 2) < 20 and unseen[1] > ambiguous[1] + 100


def test_cells_of_a_sheet():
    values = np.arange(6.0).reshape(2, 3)
    known = values != 4
    cell = sheets.map_picture(values, "error", limits=(1, 2), known=known)
    assert np.isnan(cell["values"][1, 1]) and np.isfinite(cell["values"]).sum() == 5
    assert sheets._limits(np.asarray([[0.2, 0.9]])) == (0.0, 1.0)
    low, high = sheets._limits(np.asarray([[-5.0, -1.0]]))
    assert low < high == -1


def test_hypotheses(tmp_path):
    flows = np.stack([np.full((8, 8, 2), each) for each in (1.0, 2.0)])
    path = sheets.hypotheses(
        tmp_path / "h.png",
        target=np.zeros((16, 16, 3), np.uint8),
        flows=flows,
        std=np.full((16, 16), 0.7),
        error=np.ones((16, 16)),
        known=np.ones((16, 16), bool),
    )
    # Of 0.3 to 30 pixels, logarithmically.
    std, error = (_colour("cividis", np.log(each / 0.3) / np.log(100)) for each in (0.7, 1.0))
    first = [np.zeros(3), *_coloured(flows)]
    second = [std, *_coloured(flows - flows.mean(0))]
    upper, lower = ([_middle(path, each) for each in row] for row in (first, second))
    for row in (upper, lower):
        assert (np.diff([x for x, _ in row]) > 300).all() and np.ptp([y for _, y in row]) < 20
    last = _middle(path, error)
    assert last[1] > lower[0][1] + 300 > upper[0][1] + 600 and abs(last[0] - upper[0][0]) < 20


def _coloured(flows):
    longest = sheets.longest_of(flows)
    return [sheets.flow_colours(each, longest=longest)[0, 0] for each in flows]
