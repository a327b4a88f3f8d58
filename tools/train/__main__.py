"""Train, measure and describe source models: ``python -m tools.train VERB --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

if not __package__:  # as ``python tools/train``
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import click
import typer
from tqdm import tqdm

from napari_grata.adaptation.source_centre import calibrate
from napari_grata.scans import open_scan
from napari_grata.segmenters import find_model, load_card, load_segmenter, write_card
from napari_grata.segmenters.extent import measure_extents
from tools.train.data import find_cases, labelled_scans, split_cases
from tools.train.evaluate import evaluate, write_steadiness
from tools.train.loop import Progress, train
from tools.train.recipes import RECIPES, home_scans

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

Data = Annotated[Path, typer.Argument(help="folder of the labelled scans, or of the centre")]
Model = Annotated[str, typer.Argument(help="name of a bundled model, or a model folder")]
Device = Annotated[str, typer.Option(help="cpu, cuda:0, ...; auto takes the best")]
Seed = Annotated[int, typer.Option(help="seed of the training, which decides the split")]


@app.command()
def model(
    recipe: Annotated[str, typer.Argument(help=f"one of {', '.join(RECIPES)}")],
    data: Data,
    out: Annotated[Path, typer.Argument(help="folder of the model")],
    epochs: Annotated[int | None, typer.Option(help="other than the recipe's number")] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint")] = False,
    device: Device = "auto",
) -> None:
    """Train a bundled model again, seeded and resumable; its figures go into its card."""
    with tqdm(desc="train", unit="epoch") as bar:

        def show(state: Progress) -> None:
            bar.total = state.total
            bar.set_postfix_str(state.message, refresh=False)
            bar.update(state.done - bar.n)

        folder = train(
            recipe,
            data,
            out,
            epochs=epochs,
            seed=seed,
            resume=resume,
            progress=show,
            device=device,
        )
    for row in load_card(folder).results:
        typer.echo(", ".join(f"{key} {value}" for key, value in row.items()))


@app.command("evaluate")
def evaluate_command(
    model: Model,
    data: Data,
    centre: Annotated[str | None, typer.Option(help="another centre, measured whole")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Measure Dice on the held-out cases of the model's recipe, or on another centre."""
    for row in evaluate(_folder(model), data, centre=centre, seed=seed, device=device):
        typer.echo(
            f"{row['structure']:>14}  Dice {row['dice_mean']:.2f}, worst tenth "
            f"{row['dice_worst_tenth']:.2f}, n = {row['n']} {row['unit']}"
        )


@app.command()
def extent(
    model: Model,
    data: Data,
    hint: Annotated[str, typer.Option(help="what to do where a structure is otherwise")] = "",
    seed: Seed = 0,
) -> None:
    """Measure the structures' extent, place, shape and steadiness in training; into the card.

    Takes the training cases of a bundled model's recipe; for any other model, images/ and masks/
    of the folder, with the values of its card in the masks.
    """
    folder = _folder(model)
    card = load_card(folder)
    labels = {0: 0, **{structure.value: structure.value for structure in card.structures}}
    if card.name in RECIPES:
        recipe = RECIPES[card.name]
        cases = find_cases(data, recipe.folder)
        cases = split_cases(cases, recipe.hold_out, block=recipe.block, seed=seed)[0]
        labels, hint = recipe.labels, hint or recipe.hint
    else:
        cases = find_cases(data, "")
    extents = measure_extents(card, labelled_scans(cases, labels), hint)
    write_card(folder, replace(card, extents=extents))
    write_steadiness(folder, cases)
    for each in extents:
        typer.echo(f"{each.structure}: {each.cases} cases")
    typer.echo(f"written to {folder}")


@app.command()
def shift(
    model: Model,
    data: Data,
    least: Annotated[int, typer.Option(help="held-out cases below which all are taken")] = 10,
    device: Device = "cpu",
) -> None:
    """Measure how far the source centre's scans lie from the model, and write it in its card."""
    folder = _folder(model)
    segmenter = load_segmenter(folder, device=device)
    paths, seen, on = home_scans(segmenter.card.name, data, least)
    reference = calibrate(
        segmenter,
        (open_scan(path) for path in paths),
        on=on,
        command=f"python -m tools.train shift {segmenter.card.name} DATA",
        seen=seen,
        progress=lambda text: typer.echo(text, err=True),
    )
    write_card(folder, replace(load_card(folder), shift=reference))
    typer.echo(f"{reference.scans} scans ({on}): edge {reference.edge:.3f}; written to {folder}")


def _folder(model: str) -> Path:
    given = Path(model)
    return given if (given / "card.yaml").is_file() else find_model(model).folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code, 2 where its sentence says what was wrong."""
    try:
        app(None if arguments is None else list(arguments), standalone_mode=False)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
