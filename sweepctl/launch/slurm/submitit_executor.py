"""All that is not submitit's public interface, in one place.

Its own `submit` takes a function and puts the function's pickle in place after sbatch has returned: a task
may have begun by then, and a launch may die in between. Our tasks run a module that reads our own records, so
that there is nothing to put in place. submitit makes the script, by

    _make_submission_file_text(command, uid)

whose signature a test holds, and pyproject.toml the versions that have it. It goes to sbatch by standard
input: a file of it in a shared folder could be another one by the time that sbatch reads it.
"""

from __future__ import annotations

from collections.abc import Mapping

from submitit.slurm.slurm import SlurmExecutor

from sweepctl.launch.slurm import commands


class CommandExecutor(SlurmExecutor):
    """submitit's executor for commands in place of functions."""

    @classmethod
    def affinity(cls) -> int:
        """Available wherever it is asked for: a dry run shows the script where there is no Slurm."""
        return 2

    def script(self, command: str) -> str:
        """The text that sbatch is given."""
        return str(self._make_submission_file_text(command, ""))

    def submit_command(self, command: str, variables: Mapping[str, str]) -> str:
        """Call sbatch once, with these variables in its environment; the array's id.

        Raises:
            SlurmError: it refused, or did not answer.
        """
        return commands.sbatch(self.script(command), variables)
