"""Read a router's facts without a forward pass of the model: run it alone, on random input."""

import inspect
from typing import Any

import torch

from moeprobe.routers.arithmetic import quietly
from moeprobe.routers.call import RouterCall
from moeprobe.routers.find import Site
from moeprobe.routers.gate import Gate
from moeprobe.routers.read import read_gate
from moeprobe.routers.routing import read_output

_TOKENS = 1024


def read_alone(site: Site, config: Any, hidden_size: int, vocabulary: int) -> Gate:
    """Facts and tensors of the router at ``site``, fitted to what it returns for random input.

    The input is Gaussian with unit RMS, like the output of the norm that stands before a router. What only the
    rest of the model can show (output factor, the norm's weight, verification) stays unknown.

    Args:
        site: where the router stands; its parameters must be loaded.
        config: the model's config.
        hidden_size: width of the router's input.
        vocabulary: number of token ids, for hash routers.

    Raises:
        ValueError: the router cannot be run alone; the message says why.

    """
    parameter = next(site.router.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_TOKENS, hidden_size, generator=generator).to(parameter.device, parameter.dtype)
    kwargs: dict[str, Any] = {}
    wanted = inspect.signature(site.router.forward).parameters
    if "input_ids" in wanted:
        ids = torch.randint(0, vocabulary, (1, _TOKENS), generator=generator)
        kwargs["input_ids"] = ids.to(parameter.device)
    try:
        with torch.no_grad():
            output = quietly(site.router, (inputs,), kwargs)
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"it cannot be run on its own ({type(error).__name__})") from error
    if site.reader is not None:
        returned = site.reader.read(site.router, (inputs,), kwargs, output)
    else:
        returned = read_output(output, site.logits_index, _TOKENS)
    call = RouterCall(args=(inputs,), kwargs=kwargs, inputs=inputs, returned=returned)
    gate = read_gate(site, call, config)
    reason = "run alone on random input; not compared with what the experts receive"
    return gate.with_router(gate.router.model_copy(update={"reason": reason}))
