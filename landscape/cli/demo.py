"""`landscape demo`: the whole path in a minute, on the bundled digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from landscape.cli.console import print_table, progress_bar

__all__ = ["demo"]

_LEARNING_RATES = (0.01, 0.1, 0.5)
_OPTIONS: dict[str, Any] = {
    "model": "mlp",
    "data": "digits",
    "sphere": "none",
    "num_seeds": 1,
    "steps": 2700,
    "batch_size": 32,
}
# Column of the printed table -> column of `Results.table()`.
_COLUMNS = {
    "learning rate": "recipe.learning_rate",
    "test accuracy": "trained.test_accuracy",
    "train loss": "metrics.loss",
    "largest eigenvalue": "eigenvalues.largest",
    "residual": "eigenvalues.largest_residual",
    "smallest": "eigenvalues.smallest",
    "trace": "trace.value",
    "standard error": "trace.standard_error",
    "negative share": "density.negative_mass",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("demo-output"),
) -> None:
    """Train three small networks on digits, measure curvature and slices, compare and draw them."""
    from landscape import store
    from landscape.cli.plot import animate, draw
    from landscape.probing import probe, result_path
    from landscape.request import DEFAULT_PROBES, Plan
    from landscape.trainers import train

    rates = ", ".join(f"{rate:g}" for rate in _LEARNING_RATES)
    print(f"Three MLPs on scikit-learn's digits, learning rates {rates}:", flush=True)
    files = []
    with progress_bar(quiet=False) as bar:
        family = train(
            "lr-sweep",
            out,
            progress=lambda phase, done, total, _: bar.report(phase, done, total),
            learning_rates=_LEARNING_RATES,
            **_OPTIONS,
        )
        bar.finish()
        for checkpoint in family:
            print(f"  {checkpoint}", flush=True)
            probe(checkpoint, plan=Plan((*DEFAULT_PROBES, "plane")), progress=bar.report)
            bar.finish()
            files.append(result_path(checkpoint))
    table = store.open_results(files).table().sort_values("recipe.learning_rate")
    shown = table[list(_COLUMNS.values())].set_axis(list(_COLUMNS), axis=1)
    print("\nThe Hessian of the training loss at each of them:\n")
    print_table(shown)
    print("\nFigures:")
    for path in draw(files, out=out, by="recipe.learning_rate", suffix="png"):
        print(f"  {path}")
    print(f"  {animate(files, out / 'planes.gif', out=None, by='recipe.learning_rate')}")
    print(f"\nNext: landscape info {files[0]}")
