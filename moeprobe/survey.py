"""Survey: the facts of every router of a checkpoint without a text."""

from functools import partial
from pathlib import Path
from typing import Any

from moeprobe.checkpoint.headers import read_headers
from moeprobe.checkpoint.load import embedding_shape, load_model
from moeprobe.checkpoint.open import open_checkpoint
from moeprobe.errors import NotMoEError, OptionError
from moeprobe.findings.router import Router
from moeprobe.measure import refuse_dense
from moeprobe.progress import Progress
from moeprobe.routers.alone import read_alone
from moeprobe.routers.find import Site, find_sites
from moeprobe.routers.gate import Gate
from moeprobe.routers.still import read_still
from moeprobe.routers.stored import with_stored_dtypes
from moeprobe.weights_scan import scan


def routers(
    model: str | Path,
    *,
    revision: str | None = None,
    run: bool = False,
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> list[Router]:
    """Facts of every router of a checkpoint, without a text.

    By default what its files and its config say: nothing is loaded, and of a hub model only ranges are read. With
    ``run`` the whole model is loaded and each router run alone, on random input, so that its rule is measured.

    Raises:
        MoeprobeError: the checkpoint cannot be used, or none of its routers can be read in this way.

    """
    if run:
        return _measured(model, revision, dtype, device_map, trust_remote_code, progress)
    if device_map is not None or dtype != "auto":
        raise OptionError(
            "Nothing is loaded, so --dtype and --device-map have no meaning; add --run to load the model."
        )
    found = scan(model, revision=revision, bars=Progress(progress))
    if not found.routers:
        refused = found.not_checked[0]
        raise NotMoEError(
            f"No router of {model} can be read from its files ({refused.what}: {refused.why}); "
            "load the model with --run, or use analyze."
        )
    return [one.router for one in found.routers]


def _measured(
    model: str | Path,
    revision: str | None,
    dtype: str,
    device_map: str | None,
    trust_remote_code: bool,
    progress: bool,
) -> list[Router]:
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        before_weights=partial(refuse_dense, trust_remote_code=trust_remote_code),
    )
    live = load_model(
        checkpoint, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code, progress=progress
    ).model
    headers = read_headers(checkpoint.shards)
    vocabulary, hidden = embedding_shape(live)
    found, refused = [], ""
    for site in find_sites(live):
        try:
            gate = _read_without_text(site, live.config, hidden, vocabulary)
            found.append(with_stored_dtypes(gate, headers).router)
        except ValueError as error:
            refused = f"{site.path}: {error}"
    if not found:
        raise NotMoEError(f"No router of {model} can be read without a forward pass ({refused}); use analyze.")
    return found


def _read_without_text(site: Site, config: Any, hidden_size: int, vocabulary: int) -> Gate:
    """Measured alone where the router can run alone, else what its tensors and the config say."""
    try:
        return read_alone(site, config, hidden_size, vocabulary)
    except ValueError as error:
        return read_still(site, config, str(error))
