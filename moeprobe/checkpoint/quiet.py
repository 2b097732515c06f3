"""Keep transformers' log lines, warnings and progress bars off the user's terminal while something loads."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers(*, progress: bool = False) -> Iterator[list[str]]:
    """Silence transformers and restore its settings afterwards; ``progress`` lets its bars through.

    Yields the list that fills with what it would have logged (warnings and errors).
    """
    from transformers.utils import logging as hf_logging

    logger = hf_logging.get_logger("transformers")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    bars = hf_logging.is_progress_bar_enabled() and not progress
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.handlers, logger.propagate = [_Keeper(said)], False
        logger.setLevel(logging.WARNING)
        if bars:
            hf_logging.disable_progress_bar()
        try:
            yield said
        finally:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
            if bars:
                hf_logging.enable_progress_bar()


class _Keeper(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
