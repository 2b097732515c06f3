"""Everything that moeprobe refuses, as one tree.

    MoeprobeError                 base; the command line prints its sentence and exits with 2
    |-- OptionError               an unknown or contradictory option, detector, recipe or limit
    |-- BaselineError             a baseline that cannot be compared with this analysis
    |-- CheckpointError           the folder or hub id cannot be used
    |   |-- NotFoundError         no such path or hub id, or the hub cannot be reached
    |   |-- IncompleteError       no config, no weights, a missing shard, a truncated file, no tokenizer
    |   |-- UnsafeError           pickle weights, or code that the checkpoint wants to run
    |   |-- StreamError           it cannot be read layer by layer, or not within the memory
    |   `-- NotMoEError           a dense model, or a model type in which no router was found
    |-- ComparisonError           two models, or what was saved of them, cannot be compared
    |-- ProbeError                the probe texts cannot be read or are empty
    |-- RecordingError            a recording was used wrongly (nested, or read before it ended)
    |-- ResumeError               kept progress that belongs to another analysis, or is damaged
    |-- ParallelError             processes that cannot make one result together, or one of them failed
    `-- OutputError               the report, or the progress, cannot be written

Every message is one sentence (or two) that says what is wrong and what to do about it.
"""

EXIT_CLEAN = 0
"""The command did what was asked; for a check: nothing was found."""
EXIT_FINDINGS = 1
"""A check found something at or above its bar. Nothing else exits with 1."""
EXIT_NOT_CHECKED = 2
"""Bad input, nothing checked, interrupted, or a crash: the answer is not known."""


class MoeprobeError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code = EXIT_NOT_CHECKED


class OptionError(MoeprobeError):
    """An option, detector, recipe or limit that does not exist or contradicts another."""


class BaselineError(MoeprobeError):
    """The baseline was measured in another way, or on another kind of model."""


class CheckpointError(MoeprobeError):
    """The checkpoint cannot be used."""


class NotFoundError(CheckpointError):
    """No such path or hub id, or the hub cannot be reached."""


class IncompleteError(CheckpointError):
    """A part of the checkpoint is missing or damaged."""


class UnsafeError(CheckpointError):
    """Reading the checkpoint would execute code that came with it."""


class StreamError(CheckpointError):
    """The checkpoint cannot be probed layer by layer: its layers cannot be told apart, or one is too large."""


class NotMoEError(CheckpointError):
    """The model has no routers that moeprobe can find."""


class ComparisonError(MoeprobeError):
    """Two models, or what was saved of them, cannot be compared."""


class ProbeError(MoeprobeError):
    """The probe texts cannot be read, or hold nothing."""


class RecordingError(MoeprobeError):
    """A recording was used in a way that cannot give true records."""


class ResumeError(MoeprobeError):
    """The progress that was kept belongs to another analysis, or cannot be read."""


class ParallelError(MoeprobeError):
    """Processes that cannot make one result together, or one of them failed."""


class OutputError(MoeprobeError):
    """The output folder or file cannot be written."""
