"""Truths of the families whose experts are not called with an index and a weight per token.

Each truth is a context manager, as in ``truth.py``: forwards are replaced on the instance, no hook is used. Where a
family spreads its choice over local variables, its own code runs a second time on a neutral stand-in (expert
outputs that are unit vectors, hidden states that are row numbers), so that its result is the choice itself.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.case import Taken, Truth
from tests.zoo.truth import taken

Told = Callable[[tuple[Any, ...], Any], None]


@contextmanager
def _watching() -> Iterator[Callable[[nn.Module, Told], None]]:
    """Gives ``watch(module, told)``: ``told`` hears the arguments and the output of every call of ``module``."""
    replaced: list[tuple[nn.Module, Any]] = []

    def watch(module: nn.Module, told: Told) -> None:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            told((*args, *kwargs.values()), output)
            return output

        replaced.append((module, vars(module).get("forward")))
        module.forward = forward

    try:
        yield watch
    finally:
        for module, before in replaced:
            del module.forward
            if before is not None:
                module.forward = before


def _of(model: nn.Module, class_name: str) -> Iterator[tuple[str, Any]]:
    """Path and module of every instance of a class."""
    return ((path, m) for path, m in model.named_modules() if type(m).__name__ == class_name)


def _rows(logits: Tensor) -> Tensor:
    return logits.detach().float().reshape(-1, logits.shape[-1]).clone()


@contextmanager
def llama4_inputs(model: nn.Module) -> Iterator[Truth]:
    """Every expert gets every token times its score; a token that an expert does not serve is a row of zeros."""
    seen: Truth = {}
    with _watching() as watch:
        for path, block in _of(model, "Llama4TextMoe"):
            router_path, returned = f"{path}.router", []
            watch(block.router, lambda _args, output, returned=returned: returned.append(output))

            def told(args: tuple[Any, ...], _output: Any, key: str = router_path, returned: Any = returned) -> None:
                scores, logits = returned[-1]
                given = args[0].reshape(scores.shape[1], scores.shape[0], -1)
                chosen = (given != 0).any(dim=-1).T
                weights = scores.detach().float() * chosen
                seen.setdefault(key, []).append(Taken(chosen, weights, _rows(logits)))

            watch(block.experts, told)
        yield seen


@contextmanager
def jetmoe_splits(model: nn.Module) -> Iterator[Truth]:
    """Rows sorted by expert and their count per expert, as the expert projections of both levels get them."""
    seen: Truth = {}
    with _watching() as watch:
        levels = [*_of(model, "JetMoeMoA"), *_of(model, "JetMoeMoE")]
        for path, block in levels:
            router_path, returned = f"{path}.router", []
            watch(block.router, lambda args, output, returned=returned: returned.append((args[0], *output)))

            def told(args: tuple[Any, ...], _output: Any, key: str = router_path, returned: Any = returned) -> None:
                tokens, _order, rows, gates, _sizes, logits = returned[-1]
                inputs, sizes = args
                assert torch.equal(inputs, tokens[rows])
                expert = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
                chosen = torch.zeros(tokens.shape[0], len(sizes), dtype=torch.bool)
                weights = torch.zeros(tokens.shape[0], len(sizes))
                chosen[rows, expert], weights[rows, expert] = True, gates.detach().float()
                seen.setdefault(key, []).append(Taken(chosen, weights, _rows(logits)))

            watch(block.input_linear, told)
        yield seen


@contextmanager
def doge_lookups(model: nn.Module) -> Iterator[Truth]:
    """Experts are rows of two embeddings; the index is what they look up, the weights come from a second run.

    In that run every expert answers with a unit vector of its slot and the shared expert with zeros: the output of
    the block is then the weights. The router is the block itself; ``router_gate`` gives two rows of sqrt(experts) key
    logits, which the block splits across the tokens of the batch before it reads them (kept on purpose), and the
    logit of an expert is the sum of its two keys.
    """
    seen: Truth = {}
    with _watching() as watch:
        for path, block in _of(model, "DogeCDMoE"):
            logits: list[Tensor] = []
            index: list[Tensor] = []
            watch(block.router_gate, lambda _args, output, kept=logits: kept.append(output))
            watch(block.down_embed, lambda args, _output, kept=index: kept.append(args[0]))

            def told(
                args: tuple[Any, ...], _output: Any, path: str = path, block: Any = block,
                logits: list[Tensor] = logits, index: list[Tensor] = index,
            ) -> None:  # fmt: skip
                shadow = copy.copy(block)
                units = torch.eye(block.hidden_size, dtype=args[0].dtype)[: block.top_k]
                shadow._modules = block._modules | {
                    "router_gate": lambda _hidden: logits[-1],
                    "down_embed": block.down_embed.weight.__getitem__,
                    "act_fn": torch.ones_like,
                    "up_embed": lambda index: units.expand(*index.shape, -1),
                    "down_proj": lambda inner: inner.new_zeros(*inner.shape[:-1], block.hidden_size),
                }
                output, _ = type(block).forward(shadow, args[0])
                weights = output.reshape(-1, block.hidden_size)[:, : block.top_k]
                routed = taken(index[-1], weights, torch.zeros(weights.shape[0], block.num_experts))
                first, second = logits[-1].reshape(2, weights.shape[0], -1)
                pairs = (first.unsqueeze(2) + second.unsqueeze(1)).flatten(1)
                seen.setdefault(path, []).append(Taken(routed.chosen, routed.weights, _rows(pairs)))

            watch(block, told)
        yield seen


@contextmanager
def switch_executed(model: nn.Module) -> Iterator[Truth]:
    """Rows that each expert module executes; a token beyond the capacity of its expert is not chosen."""
    with _executed(model, "SwitchTransformersExperts") as seen:
        yield seen


@contextmanager
def nllb_executed(model: nn.Module) -> Iterator[Truth]:
    """Rows that each expert module executes, which is NOT what the router chose: see ``nllb_intended``."""
    with _executed(model, "NllbMoeExperts") as seen:
        yield seen


@contextmanager
def nllb_intended(model: nn.Module) -> Iterator[Truth]:
    """The router's combine weights after the drops: the experts that nllb_moe means to execute.

    transformers 5.23.0 executes something else: ``NllbMoeExperts`` takes the 0/1 entries of the router's mask for
    expert indices, so ``expert_1`` gets the kept first choices, ``expert_0`` all other (token, expert) pairs and
    the other experts nothing (``nllb_executed`` shows it). The choice of the router is what a record can be held to.
    """
    seen: Truth = {}
    with _watching() as watch:
        for path, router in _of(model, "NllbMoeTop2Router"):

            def told(_args: tuple[Any, ...], output: Any, key: str = path) -> None:
                _first, combine, logits = output
                seen.setdefault(key, []).append(Taken(combine > 0, combine.detach().float(), _rows(logits)))

            watch(router, told)
        yield seen


@contextmanager
def _executed(model: nn.Module, experts_class: str) -> Iterator[Truth]:
    seen: Truth = {}
    with _watching() as watch:
        for path, experts in _of(model, experts_class):
            router_path, returned = f"{path.rpartition('.')[0]}.router", []
            counts: dict[int, int] = {}
            router = model.get_submodule(router_path)
            watch(router, lambda _args, output, returned=returned: returned.append(output))
            for e in range(experts.num_experts):
                watch(
                    experts[f"expert_{e}"], lambda args, _output, e=e, counts=counts: counts.update({e: len(args[0])})
                )

            def told(
                args: tuple[Any, ...], _output: Any, key: str = router_path, experts: Any = experts,
                returned: list[Any] = returned, counts: dict[int, int] = counts,
            ) -> None:  # fmt: skip
                times, weights = _dispatch(experts, *args)
                assert counts == {e: rows for e, rows in enumerate(times.sum(0).tolist()) if rows}
                counts.clear()
                seen.setdefault(key, []).append(Taken(times > 0, weights, _rows(returned[-1][2])))

            watch(experts, told)
        yield seen


def _dispatch(experts: Any, hidden: Tensor, mask: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """How often each expert executes each row, and with which total weight: [rows, experts] each.

    The family's own dispatch runs on row numbers; each stand-in expert answers with its unit vector.
    """
    times = torch.zeros(hidden.shape[0], experts.num_experts, dtype=torch.int64)

    class StandIn(SimpleNamespace):
        def __getitem__(self, name: str) -> Callable[[Tensor], Tensor]:
            expert = int(name.removeprefix("expert_"))

            def execute(states: Tensor) -> Tensor:
                times[:, expert] += torch.bincount(states[:, -1].long(), minlength=hidden.shape[0])
                return torch.eye(experts.num_experts + 1)[expert].expand(states.shape[0], -1)

            return execute

    numbers = torch.zeros(hidden.shape[0], experts.num_experts + 1)
    numbers[:, -1] = torch.arange(hidden.shape[0])
    stand_in = StandIn(num_experts=experts.num_experts, moe_token_dropout=0, training=False)
    combined = type(experts).forward(stand_in, numbers, mask, weights.detach())
    return times, combined[:, :-1]


@contextmanager
def zaya_unskipped(model: nn.Module) -> Iterator[Truth]:
    """A skipped token reaches the experts as expert 0 with a weight of exactly 0: an unused slot."""
    seen: Truth = {}
    with _watching() as watch:
        for path, block in _of(model, "ZayaSparseMoeBlock"):
            returned: list[Any] = []
            watch(block.gate, lambda _args, output, returned=returned: returned.append(output))

            def told(
                args: tuple[Any, ...], _output: Any, key: str = f"{path}.gate", returned: list[Any] = returned
            ) -> None:
                _hidden, index, weights = args
                seen.setdefault(key, []).append(taken(index.masked_fill(weights == 0, -1), weights, returned[-1][0]))

            watch(block.experts, told)
        yield seen
