"""A shell completes commands, options, choices and files with the scripts that click generates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def complete(*words: str, shell: str = "bash") -> list[str]:
    """Return the completions of the last word as the shell receives them: `type,value` in bash."""
    line = ["twincar-edge", *words]
    environment = {"COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(words)), "PATH": os.environ["PATH"]}
    environment |= {"_TWINCAR_EDGE_COMPLETE": f"{shell}_complete", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-m", "twincar_edge"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wat",), ["plain,watch"]),
        (("watch", "--conf"), ["plain,--config"]),
        (("watch", "--locate", "mot"), ["plain,motion"]),
        (("watch", "--config", ""), ["file,"]),
        (("watch", "cam"), ["file,cam"]),
        (("watch", "--store", "ev"), ["file,ev"]),
        (("classify", "car"), ["file,car"]),
        (("export", "runs/"), ["file,runs/"]),
        (("evaluate", "--checkpoint", "b"), ["file,b"]),
        (("train", "--recipe", "lite0-t"), ["plain,lite0-twins"]),
        (("train", "--recipe", "mine.t"), ["file,mine.t"]),
        (("events", "exp"), ["plain,export"]),
    ],
)
def test_completion_offers_commands_options_choices_and_files(words: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_every_command_is_offered_without_importing_any() -> None:
    program = (
        "import sys\nfrom twincar_edge import cli\n"
        "items = cli.group.shell_complete(cli.click.Context(cli.group), '')\n"
        "assert [item.value for item in items] == list(cli.COMMANDS)\n"
        "assert items[0].help == cli.COMMANDS['demo']\n"
        "print([name for name in sys.modules if name.startswith('twincar_edge.cli.') and name[17:] in cli.COMMANDS])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_script_for_bash_completes_in_bash(tmp_path: Path) -> None:
    """Run the script as ~/.bashrc does, then the function for TAB; `compopt` only works in a real completion."""
    program = tmp_path / "twincar-edge"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m twincar_edge "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_TWINCAR_EDGE_COMPLETE=bash_source twincar-edge)"\n'
        "compopt() { echo compopt $*; }\n"
        'COMP_WORDS=(twincar-edge watch "$1") COMP_CWORD=2\n'
        "_twincar_edge_completion twincar-edge\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    for typed, expected in {"--webh": "--webhook\n", "clip": "compopt -o default\n\n"}.items():
        done = subprocess.run(
            ["bash", "-c", script, "bash", typed],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_a_script(shell: str) -> None:
    environment = os.environ | {"_TWINCAR_EDGE_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-m", "twincar_edge"], env=environment, capture_output=True, text=True, check=True
    )
    assert f"_TWINCAR_EDGE_COMPLETE={shell}_complete" in done.stdout
