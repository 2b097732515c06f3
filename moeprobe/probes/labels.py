"""Labels of a folder of probe texts: language and task of its sources and files, from moeprobe-labels.json.

    {"german": {"language": "german"}, "german/04.txt": {"task": "story"}}

A file's own labels win over those of its source. What is not labelled is left out of the question about that label.
"""

from moeprobe.errors import ProbeError
from moeprobe.json_source import JsonError, parse_json

LABEL_FILE = "moeprobe-labels.json"
KINDS = ("language", "task")


def read_labels(text: str, where: str, known: set[str]) -> dict[str, dict[str, str]]:
    """The labels by source and by file.

    Args:
        text: of the file.
        where: its path, for messages.
        known: the sources and files that there are.

    Raises:
        ProbeError: it is not JSON of that form, or names what is not there.

    """
    try:
        data = parse_json(text)
    except JsonError as error:
        raise ProbeError(f"{where} cannot be used: {error}; it maps sources and files to their labels.") from error
    if not isinstance(data, dict):
        raise ProbeError(f'{where} must be an object such as {{"german": {{"language": "german"}}}}.')
    for name, labels in data.items():
        if name not in known:
            raise ProbeError(f"{where} labels {name!r}, and there is no such source or file in its folder.")
        if not isinstance(labels, dict) or not all(k in KINDS and isinstance(v, str) for k, v in labels.items()):
            raise ProbeError(f"{where}: the labels of {name!r} must be an object with texts for language or task.")
    return data
