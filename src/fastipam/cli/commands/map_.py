"""The command ``fastipam map``: draw a pool as a Hilbert curve, into a file or on the terminal."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastipam import files
from fastipam.addressing.addresses import BITS
from fastipam.addressing.sizes import grouped
from fastipam.cli import layout, options, rows
from fastipam.cli import output as output_
from fastipam.cli.click_base import command as _command
from fastipam.errors import ConfigError, StoreError
from fastipam.ipam import open_with
from fastipam.sweep import finish_reboot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from fastipam.ipam import Ipam
    from fastipam.picture.cells import Panel, Picture
    from fastipam.picture.layers import Layer

    Drawn = tuple[Picture, Layer | None]

_PARTS_BITS = 4  # --json without --prefix prints 2**4 rows for each subnet
_MOST_ROWS_BITS = 16
_PLAIN_BITS = 12  # a picture in characters has 2**12 cells: 64 x 64
_PNG, _TXT = ".png", ".txt"


@_command(
    "map",
    examples=(
        ("fastipam map", "the pools of this node, on the terminal"),
        ("fastipam map -o map.png", "one pixel per address, with captions and legend"),
        ("fastipam map -o map.txt", "every network in characters, as a pipe gets it"),
        ("fastipam map -o map.png --by owner", "coloured by the pods' namespaces"),
        ("fastipam map --json --prefix 24", "the same in numbers, one row per /24"),
    ),
)
@options.data_dir
@options.network()
@click.option(
    "-o",
    "--output",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="Write FILE.png, one pixel per address up to a /12, or FILE.txt, one character per cell. "
    "Without: draw on the terminal.",
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
@click.option(
    "--prefix", type=int, metavar="LENGTH", help="With --json: a row per CIDR of this length."
)
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
    """Draw the addresses of a pool along a Hilbert curve.

    Neighbouring addresses are neighbours in the picture, and every CIDR is a square, or two side by
    side. A PNG is cut into tiles, which are in the order of their addresses; --bare is one curve.
    The picture shows the store at one moment.
    """
    kind = "" if output is None else _kind(output)
    for option, given, where in (
        ("--bare", bare, kind == _PNG),
        ("--prefix", prefix is not None, as_json),
        ("--json", as_json, output is None),
    ):
        if given and not where:
            wanted = {"--bare": "-o FILE.png", "--prefix": "--json", "--json": "no -o"}[option]
            raise click.UsageError(f"{option} needs {wanted}")
    with open_with(data_dir, create=False, count_boot=False) as ipam:
        with suppress(StoreError):  # a store that cannot be written can still be drawn
            finish_reboot(ipam)
        names = _names(ipam, network, one=kind == _PNG)
        if as_json:
            output_.json_array(_counts(ipam, names, prefix))
        elif not names:
            output_.note("no network yet: the first ADD creates one")
        elif output is not None and kind == _TXT:
            _write_text(ipam, names, by, output)
        elif output is not None:
            _write(_read(ipam, names[0], by, None), output, bare=bare)
        else:
            _show(ipam, names, by)


def _kind(output: Path) -> str:
    """Return the format of an output file, by the ending of its name. Raises ConfigError."""
    kind = output.suffix.lower()
    if kind not in (_PNG, _TXT):
        ends = f"ends in {output.suffix}" if output.suffix else "has no ending"
        raise ConfigError(
            f"{output}: the name {ends}, but map writes .png or .txt",
            field="--output",
            value=str(output),
            hint=f"-o {output.with_suffix(_PNG)}",
        )
    return kind


def _names(ipam: Ipam, network: str | None, *, one: bool) -> list[str]:
    """Return the networks to draw. Raises ConfigError."""
    names = rows.names(ipam, network)
    if one and len(names) != 1:
        message = f"the store {ipam.path} has {len(names)} networks, but a file shows one"
        hint = f"type --network NAME; the networks are {', '.join(names) or 'none'}"
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
            hint="leave --bare out to draw them below each other",
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


def _write_text(ipam: Ipam, names: list[str], by: str, output: Path) -> None:
    _warn_of_characters(by)
    lines = [line for name in names for line in (*_plain(ipam, name), "")]
    text = "\n".join(lines[:-1]) + "\n"
    with (
        files.replacing(output, 0o666) as descriptor,
        open(descriptor, "wb", closefd=False) as file,
    ):
        file.write(text.encode())
    click.echo(f"wrote {output}: {output_.counted(len(lines) - 1, 'line')}")


def _show(ipam: Ipam, names: list[str], by: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # Eight colours are too few for the states; NO_COLOR switches colours off.
    colours = console.color_system in ("256", "truecolor")
    coloured = colours and console.is_terminal and not console.no_color
    if not coloured:
        _warn_of_characters(by)
    for number, name in enumerate(names):
        if number:
            click.echo()
        if coloured:
            _show_coloured(console, ipam, name, by)
        else:
            for line in _plain(ipam, name, output_.width_of(wide=False)):
                click.echo(line)


def _warn_of_characters(by: str) -> None:
    if by != "state":
        output_.note(
            f"--by {by} needs a PNG or a terminal with colours; characters show states only"
        )


def _plain(ipam: Ipam, name: str, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a picture in characters, which show states, up to ``width`` wide."""
    from fastipam.picture import text

    bits = _PLAIN_BITS if width is None or width >= 1 << _PLAIN_BITS // 2 else _PLAIN_BITS - 2
    picture, _ = _read(ipam, name, "state", bits)
    for panel in picture.panels:
        yield from layout.wrapped(_heading(picture, panel), width)
        yield from text.plain_lines(panel)
    key = text.PLAIN_KEY_OF_A_CLUSTER if text.is_shared(picture) else text.PLAIN_KEY
    yield from key.splitlines()
    for ranges, counts in text.counted(picture):
        yield from _counted(ranges, counts, width)


