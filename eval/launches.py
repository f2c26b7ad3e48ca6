"""How many operators a step of a search runs, and how often it waits for the device; counted on a processor.

python eval/launches.py --pictures flickr8k/ --count 16

Every operator that computes something is at least one kernel launch on a GPU; views and empty tensors are
none. A GPU is waited for where the program asks for values (item, tolist, cpu, truth), where a result's shape
depends on values (nonzero, masks as indices), and where values of the program go to the device (torch.tensor,
lists as indices).
"""

from __future__ import annotations

import statistics
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import HfArgumentParser

from magicap import Captioner, MagicSearch
from magicap.images.folders import find_images
from magicap.images.transform import PreparedImage, prepare

_aten: Any = torch.ops.aten

_ASK_FOR_VALUES = {Tensor.tolist: "tolist", Tensor.cpu: "cpu"}
_ITEM, _UNSAFE_VIEW = _aten._local_scalar_dense, _aten._unsafe_view  # noqa: SLF001 - names of operators
_WAIT = {
    _ITEM: "item",
    _aten.nonzero: "nonzero",
    _aten.masked_select: "masked_select",
    _aten.repeat_interleave: "repeat_interleave",
    _aten._unique2: "unique",  # noqa: SLF001 - the same
    _aten.unique_dim: "unique",
    _aten.unique_consecutive: "unique",
    _aten.equal: "equal",
}
_LAUNCH_NOTHING = {
    *(_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided),
    *(_UNSAFE_VIEW, _aten.lift_fresh, _ITEM),
}


class Operators:
    """Counts what is computed inside.

    Attributes:
        launches: operators that compute something, by name.
        waits: what a GPU would be waited for, by name.
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(_Functions(self.waits))
        self._modes.enter_context(_Dispatched(self.launches, self.waits))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    @property
    def totals(self) -> tuple[int, int]:
        """Launches and waits so far."""
        return self.launches.total(), self.waits.total()


class _Functions(TorchFunctionMode):
    """Sees what never reaches the dispatcher: values that go from tensors to Python, or back."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ASK_FOR_VALUES:
            self._waits[_ASK_FOR_VALUES[func]] += 1
        elif func in (torch.tensor, torch.as_tensor):
            self._waits["tensor"] += 1
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and _holds_list(args[1]):
            self._waits["list as index"] += 1
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    """Sees every operator that is run, composed ones as what they are composed of."""

    def __init__(self, launches: Counter[str], waits: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._launches, self._waits = launches, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        with self:
            result = func.decompose(*args, **named)
        if result is not NotImplemented:
            return result
        packet = func.overloadpacket
        if packet in _WAIT and not (packet is _aten.repeat_interleave and named.get("output_size")):
            self._waits[_WAIT[packet]] += 1
        if packet in (_aten.index, _aten.index_put, _aten.index_put_) and any(map(_is_mask, args[1])):
            self._waits["mask as index"] += 1
        if packet not in _LAUNCH_NOTHING and not func.is_view:
            self._launches[str(packet)] += 1
        return func(*args, **named)


def _holds_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(map(_holds_list, index)))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@dataclass(frozen=True)
class Counted:
    """What a batch took, part by part."""

    parts: list[tuple[int, int]]
    """Launches and waits up to the first token, of each token behind it, and after the last one."""

    operators: Operators

    def of_a_step(self, number: int) -> tuple[float, int, int]:
        """Median, least and most of the launches (0) or waits (1) of the tokens behind the first."""
        counts = [part[number] for part in self.parts[1:-1]]
        return statistics.median(counts), min(counts), max(counts)


def counted(captioner: Captioner, pictures: list[PreparedImage], decoding: Any) -> Counted:
    """Caption pictures together, and count."""
    captioner.caption(pictures[:1], decoding)  # what is computed once and kept is of no caption
    captioner.cache.clear()
    with Operators() as operators:
        seen = [operators.totals]
        for _ in captioner.caption_batch_with_progress(pictures, decoding, candidates=0):
            seen.append(operators.totals)
        seen.append(operators.totals)
    parts = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(seen)]
    return Counted(parts, operators)


@dataclass(frozen=True)
class Config:
    """What to count."""

    pictures: str = field(metadata={"help": "folder of pictures"})
    count: int = field(default=16, metadata={"help": "pictures together"})
    preset: str = field(default="embedded", metadata={"help": "captioner"})
    names: int = field(default=0, metadata={"help": "list so many of the most frequent operators"})


def main(config: Config) -> None:
    torch.set_num_threads(1)
    captioner = Captioner.from_pretrained(config.preset)
    paths = [path for path, _ in zip(find_images(Path(config.pictures)), range(config.count), strict=False)]
    pictures = [prepare(path, captioner.transform) for path in paths]
    decodings = {
        "default": captioner.decoding,
        "greedy with soft prompt": MagicSearch(1, 0.0, 0.0, soft_prompt=True),
        "magic search": MagicSearch(),
    }
    print(f"{len(pictures)} pictures together")
    columns = [
        f"{what} {part}"
        for what in ("launches", "waits")
        for part in ("to the first token", "a step (least to most)", "after the last", "a caption")
    ]
    print("| " + " | ".join(["search", "tokens", *columns]) + " |")
    print("|---|" + "--:|" * 9)
    for name, decoding in decodings.items():
        steps = counted(captioner, pictures, decoding)
        cells = [f"{len(steps.parts) - 1}"]
        for number in (0, 1):
            median, least, most = steps.of_a_step(number)
            total = sum(part[number] for part in steps.parts)
            cells += [
                f"{steps.parts[0][number]:,}",
                f"{median:,g} ({least:,} to {most:,})",
                f"{steps.parts[-1][number]:,}",
                f"{total / len(pictures):,.1f}",
            ]
        print("| " + " | ".join([name, *cells]) + " |")
        if config.names:
            print(steps.operators.launches.most_common(config.names))
            print(dict(steps.operators.waits))


if __name__ == "__main__":
    main(*HfArgumentParser(Config).parse_args_into_dataclasses())
