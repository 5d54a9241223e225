"""All that is not submitit's public interface, in one place.

Its own `submit` takes a function and puts the function's pickle in place after sbatch has returned: a task
may have begun by then, and a launch may die in between. Our tasks run a module that reads our own records, so
that there is nothing to put in place. To submit a command submitit has only

    _make_submission_file_text(command, uid)    the script, also for whoever only wants to see it
    _submit_command(command)                    the script written, sbatch called, the array's id read

A test holds their signatures, and pyproject.toml the versions that have them.
"""

from __future__ import annotations

from submitit.slurm.slurm import SlurmExecutor


class CommandExecutor(SlurmExecutor):
    """submitit's executor for commands in place of functions."""

    @classmethod
    def affinity(cls) -> int:
        """Available wherever it is asked for: a dry run shows the script where there is no Slurm."""
        return 2

    def script(self, command: str) -> str:
        """The text that sbatch is given."""
        return str(self._make_submission_file_text(command, ""))

    def submit_command(self, command: str) -> str:
        """Call sbatch once; the array's id.

        Raises:
            FailedJobError, FailedSubmissionError: it refused.
            FileNotFoundError: there is no sbatch.
        """
        return str(self._submit_command(command).job_id)
