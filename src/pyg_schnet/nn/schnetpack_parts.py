r"""The parts of a SchNetPack model: its weights by name and, where known, what each module is."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .pickles import Record

_ANCHOR = "representation.embedding.weight"


class Parts:
    r"""Weights that are taken out one by one, so that none is overlooked.

    Args:
        weights: Weights by their names in SchNetPack.
        module: The model they belong to, a module or the record of one; ``None`` if only weights
            are known.
    """

    def __init__(self, weights: Mapping[str, Tensor], module: Any = None):
        self._weights = dict(weights)
        self._module = module

    @property
    def has_module(self) -> bool:
        """Whether more is known than weights."""
        return self._module is not None

    def has(self, name: str) -> bool:
        """Whether there is a weight of this name."""
        return name in self._weights

    def peek(self, name: str) -> Tensor:
        """A weight, left where it is."""
        if name not in self._weights:
            raise ValueError(
                f"the model has no '{name}': it is not a SchNet of SchNetPack, or has an output "
                "other than an Atomwise of two layers"
            )
        return self._weights[name]

    def take(self, name: str, shape: Iterable[int] | None = None) -> Tensor:
        """Takes a weight out.

        Raises:
            ValueError: If there is none, or it has another shape.
        """
        weight = self.peek(name)
        if shape is not None and list(weight.shape) != list(shape):
            raise ValueError(
                f"'{name}' has shape {list(weight.shape)}, where {list(shape)} was expected: "
                "SchNet here has readouts of two layers, the second half as wide as the features"
            )
        return self._weights.pop(name)

    def drop(self, prefix: str) -> None:
        """Leaves weights out, those whose name begins so."""
        for name in [name for name in self._weights if name.startswith(prefix)]:
            del self._weights[name]

    def numbered(self, prefix: str) -> list[int]:
        """Numbers of the modules of a list that have weights."""
        inside = (
            name.removeprefix(f"{prefix}.").split(".")[0]
            for name in self._weights
            if name.startswith(f"{prefix}.")
        )
        return sorted({int(number) for number in inside if number.isdigit()})

    def children(self, path: str) -> list[str]:
        """Names of the modules in another."""
        module = self._find(path)
        return [] if module is None else list(_attributes(module)["_modules"])

    def kind(self, path: str) -> str | None:
        """The name of the class of a module; ``None`` if only weights are known."""
        module = self._find(path)
        return None if module is None else name_of(module)

    def attribute(self, path: str, name: str, default: Any = None) -> Any:
        """An attribute of a module, of a module in it likewise."""
        module = self._find(path)
        if module is None:
            return default
        values = _attributes(module)
        return values.get(name, values["_modules"].get(name, default))

    def check_kind(self, path: str, allowed: Iterable[str]) -> None:
        """Refuses modules of other classes.

        Raises:
            ValueError: Naming the class.
        """
        kind = self.kind(path)
        if kind is not None and kind not in allowed:
            raise ValueError(
                f"'{path}' is a {kind}, of which SchNet here has no counterpart, only of "
                f"{', '.join(allowed)}"
            )

    def check_empty(self) -> None:
        """Refuses weights that were not taken.

        Raises:
            ValueError: Naming them.
        """
        if self._weights:
            names = sorted(self._weights)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(
                f"SchNet here has no counterpart of {', '.join(names[:5])}{more}: a model with "
                "these parts cannot be copied"
            )

    def _find(self, path: str) -> Any:
        module = self._module
        for name in path.split(".") if path else ():
            if module is None:
                return None
            module = _attributes(module)["_modules"].get(name)
        return module


def parts_of(source: Any) -> Parts:
    r"""Finds the model in what a file holds.

    Args:
        source: A state dict; a checkpoint of SchNetPack 1 or of Lightning; a model or the record of
            one, also wrapped for training.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no model of SchNetPack in it, or several are.
    """
    module = None
    if isinstance(source, Mapping):
        weights = source
        if isinstance(inner := source.get("state_dict"), Mapping):  # of Lightning
            weights = inner
            settings = source.get("hyper_parameters")
            module = settings.get("model") if isinstance(settings, Mapping) else None
        elif isinstance(inner := source.get("model"), Mapping):  # of SchNetPack 1
            weights = inner
        weights = {name: w for name, w in weights.items() if isinstance(w, Tensor)}
    elif _is_module(source):
        module, weights = source, {}
        _collect(source, "", weights)
    else:
        raise TypeError(
            "expected a file, a state dict or a model of SchNetPack "
            f"(got {type(source).kind if isinstance(source, Record) else type(source).__name__})"
        )
    found = [name.removesuffix(_ANCHOR) for name in weights if name.endswith(_ANCHOR)]
    if len(found) != 1:
        raise ValueError(
            f"expected one model with '{_ANCHOR}' (found {len(found)}; the first weights are "
            f"{list(weights)[:3]}): give the whole model, with its output module"
        )
    prefix = found[0]
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    while _is_module(module) and "representation" not in _attributes(module)["_modules"]:
        inside = _attributes(module)["_modules"]  # a wrapper for training
        module = inside.get("model", inside.get("module"))
    return Parts(own, module if _is_module(module) else None)


def name_of(thing: Any) -> str:
    """Name of the class of an object, or of a class or function itself."""
    if isinstance(thing, type) and issubclass(thing, Record):
        return thing.kind.rpartition(".")[2]
    if isinstance(thing, Record):
        return type(thing).kind.rpartition(".")[2]
    return getattr(thing, "__name__", type(thing).__name__)


def _is_module(thing: Any) -> bool:
    return isinstance(thing, (Record, nn.Module)) and "_modules" in _attributes(thing)


def _attributes(module: Any) -> Mapping[str, Any]:
    values = module.state if isinstance(module, Record) else vars(module)
    return values if isinstance(values, Mapping) else {}


def _collect(module: Any, prefix: str, weights: dict[str, Tensor]) -> None:
    values = _attributes(module)
    passing = values.get("_non_persistent_buffers_set", ())
    for part in ("_parameters", "_buffers"):
        for name, value in values.get(part, {}).items():
            if isinstance(value, Tensor) and name not in passing:
                weights[prefix + name] = value.detach()
    for name, child in values.get("_modules", {}).items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", weights)
