"""Writes the tables of the Results pages from the JSON files of the runs: `python docs/tables.py` in the repository.

A page marks the place of a table by the comments `<!-- table NAME -->` and `<!-- /table -->`; NAME is a key of TABLES.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- table (\S+) -->\n).*?(\n<!-- /table -->)", re.DOTALL)


def read(name: str) -> Any:
    """Returns the content of a JSON file, named relative to docs/."""
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


def bench(name: str) -> dict[str, Any]:
    """Returns the last record of a benchmark."""
    return read(f"../benchmarks/results/{name}.json")[-1]


def markdown(header: str | Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; a header may be one string with " | " between its cells."""
    header = header.split(" | ") if isinstance(header, str) else header
    first, *others = ("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in (header, *rows))
    return "\n".join([first, "|" + "---|" * len(header), *others])


def digits(value: float) -> str:
    """Returns a number with two decimals below 10, one above."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def best(row: Sequence[float], least: bool = True, show: Callable[[float], str] = digits) -> list[str]:
    """Returns the cells of a row; the best ones, as shown, are bold."""
    shown = [show(value) for value in row]
    target = show(min(row) if least else max(row))
    return [f"**{cell}**" if cell == target else cell for cell in shown]


def transposed(columns: Iterable[Sequence[str]]) -> list[list[str]]:
    """Returns the rows of columns."""
    return [list(row) for row in zip(*columns, strict=True)]


# Blind denoisers

ALPHAS = (1, 2, 3, 5)


def gahb_study() -> str:
    rows = []
    for name in ("N-00001", "N-00010", "N-00100", "N-01000", "N-01760", "control"):
        result = read(f"gahb/study_faces20/study-{name}.json")
        gaps = ", ".join(f"{each['mean']:.2f}" for each in result["gap"]["sigma"])
        pixels = result["similarity"]["pixels"]
        rows.append(
            [
                "control" if result["control"] else str(result["size"]),
                f"{result['step']:,}",
                gaps.replace("-0.00", "0.00"),
                *(f"{pixels[key]['mean']:.2f}" for key in ("pair", "other_noise", "nearest", "held_out")),
            ]
        )
    header = (
        "N | steps | gap train − test (dB) | pair, same noise | pair, other noise"
        " | sample to nearest training face | held-out face to nearest training face"
    )
    return markdown(header, rows)


def gahb_slopes() -> str:
    def slope(each: dict[str, float], key: str = "value") -> str:
        return f"{each[key]:.3f} ± {each['standard_error']:.3f}"

    oracle = read("gahb/calpha32/oracle.json")["classes"]
    paper = {1: 0.46, 2: 0.61, 3: 0.75, 5: 0.83}  # figure 4
    rows = []
    for alpha in ALPHAS:
        narrow, wide = (read(f"gahb/{run}/classes-calpha-{alpha}.json") for run in ("calpha32", "classes32"))
        limit = oracle[f"calpha-{alpha}"]
        rows.append(
            [
                f"α = {alpha}",
                f"{narrow['nominal_slope']:.2f}",
                f"{paper[alpha]:.2f}",
                slope(limit["slopes"]["12-20"]),
                slope(narrow["slope_in_window"]),
                f"{limit['gap_to_oracle_12_20']:.1f}",
                slope(wide["slope_in_window"]),
            ]
        )
    header = (
        "images | nominal α / (α + 1) | paper, 80x80 | oracle, 12 to 20 dB | `calpha32.py`, 12 to 20 dB"
        " | PSNR below the oracle (dB) | `classes32.py`, 4 to 18 dB"
    )
    return markdown(header, rows)


def gahb_manifolds() -> str:
    rows = []
    for name, title in (
        ("disks", "disks"),
        ("sinusoids", "sinusoids"),
        ("scaled_image", "multiples of one face"),
    ):
        result = read(f"gahb/classes32/classes-{name}.json")
        tangent = result["tangent"]
        rows.append(
            [
                title,
                str(tangent["dimension"]),
                f"{result['shortfall']:.1f}",
                f"{result['trace']:.1f}",
                f"{tangent['mean_square_cosine']:.2f}",
                f"{tangent['next_factor']:.2f}",
            ]
        )
    header = "class | D | shortfall (dB) | trace of J | mean squared cosine to the tangent space | factor D + 1"
    return markdown(header, rows)


def gahb_packaged() -> str:
    rows = [
        [f"{each['sigma']:.3f}", *(f"{each[key]:.1f}" for key in ("noisy", "denoised", "error", "wiener"))]
        for each in read("gahb/photographs64/evaluate.json")["table"]
    ]
    return markdown("sigma | noisy (dB) | denoised | standard error over photographs | DCT-domain Wiener filter", rows)


def gahb_eigenbases() -> str:
    table = read("gahb/photographs64/eigenbasis.json")["table"]
    columns = (
        *(("trace", ".0f"), ("squares", ".0f"), ("asymmetry", ".2f")),
        *(("largest", ".2f"), ("smallest", ".2f"), ("products", "d")),
    )
    rows = []
    for sigma in sorted({each["sigma"] for each in table}):
        images = [each for each in table if each["sigma"] == sigma]
        cells = [", ".join(format(each[key], form) for each in images) for key, form in columns]
        rows.append([f"{sigma:.3f}", ", ".join(f"{implied_sigma(each, 64 * 64):.3f}" for each in images), *cells])
    header = "sigma | implied: wall, chairs | trace of J | sum of squares | asymmetry | factor 1 | factor 48 | products"
    return markdown(header, rows)


def implied_sigma(row: dict[str, float], size: int) -> float:
    """Returns sqrt(||y - f(y)||^2 / (size - tr J)); the residual is the one in Stein's estimate."""
    variance, kept = row["sigma"] ** 2, row["trace"]
    return (((row["sure"] + variance) * size - 2 * variance * kept) / (size - kept)) ** 0.5


def gahb_demo() -> str:
    rows = [
        [
            f"{each['sigma']:.3f}",
            *(f"{each[key]:.1f}" for key in ("noisy", "wiener", "denoised")),
            f"{each['gain']:+.1f} ± {each['gain_error']:.1f}",
        ]
        for each in read("gahb/demo/evaluate.json")["table"]
    ]
    return markdown("sigma | noisy (dB) | Wiener filter | denoiser | gain", rows)


def gahb_restore() -> str:
    titles = {
        "inpainting": "inpainting of a central square, a quarter of the side",
        "super_resolution": "super-resolution, 4 times",
        "random_basis": "10 % of a random basis",
    }
    result = read("gahb/photographs64/restore.json")
    rows = []
    for i, each in enumerate(result["table"]):
        rows.append([titles[each["problem"]], "nearest to gray", "", *_restored(each, "minimum_norm"), ""])
        rows.append(["", "`sampler`", "", *_restored(each, "restored"), ""])
        for name, baseline in result["baselines"].items():
            chosen = result["tuning"][name][each["problem"]]
            lead = f"{baseline[i]['lead']:+.1f} ± {baseline[i]['lead_error']:.1f}"
            number = f"{chosen['setting']} {chosen['chosen']:g}"
            rows.append(["", f"`{name}`", number, *_restored(baseline[i], "restored"), lead])
    return markdown("problem | solver | chosen | PSNR (dB) | SSIM | PSNR over the sampler's (dB)", rows)


def _restored(row: dict[str, float], key: str) -> list[str]:
    if key == "minimum_norm":
        return [f"{row[key]:.1f}", f"{row['minimum_norm_ssim']:.2f}"]
    return [f"{row[key]:.1f} ± {row['error']:.1f}", f"{row['ssim']:.2f} ± {row['ssim_error']:.2f}"]


def gahb_moments() -> str:
    """Returns the table of the variance that sampling keeps; its numbers are computed, not read."""
    from gahb.sampler_settings import DEFAULT, PUBLISHED, gaussian_moments

    variances = (0.01, 0.05, 0.2, 1, 4, 6, 16, 100)
    changes = {
        "DEFAULT": ({}, {"hold": 0}, {"hold": 60}, {"sigma_L": 0.05}, {"step": 0.2}, {"beta": 1}, {"sigma_0": 3}),
        "PUBLISHED": ({}, {"sigma_L": 0.02}, {"beta": 1}, {"beta": 0.01}, {"h0": 0.002}, {"sigma_0": 3}),
    }
    rows = []
    for (name, each), settings in zip(changes.items(), (DEFAULT, PUBLISHED), strict=True):
        for change in each:
            moments = gaussian_moments(variances, settings._replace(**change))
            title = " ".join([name, *(f"{key}={value}" for key, value in change.items())])
            rows.append([f"`{title}`", str(moments.nfe), *(f"{kept:.2f}" for kept in moments.variance_fraction)])
    return markdown(["settings", "evaluations", *map(str, variances)], rows)


# Dense matching

CORRUPTIONS = {
    "clean": "clean",
    "gaussian_noise": "gaussian noise",
    "contrast": "contrast",
    "motion_blur": "motion blur",
    "jpeg_compression": "jpeg",
}


def matching(result: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Returns a function that finds the row of a benchmark of matchers."""
    rows = {(each["data"], each["group"], each["corruption"], each["method"]): each for each in result["rows"]}

    def find(method: str, corruption: str = "clean", data: str = "warps", group: str = "all") -> dict[str, Any]:
        return rows[data, group, corruption, method]

    return find


def diffmatch_frames() -> str:
    before, now = (matching(read(f"diffmatch/{name}.json")) for name in ("warps", "frames"))
    entries = (("both stages", "match"), ("the fit, refined", "refined"))
    rows = [
        (f"{title}{when}", each(method), each, method)
        for title, method in entries
        for when, each in ((", before", before), ("", now))
    ]
    columns = [[title for title, *_ in rows]]
    for corruption in CORRUPTIONS:
        columns.append(best([each(method, corruption)["aepe"] for _, _, each, method in rows]))
    columns.append(best([100 * row["pck_1_per_image"] for _, row, *_ in rows], False, lambda value: f"{value:.0f} %"))
    columns.append(best([row["rank_correlation"] for _, row, *_ in rows], False))
    header = ["", *CORRUPTIONS.values(), "PCK-1, clean", "rank correlation"]
    return markdown(header, transposed(columns))


def diffmatch_stages() -> str:
    evaluate = read("diffmatch/twins.json")["evaluate"]
    first, second = evaluate["d0"], evaluate["stage 2 after d0"]
    table = {each["method"]: each for each in first["table"]}
    entries = [
        ("winner-take-all", table["winner-take-all"], None),
        ("its 5x5 median", table["its median"], None),
        ("its robust fit", table["its fit"], first["rank_correlation_of_fit"]),
        ("the fit, refined", table["its fit, refined"], None),
        ("stage 1", table["model"], first["rank_correlation"]),
        ("both stages", second["table"][-1], second["rank_correlation"]),
    ]
    columns = [[title for title, *_ in entries], best([row["aepe"] for _, row, _ in entries])]
    for pixels in (1, 3, 5):
        columns.append(best([row[f"pck_{pixels} %"] for _, row, _ in entries], False, lambda value: f"{value:.1f} %"))
    ranks = [rank for *_, rank in entries]
    highest = max(rank for rank in ranks if rank is not None)
    columns.append(["" if r is None else f"**{r:.2f}**" if r == highest else f"{r:.2f}" for r in ranks])
    return markdown(" | AEPE | PCK-1 | PCK-3 | PCK-5 | rank correlation", transposed(columns))


def diffmatch_calibration() -> str:
    calibration = read("diffmatch/twins.json")["evaluate"]["stage 2 after d0"]["calibration"]
    rows = [[key, *map(digits, calibration[key])] for key in ("spread", "error")]
    parts = [f"part {number + 1}" for number in range(len(calibration["spread"]))]
    return markdown(["root mean square, px", *parts], rows)


def diffmatch_joint() -> str:
    evaluate = read("diffmatch/twins.json")["evaluate"]
    pairs = [("seed 0, white noise", "r0, white noise", "d0, white noise, first_weight=1")]
    pairs += [(f"seed {seed}, coherent noise", f"r{seed}", f"d{seed}") for seed in range(3)]
    rows = []
    for title, regression, diffusion in pairs:
        both = [evaluate[each]["joint"] for each in (regression, diffusion)]
        scores = transposed(best([each[key] for each in both]) for key in ("cells", "steps", "squares"))
        names = (f"{title}: regression", "diffusion (`first_weight=1`)" if "weight" in diffusion else "diffusion")
        for name, cells, each in zip(names, scores, both, strict=True):
            ends = (each["coherence"], each["coherence_of_errors"])
            rows.append([name, *cells, *(f"{value:.2f}".replace("-0.00", "0.00") for value in ends)])
    header = " | cells | differences | squares | correlation of neighbours: hypotheses | errors"
    return markdown(header, rows)


def diffmatch_twins() -> str:
    evaluate = read("diffmatch/twins.json")["evaluate"]
    rows = []
    for seed in range(3):
        diffusion, regression = evaluate[f"d{seed}"], evaluate[f"r{seed}"]
        table = {each["method"]: each["aepe"] for each in diffusion["table"]}
        rows.append(
            [
                str(seed),
                digits(table["winner-take-all"]),
                digits(table["its fit"]),
                *best([regression["table"][-1]["aepe"], diffusion["table"][-1]["aepe"]]),
                f"{diffusion['rank_correlation_of_fit']:.2f}",
                *best([regression["rank_correlation"], diffusion["rank_correlation"]], False),
            ]
        )
    header = "seed | winner-take-all | fit | regression | diffusion | rank correlation: fit | regression | diffusion"
    return markdown(header, rows)


def diffmatch_twins_corrupted() -> str:
    find = matching(read("diffmatch/twins.json")["corruptions"])

    def seeds(kind: str, corruption: str = "clean", key: str = "aepe") -> list[float]:
        return [find(f"{kind}{seed}", corruption)[key] for seed in range(3)]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    rows = []
    for corruption, title in CORRUPTIONS.items():
        both = [seeds(kind, corruption) for kind in "rd"]
        cells = best([mean(each) for each in both])
        ranges = (f"{cell} ({min(each):.2f} to {max(each):.2f})" for cell, each in zip(cells, both, strict=True))
        rows.append([title + ", px" * (title == "clean"), digits(find("fit", corruption)["aepe"]), *ranges])
    for key, title, least in (
        ("rank_correlation", "rank correlation, clean", False),
        ("area", "sparsification area, clean", True),
    ):
        both = best([mean(seeds(kind, key=key)) for kind in "rd"], least, lambda value: f"{value:.3f}")
        rows.append([title, f"{find('fit')[key]:.3f}", *both])
    return markdown(" | fit | regression | diffusion", rows)


METHODS = {
    "match": "the package's, both stages",
    "refined": "fit, refined",
    "fit": "fit",
    "wta": "winner-take-all",
    "median": "its median",
    "dis": "DIS",
    "sift": "SIFT + MAGSAC++",
}


def diffmatch_corruptions() -> str:
    result = read("diffmatch/warps.json")
    find = matching(result)
    rows = [
        [each.replace("_", " "), *best([find(method, each)["aepe"] for method in METHODS])]
        for each in result["corruptions"]
    ]
    return markdown(["", *METHODS.values()], rows)


def diffmatch_real() -> str:
    find = matching(read("diffmatch/real.json"))
    titles = {
        **METHODS,
        "fit": "the robust fit",
        "refined": "the fit, refined",
        "dis": "DIS optical flow",
        "sift": "SIFT + MAGSAC++, one homography",
    }
    order = ("match", "wta", "fit", "refined", "dis", "sift")

    def percent(row: dict[str, Any]) -> str:
        return ", ".join(f"{100 * row[f'pck_{pixels}_per_image']:.0f} %" for pixels in (1, 5))

    columns = [[titles[each] for each in order]]
    for scene in ("graf", "wall", "boat"):
        columns.append(best([find(each, data="oxford", group=scene)["aepe"] for each in order], show="{:.1f}".format))
    columns.append([percent(find(each, data="oxford")) for each in order])
    stereo = [find(each, data="stereo") for each in order]
    errors = best([row["aepe"] for row in stereo], show="{:.1f}".format)
    columns.append([f"{error}; {percent(row)}" for error, row in zip(errors, stereo, strict=True)])
    header = " | graf, 5 pairs | wall, 5 pairs | boat, 5 pairs | all 15 | stereo"
    return markdown(header, transposed(columns))


REGIONS = ("visible", "edges", "moving", "ambiguous", "flat", "occluded", "outside")
LAYERED = ("match", "refined", "fit", "wta", "dis", "sift")


def diffmatch_layered() -> str:
    """Returns the mean error by region, and below each the range over three seeds of the data."""
    find = matching(read("diffmatch/layered.json"))
    columns = [[METHODS[method] for method in LAYERED]]
    for region in REGIONS:
        key = f"{region}.aepe"
        cells = best([find(method, data="layered")[key] for method in LAYERED], show="{:.1f}".format)
        seeds = [[find(method, data="layered", group=f"seed {k}")[key] for k in range(3)] for method in LAYERED]
        columns.append([f"{cell} ({min(k):.1f} to {max(k):.1f})" for cell, k in zip(cells, seeds, strict=True)])
    return markdown(["AEPE, px", *REGIONS], transposed(columns))


def diffmatch_layered_sure() -> str:
    find = matching(read("diffmatch/layered.json"))
    keys = {
        "visible.pck_1": "PCK-1, visible",
        "ambiguous.equal": "ambiguous: to the nearest equal place, px",
        "ambiguous.best": "best of n, ambiguous, px",
        "ambiguous.energy": "energy score, ambiguous",
        "occluded.best": "best of n, occluded, px",
        "occluded.energy": "energy score, occluded",
        "visible.rank_correlation": "rank correlation, visible",
        **{f"{region}.confidence": f"mean confidence, {region}" for region in ("visible", *REGIONS[3:])},
        "covisible_precision": "covisible: precision",
        "covisible_recall": "recall",
    }
    rows = []
    for key, title in keys.items():
        values = [find(method, data="layered").get(key) for method in LAYERED]
        rows.append([title, *("" if each is None else f"{each:.2f}" for each in values)])
    return markdown(["", *(METHODS[method] for method in LAYERED)], rows)


# Phase-space bridges


def bridge_scores(name: str, *keys: str, digits: int = 3) -> str:
    """Returns the table of scores of a comparison at each number of evaluations, one row a path; the floor is last."""
    result = read(f"phase_bridge/{name}.json")

    def cell(each: dict[str, Any]) -> str:
        deviation = f" ± {each[f'{keys[0]}_deviation']:.{digits}f}" if len(keys) == 1 and result["seeds"] > 1 else ""
        return ", ".join(f"{each[key]:.{digits}f}" for key in keys) + deviation

    return _bridge_rows(result, cell, [result["floor"]])


def bridge_apart(name: str, key: str) -> str:
    """Returns the table of differences to the first path, paired by seed; bold where the 95 % interval excludes 0."""

    def cell(each: dict[str, Any]) -> str:
        low, middle, high = (each["against"][key][name] for name in ("low", "difference", "high"))
        shown = f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"
        return shown if low <= 0 <= high else f"**{shown}**"

    result = read(f"phase_bridge/{name}.json")
    first = result["rows"][0]["model"]
    return _bridge_rows({"rows": [each for each in result["rows"] if each["model"] != first]}, cell)


def bridge_samplers(name: str) -> str:
    """Returns the table of the samplers that a comparison chose."""
    return _bridge_rows(read(f"phase_bridge/{name}.json"), lambda each: each["sampler"])


def _bridge_rows(result: dict[str, Any], cell: Callable[[dict[str, Any]], str], floor: Sequence[Any] = ()) -> str:
    cells = {(each["title"].split("; ")[1], each["nfe"]): cell(each) for each in result["rows"]}
    paths, counts = (list(dict.fromkeys(each)) for each in zip(*cells, strict=True))
    rows = [[path, *(cells[path, nfe] for nfe in counts)] for path in paths]
    rows += [["data against data", *[cell(each)] * len(counts)] for each in floor]
    return markdown(["path", *(f"NFE {nfe}" for nfe in counts)], rows)


# Solvers in records of release 0.1.0, and their names today.
RENAMED = re.compile(r"^(exponential|data)(?= r=)")
TODAY = {"exponential": "gddim", "data": "data_multistep"}


def bench_table(name: str, start: str) -> str:
    """Returns the table of a benchmark's last record whose title begins with `start`."""
    [rows] = [rows for title, rows in bench(name)["tables"].items() if title.startswith(start)]
    return markdown(
        list(rows[0]),
        [[RENAMED.sub(lambda match: TODAY[match[1]], str(cell)) for cell in row.values()] for row in rows],
    )


def bridge_faces() -> str:
    """Returns Frechet distance and recall of faces at each number of evaluations, one row a path."""
    paths = read("phase_bridge/faces32.json")
    titles = {"bridge": "bridge (AGM-ODE), gddim", "edm": "EDM", "flow": "flow matching's straight path"}
    rows = []
    for name, title in titles.items():
        measured = [each for each in paths[name]["table"] if each["nfe"] != "data"]
        rows.append([title, *(f"{each['frechet']:.2f}, {each['recall']:.2f}" for each in measured)])
    floor = next(each for each in paths["edm"]["table"] if each["nfe"] == "data")
    rows.append(["training faces", *[f"{floor['frechet']:.2f}, {floor['recall']:.2f}"] * len(measured)])
    return markdown(["path", *(f"NFE {each['nfe']}" for each in measured)], rows)


def bridge_learned(title: str) -> str:
    """Returns the errors of solvers and learned tables, by path and number of evaluations."""
    [rows] = [rows for each, rows in read("phase_bridge/tables.json")["tables"].items() if each.startswith(title)]
    names = {"edm": "EDM", "bridge": "AGM-ODE"}
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("path", "best solver")))
    cells = [[names[row["path"]], *(str(row.get(key, "")) for key in columns)] for row in rows]
    return markdown(["path", *columns], cells)


