"""The command ``fastipam completion``."""

from __future__ import annotations

import click

from fastipam.cli import output
from fastipam.cli.click_base import command as _command

# zsh runs the end of an autoloaded file only once. So click's own script would complete at the
# first Tab, complete nothing at the second, at which it registers itself, and work from the third
# on. This line makes it register itself at the first Tab.
_AUTOLOADED = '    _fastipam_completion "$@"\n'
_REGISTER = "    compdef _fastipam_completion fastipam\n"


@_command(
    "completion",
    examples=(
        ("fastipam completion bash > /etc/bash_completion.d/fastipam", "bash, for everybody"),
        ("fastipam completion zsh > /usr/share/zsh/site-functions/_fastipam", "zsh"),
        ("fastipam completion fish > ~/.config/fish/completions/fastipam.fish", "fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell: commands, options, names of networks."""
    from click.shell_completion import get_completion_class

    from fastipam.cli.commands import cli

    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "fastipam", "_FASTIPAM_COMPLETE").source()
    output.say(script.replace(_AUTOLOADED, _REGISTER + _AUTOLOADED))
