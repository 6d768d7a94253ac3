"""The table of a folder of benchmark files."""

import json
from pathlib import Path


def speed(folder: Path) -> str:
    """A row for every JSON file that benchmark/run.py wrote; a step is one seed's.

    Torch.compile has a column where it was timed.
    """
    paths = sorted(folder.glob("*.json"))
    numbers = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    compiled = any(n.get("compiled_ratio") is not None for n in numbers)
    names = "method", "net", "seeds", "ms a step", "examples/s", "compile s", "of ceiling"
    names += ("ours / PyTorch", *["ours / torch.compile"] * compiled)
    rows = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    for n in numbers:
        net, ms, rate = n["net"]["net"], 1e3 * n["seconds_per_step"], n["examples_per_second"]
        top = n["products_fraction" if net == "mlp" else "convolution_fraction"]
        ratios = [n.get("ratio"), *[n.get("compiled_ratio")] * compiled]
        beside = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        rows.append(
            f"| {n['method']} | {net} | {n.get('seeds', 1)} | {ms:.3g} | {rate:,.0f} "
            f"| {n['compile_seconds']:.0f} | {top:.2f} | {beside} |"
        )
    return "\n".join(rows)