TABLES: dict[str, Callable[[], str]] = {
    "gahb-study": gahb_study,
    "gahb-slopes": gahb_slopes,
    "gahb-manifolds": gahb_manifolds,
    "gahb-packaged": gahb_packaged,
    "gahb-eigenbases": gahb_eigenbases,
    "gahb-demo": gahb_demo,
    "gahb-restore": gahb_restore,
    "gahb-moments": gahb_moments,
    "diffmatch-frames": diffmatch_frames,
    "diffmatch-stages": diffmatch_stages,
    "diffmatch-calibration": diffmatch_calibration,
    "diffmatch-joint": diffmatch_joint,
    "diffmatch-twins": diffmatch_twins,
    "diffmatch-twins-corrupted": diffmatch_twins_corrupted,
    "diffmatch-corruptions": diffmatch_corruptions,
    "diffmatch-real": diffmatch_real,
    "diffmatch-layered": diffmatch_layered,
    "diffmatch-layered-sure": diffmatch_layered_sure,
    "bridge-faces": bridge_faces,
    "bridge-faces-chosen": lambda: bridge_scores("faces32_chosen", "frechet", "recall", "coverage", digits=2),
    "bridge-faces-samplers": lambda: bridge_samplers("faces32_chosen"),
    "bridge-learned-exact": lambda: bridge_learned("nine Gaussians"),
    "bridge-spiral": lambda: bridge_scores("spiral", "w2"),
    "bridge-spiral-apart": lambda: bridge_apart("spiral", "w2"),
    "bridge-spiral-more": lambda: bridge_scores("spiral", "recall", "coverage", "beyond", digits=2),
    "bridge-spiral-samplers": lambda: bridge_samplers("spiral"),
    "bridge-ode-published": lambda: bench_table("phase_bridge_solvers", "ODE, x1000: distance"),
    "bridge-ode-best": lambda: bench_table("phase_bridge_solvers", "ODE, x1000: the same"),
    "bridge-sde": lambda: bench_table("phase_bridge_solvers", "SDE"),
}


def filled(text: str) -> str:
    """Returns the text of a page with each marked table made anew."""
    return MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> None:
    """Rewrites the pages whose tables differ, and names them."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(DOCS)}\n")


if __name__ == "__main__":
    main()