def _show_coloured(console: Console, ipam: Ipam, name: str, by: str) -> None:
    """Draw a picture in half-block characters, and a legend whose labels are never wrapped."""
    from rich.text import Text

    from fastipam.picture import text

    bits = text.fitting_bits(console.width, max(8, console.height - 8))
    picture, layer = _read(ipam, name, by, bits)
    values = layer.values if layer else [None] * len(picture.panels)
    for panel, its_values in zip(picture.panels, values, strict=True):
        for line in layout.wrapped(_heading(picture, panel), console.width):
            click.echo(line)
        console.print(text.Blocks(panel, layer, its_values))
    key = Text()
    room = console.width
    for colour, label, count in text.legend(picture, layer):
        words = layout.cut(label, console.width - 16) + ("" if count is None else f" {count:,}")
        taken = len(words) + (2 if colour else 0)
        if taken > room:
            key.append("\n")
            room = console.width
        if colour:
            key.append("■ ", style=colour)
        key.append(words)
        room -= taken + 3
        if room > 0:
            key.append("   "[: room + 3])
    console.print(key)
    for ranges, counts in text.counted(picture, grouped):
        for line in _counted(ranges, counts, console.width):
            click.echo(line)


def _counted(ranges: str, counts: str, width: int | None) -> list[str]:
    """Return the lines with the number of a range set's addresses in each state."""
    whole = f"{ranges}: {counts}"
    if width is None or len(whole) <= width:
        return [whole]
    return [
        *layout.wrapped(f"{ranges}:", width),
        *layout.wrapped(counts, width, before="  "),
    ]


def _heading(picture: Picture, panel: Panel) -> str:
    frame = panel.frame
    each = "" if not frame.shift else f", a cell is {1 << frame.shift:,} addresses"
    part = "" if frame.cidr == frame.subnet else f" of {frame.subnet}"
    return f"{picture.network}: {frame.cidr}{part}{each}"


def _counts(ipam: Ipam, names: list[str], prefix: int | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each CIDR with the number of its addresses in each state."""
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
                    f"/{prefix} is not a valid prefix length for the rows of {frame.cidr}",
                    field="--prefix",
                    value=prefix,
                    hint=f"type a length from {length} to {most}",
                )
            for part, counts in enumerate(panel.tally(bits).tolist()):
                yield {
                    "network": name,
                    "cidr": frame.part(part, bits),
                    "size": 1 << frame.bits - bits,
                    **dict(zip(STATES, counts, strict=True)),
                }
