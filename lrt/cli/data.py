"""`lrt data check`, `lrt data overlap`, `lrt data sample`."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import Aspect, plainly, printable, say

app = typer.Typer(help="The benchmarks' own files: `lrt data check NAME PATH`.", no_args_is_help=True)

DATA = "imagereward, hpdv2, rapidata, pickapic or folder."


@app.command("check")
@plainly
def data_check(
    name: Annotated[str, typer.Argument(help=DATA)],
    path: Annotated[Path, typer.Argument(help="A label file, a Parquet shard, or a folder of shards.")],
    images: Annotated[Path | None, typer.Option(help="The folder that the labels' file names start from.")] = None,
    labels_only: Annotated[bool, typer.Option(help="Do not look at images, even where they are inside.")] = False,
    decode: Annotated[bool, typer.Option(help="Decode each image, or only look whether it is there.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    aspect: Aspect = None,
    picture: Annotated[Path | None, typer.Option(help="Draw a few pairs to this PNG file.")] = None,
):
    """What is there: prompts, images, pairs, ties, what is missing or broken, and how well "always 1" does.

    Exit code 1 if an image or a row cannot be read, or nothing is there.
    """
    from lrt.real import datacheck

    found = datacheck.check(name, path, images, labels_only, decode, limit, aspect=aspect)
    say(datacheck.told(found))
    if picture is not None:
        if found.examples:
            datacheck.draw(found, picture)
            say(f"picture: {picture}")
        else:
            say("no picture: no images were read")
    raise typer.Exit(0 if found.clean else 1)


@app.command("overlap")
@plainly
def data_overlap(
    train: Annotated[str, typer.Argument(help=DATA)],
    train_path: Annotated[Path, typer.Argument(help="What is trained on.")],
    test: Annotated[str, typer.Argument(help=DATA)],
    test_path: Annotated[Path, typer.Argument(help="What is tested on.")],
    train_images: Annotated[Path | None, typer.Option(help="The folder of the training set's images.")] = None,
    test_images: Annotated[Path | None, typer.Option(help="The folder of the test set's images.")] = None,
    train_aspect: Aspect = None,
    test_aspect: Aspect = None,
    prompts_only: Annotated[bool, typer.Option(help="Compare prompts, not images.")] = False,
):
    """Which prompts and images of a test set are in a training set: the same, and images that look the same."""
    from lrt.real import overlap, sources

    found, bad = [], []
    sets = ((train, train_path, train_images, train_aspect), (test, test_path, test_images, test_aspect))
    for name, path, images, aspect in sets:
        rows = sources.rows(name, path, images, labels_only=prompts_only, decode=False, bad=bad, aspect=aspect)
        found.append(overlap.prints(rows))
    say(overlap.told(overlap.overlap(*found)))
    if bad:
        typer.echo(f"left out {len(bad)} pairs or rows; the first: {printable(str(bad[0]))}", err=True)


@app.command("sample")
@plainly
def data_sample(
    out: Annotated[Path | None, typer.Option(help="The folder. Default: data/samples.")] = None,
):
    """Write a tiny sample in each benchmark's format, drawn by the tiny world."""
    from lrt.real.samples import write_samples

    written = write_samples(out)
    say(f"{len(written)} files, {sum(path.stat().st_size for path in written):,} bytes")
