"""The command ``fastipam help``."""

from __future__ import annotations

import click

from fastipam.cli import output
from fastipam.cli.click_base import command as _command
from fastipam.cli.topics import TOPICS, Topic, documents


@_command(
    "help",
    examples=(
        ("fastipam help", "the commands and the topics"),
        ("fastipam help list", "what `fastipam list --help` prints"),
        ("fastipam help cluster init", "a command of a group"),
        ("fastipam help states", "what ASSIGNED, COOLING, RESERVED and FREE mean"),
    ),
)
@click.argument("topic", nargs=-1)
@click.pass_context
def command(ctx: click.Context, topic: tuple[str, ...]) -> None:
    """Print the help of a command, or explain a topic: states, times, files and so on."""
    root = ctx.find_root()
    if not topic:
        output.say(root.get_help())
        output.say("\nTopics:")
        width = max(map(len, TOPICS))
        for name, one in TOPICS.items():
            output.say(f"  {name:<{width}}  {one.summary}")
    elif topic[0] in TOPICS and len(topic) == 1:
        output.say(_text(ctx, topic[0], TOPICS[topic[0]]))
    else:
        output.say(_help_of(root, topic))


def _help_of(root: click.Context, words: tuple[str, ...]) -> str:
    """Return the help of the command that the words name. Raises click's usage error."""
    context = root
    for number, word in enumerate(words):
        group = context.command
        known = group.list_commands(context) if isinstance(group, click.Group) else []
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            raise _unknown(words[: number + 1], [*known, *([] if number else TOPICS)])
        context = click.Context(found, context, word)
        context.max_content_width = root.max_content_width
        context.help_option_names = root.help_option_names
    return context.get_help()


def _unknown(words: tuple[str, ...], known: list[str]) -> click.UsageError:
    from difflib import get_close_matches

    close = get_close_matches(words[-1], known, 3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`fastipam help` lists all topics"
    return click.UsageError(f"{' '.join(words)!r} is not a command or a topic; {hint}")


def _text(ctx: click.Context, name: str, topic: Topic) -> str:
    """Return the text of a topic: its terms, related commands, and where the documents are."""
    formatter = ctx.make_formatter()
    formatter.write(f"{name}: {topic.summary}\n\n")
    with formatter.indentation():
        formatter.write_dl(topic.terms)
    with formatter.section("See also"):
        for one in topic.commands:
            formatter.write(f"  fastipam {one}\n")
        if documents():
            formatter.write(f"  {documents()}\n")
    return formatter.getvalue().rstrip("\n")
