"""``fastipam map``: draw a pool as a Hilbert curve, into a file or on the terminal."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastipam import files
from fastipam.addressing.addresses import BITS
from fastipam.cli import options, rows
from fastipam.cli import output as output_
from fastipam.cli.click_base import command as _command
from fastipam.errors import ConfigError, StoreError
from fastipam.ipam import open_with
from fastipam.sweep import finish_reboot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastipam.ipam import Ipam
    from fastipam.picture.cells import Panel, Picture
    from fastipam.picture.layers import Layer

    Drawn = tuple[Picture, Layer | None]

_PARTS_BITS = 4  # without --prefix --json has 16 rows a subnet
_MOST_ROWS_BITS = 16


@_command(
    "map",
    examples=(
        ("fastipam map", "the pools of this node, on the terminal"),
        ("fastipam map -o map.png", "one pixel an address, with captions and legend"),
        ("fastipam map -o map.png --by owner", "coloured by the pods' namespaces"),
        ("fastipam map --json --prefix 24", "the same in numbers, a row a /24"),
    ),
)
@options.data_dir
@options.network()
@click.option(
    "-o",
    "--output",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE.png",
    help="Write a PNG, one pixel an address up to a /12. Without: draw on the terminal.",
)
@click.option(
    "--by",
    type=click.Choice(["state", "owner", "age", "block"]),
    default="state",
    show_default=True,
    help="What colours an assigned address: its state, its pod's namespace, how long ago it was "
    "assigned, the block of the cluster that it is in.",
)
@click.option("--bare", is_flag=True, help="PNG: only the pixels, no legend, no captions, no gaps.")
@click.option("--prefix", type=int, metavar="LENGTH", help="--json: a row for each such CIDR.")
@options.as_json
def command(
    data_dir: str,
    network: str | None,
    output: Path | None,
    by: str,
    bare: bool,
    prefix: int | None,
    as_json: bool,
) -> None:
    """Draw the addresses of a pool, in the order of a Hilbert curve.

    Neighbouring addresses are neighbours in the picture, and every CIDR is a square, or two side by
    side. What is drawn is one moment.
    """
    for option, given, where in (
        ("--bare", bare, output is not None),
        ("--prefix", prefix is not None, as_json),
        ("--json", as_json, output is None),
    ):
        if given and not where:
            wanted = {"--bare": "-o FILE.png", "--prefix": "--json", "--json": "no -o"}[option]
            raise click.UsageError(f"{option} goes with {wanted}")
    if output is not None and output.suffix.lower() != ".png":
        raise ConfigError(
            f"{output}: the name does not end in .png, the one format that map writes",
            field="--output",
            value=str(output),
            hint=f"name it {output}.png",
        )
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        with suppress(StoreError):  # a store that cannot be written can be drawn all the same
            finish_reboot(ipam)
        names = _names(ipam, network, one=output is not None)
        if as_json:
            output_.json_array(_counts(ipam, names, prefix))
        elif not names:
            output_.note("no network yet: the first ADD makes one")
        elif output is not None:
            _write(_read(ipam, names[0], by, None), output, bare=bare)
        else:
            _show(ipam, names, by)


def _names(ipam: Ipam, network: str | None, *, one: bool) -> list[str]:
    """Return the networks to draw. Raises ConfigError."""
    names = rows.names(ipam, network)
    if one and len(names) != 1:
        message = f"the store {ipam.path} has {len(names)} networks, a file shows one"
        hint = f"name one: it has {', '.join(names) or 'none'}"
        raise ConfigError(message, field="--network", value=None, hint=hint)
    return names


def _read(ipam: Ipam, name: str, by: str, max_bits: int | None) -> Drawn:
    from fastipam.picture import cells, layers

    with ipam.store.read() as txn:
        picture = cells.read(txn, name, max_bits or cells.PICTURE_BITS)
        if picture is None or not picture.panels:
            raise ConfigError(
                f"the ranges of network {name} are not known", field="--network", value=name
            )
        layer = None if by == layers.STATE else layers.read(txn, picture, by)
    return picture, layer


def _write(drawn: Drawn, output: Path, *, bare: bool) -> None:
    from fastipam.picture import png

    picture, layer = drawn
    if bare and len(picture.panels) != 1:
        raise ConfigError(
            f"network {picture.network} has {len(picture.panels)} subnets to draw, not one",
            field="--bare",
            value=picture.network,
            hint="leave --bare out: then they are below each other",
        )
    if bare:
        image = png.bare(picture.panels[0], layer, layer.values[0] if layer else None)
    else:
        image = png.render(picture, layer)
    with (
        files.replacing(output, 0o666) as descriptor,
        open(descriptor, "wb", closefd=False) as file,
    ):
        image.save(file, format="PNG")
    click.echo(f"wrote {output}: {image.width} x {image.height} pixels")


def _show(ipam: Ipam, names: list[str], by: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from fastipam.picture import text

    console = Console(highlight=False)
    # Eight colours are too few for the states; NO_COLOR asks for none.
    colours = console.color_system in ("256", "truecolor")
    coloured = colours and console.is_terminal and not console.no_color
    bits = text.fitting_bits(console.width, max(8, console.height - 8)) if coloured else 12
    for number, name in enumerate(names):
        picture, layer = _read(ipam, name, by, bits)
        values = layer.values if layer else [None] * len(picture.panels)
        if number:
            click.echo()
        for panel, its_values in zip(picture.panels, values, strict=True):
            _heading(picture, panel)
            if coloured:
                console.print(text.Blocks(panel, layer, its_values))
            else:
                for line in text.plain_lines(panel):
                    click.echo(line)
        if coloured:
            key = Text()
            for colour, label, count in text.legend(picture, layer):
                if colour:
                    key.append("■ ", style=colour)
                key.append(f"{label} " + ("" if count is None else f"{count:,} ") + "  ")
            console.print(key)
        else:
            shared = text.is_shared(picture)
            click.echo(text.PLAIN_KEY_OF_A_CLUSTER if shared else text.PLAIN_KEY)
        for line in text.counted(picture):
            click.echo(line)


def _heading(picture: Picture, panel: Panel) -> None:
    frame = panel.frame
    each = "" if not frame.shift else f", a cell is {1 << frame.shift:,} addresses"
    part = "" if frame.cidr == frame.subnet else f" of {frame.subnet}"
    click.echo(f"{picture.network}: {frame.cidr}{part}{each}")


def _counts(ipam: Ipam, names: list[str], prefix: int | None) -> Iterator[dict[str, Any]]:
    """Yield a row a CIDR with the number of its addresses in each state."""
    from fastipam.picture.cells import STATES

    for name in names:
        picture, _ = _read(ipam, name, "state", None)
        for panel in picture.panels:
            frame = panel.frame
            length = BITS[frame.family] - frame.bits
            bits = min(_PARTS_BITS, frame.cell_bits) if prefix is None else prefix - length
            if not 0 <= bits <= min(frame.cell_bits, _MOST_ROWS_BITS):
                most = length + min(frame.cell_bits, _MOST_ROWS_BITS)
                raise ConfigError(
                    f"/{prefix} does not cut {frame.cidr} into 1 to {1 << _MOST_ROWS_BITS} rows",
                    field="--prefix",
                    value=prefix,
                    hint=f"choose {length} to {most}",
                )
            for part, counts in enumerate(panel.tally(bits).tolist()):
                yield {
                    "network": name,
                    "cidr": frame.part(part, bits),
                    "size": 1 << frame.bits - bits,
                    **dict(zip(STATES, counts, strict=True)),
                }
