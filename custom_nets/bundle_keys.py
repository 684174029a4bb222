"""The start of every run of a bundle: what a person typed is understood and checked before anything is written.

Facts come from where they are: a key is known when a config of the bundle defines it or refers to it, its type is that
of its default and of the arguments that take it, and what values it may have is for the constructors to say.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import multiprocessing
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, Literal, get_origin

import monai
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ConfigComponent, ConfigExpression
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, ID_SEP_KEY

from custom_nets.bundle_paths import keep_paths
from custom_nets.datasets import get_record
from custom_nets.errors import InputError, describe, end_at_sigterm, show_errors
from custom_nets.io.model_settings import take_over
from custom_nets.typed_values import (
    NULLS,
    TRUTHS,
    alternatives,
    fits,
    is_computed,
    kind_of,
    numbers,
    shown,
    type_names,
)

RENAMED = {
    "one_liver": "keep_largest_liver",
    "minutes_to_wait": "timeout_minutes",
    "reduction": "downsampling",
}
"""Keys of earlier releases, and what they are called now. An old one works for one release."""

AT_LEAST_ONE = frozenset(
    {"epochs", "max_epochs", "epoch_length", "batch_size", "num_points", "image_size", "crop_size", "grid_size"}
    | {"channels", "encoder_channels", "hidden_features", "init_filters", "latent_size"}
    | {"max_bad_steps", "early_stop_patience"}
)
"""Keys whose numbers must be positive, where no constructor says so."""

ABOVE_ZERO = frozenset({"learning_rate", "lr_gamma", "least_extent"})
"""Keys whose numbers must be positive, and may be fractions."""

SHARES = frozenset({"cache_rate", "mirror_prob", "least_extent"})
"""Keys of shares, of which 1 is all."""

SIGNED = frozenset({"contrast_window"})
"""Keys that may be negative, though their defaults are not."""

THREE = frozenset({"image_size", "crop_size", "grid_size", "least_extent"})
"""Keys of three numbers, one an axis."""

NAMES = frozenset({"modalities", "regions", "overlay_modalities"})
"""Keys of names, at least one, none twice."""

RECORDS = frozenset({"dataset_record", "label_scheme"})
"""Keys that name records of data sets."""

PROCESSES = frozenset({"num_workers", "validation_workers"})
"""Keys that count processes, at most `MAX_PROCESSES`."""

MAX_PROCESSES = 1000

DEVICES = frozenset({"device", "cache_device"})
"""Keys that PyTorch is asked about."""

CHECKED_ROOMS = tuple(
    f"{package}.{room}."
    for package in ("custom_nets", "monai")
    for room in ("losses", "transforms", "inferers", "networks", "metrics")
)
"""Modules whose objects read no data and write nothing when they are made, so that they can be made for a check."""

_FIXED = frozenset({"imports", "initialize", "finalize", "run"})
_MAIN = ("run", "initialize")  # a config file with one of these is a main one, not a list of overrides
_PLAIN = {int, float, bool, str, type(None)}
_TRACKING: dict[str, Any] = DEFAULT_EXP_MGMT_SETTINGS["mlflow"]

logger = logging.getLogger(__name__)


def start_run(workflow: ConfigWorkflow | None) -> None:
    """Prepares a run: errors end in a line, old and typed words mean what they say, and what is wrong ends the run.

    It is the first of our steps in the `initialize` of each config: nothing was made or written yet.

    Args:
        workflow: that runs; None where a config is parsed without one, and nothing is checked.

    Raises:
        InputError: when a key is unknown or its value cannot be meant, a line for each.
    """
    show_errors()
    end_at_sigterm()
    choose_start_method()
    if workflow is None:
        return
    parser, typed = workflow.parser, _typed_keys()
    folder = Path(workflow.config_root_path)
    name_data_set(parser, folder, typed)
    keep_paths(parser, typed)
    check_keys(parser, folder, typed, workflow.run_id)
    take_over(parser, typed, workflow.config_root_path)
    show_errors(debug=parser.get("debug") is True)
    if "bundle_root" in parser:
        parser["bundle_root"] = parser.get_parsed_content("bundle_root")  # known wherever the rest is parsed
    keep_paths(parser, typed)  # again: the checks have read the configs anew


def choose_start_method() -> None:
    """Fixes how processes of loaders are started, for what has not chosen: by fork, and by spawn on macOS and Windows.

    These are Python's defaults before 3.14. MONAI cannot invert transforms that ran in a process which was started by
    forkserver, the default since, or by spawn where that was not set.
    """
    if multiprocessing.get_start_method(allow_none=True) not in ("fork", "spawn"):
        method = "spawn" if sys.platform in ("darwin", "win32") else "fork"
        logger.debug("processes of loaders are started by %s", method)
        multiprocessing.set_start_method(method, force=True)


def name_data_set(parser: ConfigParser, folder: Path, typed: dict[str, Any]) -> None:
    """Takes `--dataset NAME` for the record of the data set.

    In an inference config the id `dataset` is that of MONAI's data set, which MONAI requires there; a text in its place
    can only be the name, or the file, of a record.

    Args:
        parser: with the configs of a run, and all keys set.
        folder: of the bundle's configs.
        typed: keys from a command line; the name moves there, too.
    """
    config = parser.get()
    if not isinstance(config.get("dataset"), str):
        return
    config["dataset_record"] = typed["dataset_record"] = config.pop("dataset")
    typed.pop("dataset", None)
    for file in sorted(folder.glob("*.json")):
        content = ConfigParser.load_config_file(file)
        if "dataset" in content and set(content) <= set(config) | {"dataset"}:
            config["dataset"] = content["dataset"]
    parser.parse(reset=True)


def check_keys(parser: ConfigParser, folder: Path, typed: Mapping[str, Any], run_id: str | None = None) -> None:
    """Lets old keys and typed words mean what they say, and checks all that differs from the bundle's own configs.

    Args:
        parser: with the configs of a run, and all keys set.
        folder: of the bundle's configs.
        typed: keys from a command line.
        run_id: what is to be run.

    Raises:
        InputError: when a key is unknown or its value cannot be meant, a line for each.
    """
    keys = _Keys(parser, folder)
    keys.restore_nulls(typed)
    keys.rename()
    faults = [*keys.unknown(), *([] if run_id is None else _run_faults(parser, run_id))]
    if not faults:
        keys.understand_words()
        faults = list(keys.wrong_values())
    parser.parse(reset=True)
    faults = faults or list(keys.refused())
    if faults:
        raise InputError("\n".join(faults))
    idle = [key for key in typed if run_id is not None and keys.is_idle(key)]
    if idle:
        logger.warning("without effect on this run: %s", ", ".join(idle))


def set_keys(parser: ConfigParser, keys: Mapping[str, Any]) -> None:
    """Sets keys of a config as `monai.bundle run` does.

    Raises:
        InputError: when a key of several parts leads nowhere.
    """
    for key, value in keys.items():
        try:
            parser[key] = value
        except (KeyError, IndexError, ValueError) as error:
            msg = f"unknown key '{key}'; a part of it leads nowhere"
            raise InputError(msg) from error


def _typed_keys() -> dict[str, Any]:
    """Returns the keys that `monai.bundle.run` was called with, those of None among them, which it drops in silence."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code is monai.bundle.run.__code__:
            return {key: _uncut(key, value) for key, value in frame.f_locals["override"].items()}
    return {}


def _uncut(key: str, value: Any) -> Any:
    """Returns the value of a key, of which fire takes what follows `#` for a comment of Python's."""
    text = _typed_text(key, value)
    return text if "#" in text and text[0] not in "$@%'\"[({" else value


def _typed_text(key: str, value: Any) -> str:
    """Returns what was typed for a key, which fire took for a number, a list or a word of Python's."""
    for index, argument in enumerate(sys.argv):
        name, equals, text = argument.partition("=")
        if name.lstrip("-") == key and name.startswith("-"):
            if equals:
                return text
            if index + 1 < len(sys.argv):
                return sys.argv[index + 1]
    return str(value)


def _run_faults(parser: ConfigParser, run_id: str) -> Iterator[str]:
    if run_id not in parser:
        steps = [
            key
            for key, value in parser.get().items()
            if isinstance(value, list) and value and all(ConfigExpression.is_expression(item) for item in value)
        ]
        steps = ["run", *(key for key in steps if key not in _FIXED)]
        yield _unknown(run_id, steps, f"id to run '{run_id}'", f"expected {', '.join(steps)}")


def _unknown(key: str, known: Sequence[str], what: str, otherwise: str) -> str:
    similar = difflib.get_close_matches(key, known, n=1)
    return f"unknown {what}; did you mean {similar[0]}?" if similar else f"unknown {what}; {otherwise}"


class _Keys:
    """The keys of one run beside those of the bundle.

    Args:
        parser: of the run, with all that was typed.
        folder: of the bundle's configs.
    """

    def __init__(self, parser: ConfigParser, folder: Path) -> None:
        self.parser = parser
        files = [ConfigParser.load_config_file(file) for file in sorted(folder.glob("*.json"))]
        main = [content for content in files if any(key in content for key in _MAIN)]
        main.sort(key=lambda content: not set(content) <= set(parser.get()))  # those of this run first
        self.shipped: dict[str, list[Any]] = {}  # values of each id in the main configs
        for content in main:
            for id_, value in _flatten(_normal(content)):
                self.shipped.setdefault(id_.replace("+", ""), []).append(value)
        self.offered: dict[str, list[Any]] = {}  # and in the lists of overrides
        for content in (file for file in files if file not in main):
            for id_, value in _flatten(_normal(content)):
                self.offered.setdefault(id_, []).append(value)
        self.referred = {name for content in [*files, parser.get()] for name in _references(content)}
        monais = [value[monai.utils.BundlePropertyConfig.ID] for value in _PROPERTIES.values()]
        self.allowed = {str(id_).split(ID_SEP_KEY)[0] for id_ in monais}
        self.allowed |= {*_FIXED, ConfigParser.meta_key, "displayable_configs", "save_execute_config"}
        self.allowed |= set(_TRACKING["configs"])
        self.components = dict(_components(parser.get()))

    def restore_nulls(self, typed: Mapping[str, Any]) -> None:
        """Gives back the keys that were typed as None."""
        for key, value in typed.items():
            if value is None and (key in RENAMED or ReferenceResolver.split_id(key, last=True)[0] in self.parser):
                self.parser[key] = "none"  # a word like others: understood where the key may be null

    def rename(self) -> None:
        """Moves the values of old keys to the new ones."""
        config = self.parser.get()
        for old, new in RENAMED.items():
            if old in config and old not in self.shipped and new in self.shipped:
                logger.warning("%s is now called %s; the old name works in this release only", old, new)
                config[new] = config.pop(old)

    def changed(self) -> list[str]:
        """Returns the ids whose values no main config of the bundle has; of dictionaries those below them."""
        return list(self._changed(self.parser.get(), ""))

    def _changed(self, config: Any, id_: str) -> Iterator[str]:
        for value in self.shipped.get(id_, ()):
            macro = isinstance(value, str) and value.startswith("%")  # MONAI put a copy of another id in its place
            if macro or (type(value) is type(config) and value == _normal(config)):
                return
        known = any(isinstance(value, type(config)) for value in self.shipped.get(id_, ())) or not id_
        if known and isinstance(config, (dict, list)) and (id_ or isinstance(config, dict)):
            nested = isinstance(config, dict) or any(isinstance(item, (dict, list)) for item in config)
            if nested:
                for _, below, value in ReferenceResolver.iter_subconfigs(id_, config):
                    if below != ConfigParser.meta_key:
                        yield from self._changed(value, below)
                return
        yield id_

    def unknown(self) -> Iterator[str]:
        """Yields a line for each id that neither a config nor a constructor knows."""
        for id_ in self.changed():
            parent, name = ReferenceResolver.split_id(id_, last=True)
            if id_ in self.shipped or name.isdigit() or id_ in self.referred:
                continue
            if not parent:
                if name in self.allowed or any(other.startswith(f"{name}{ID_SEP_KEY}") for other in self.referred):
                    continue
                tops = [key for key in {*self.shipped, *self.referred} if ID_SEP_KEY not in key]
                yield _unknown(name, [*tops, *self.allowed], f"key '{name}'", "the bundle's docs/README.md lists them")
                continue
            above = self.parser[parent]
            made = ConfigComponent.is_instantiable(above)
            arguments = self._arguments(above) if made else self._siblings(parent)
            if arguments is not None and name not in {*arguments, *ConfigComponent.non_arg_keys}:
                key = id_.replace(ID_SEP_KEY, "#")
                prefix = parent.replace(ID_SEP_KEY, "#")
                what = f"it takes {', '.join(sorted(arguments))}"
                yield _unknown(key, [f"{prefix}#{argument}" for argument in arguments], f"key '{key}'", what)

    def _siblings(self, parent: str) -> set[str] | None:
        """Returns the known names of a section; None where the bundle has none, or uses whatever it holds."""
        if parent not in self.shipped or parent in self.referred:
            return None
        return {id_.rsplit(ID_SEP_KEY, 1)[1] for id_ in self.shipped if id_.rpartition(ID_SEP_KEY)[0] == parent}

    def _arguments(self, component: dict[str, Any]) -> set[str] | None:
        """Returns the arguments of a component's class or function; None where it takes any."""
        target = self._target(component)
        if target is None:
            return None
        inits = [kind.__init__ for kind in target.__mro__] if inspect.isclass(target) else [target]  # type: ignore[misc]
        names: set[str] = set()
        for init in inits:
            try:
                parameters = inspect.signature(init).parameters.values()
            except (TypeError, ValueError):
                return None
            names |= {each.name for each in parameters} - {"self"}
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                return names - {each.name for each in parameters if each.kind is each.VAR_POSITIONAL}
        return None

    def _target(self, component: dict[str, Any]) -> Any:
        name = ConfigComponent(component, locator=self.parser.locator).resolve_module_name()
        return locate(name) if isinstance(name, str) and not ConfigExpression.is_expression(name) else None

    def understand_words(self) -> None:
        """Makes values of `true`, `false`, `null`, and texts of what looks like a number."""
        for id_ in self.changed():
            value = self.parser[id_]
            kinds = self._kinds(id_)
            if isinstance(value, str):
                word = value.lower()
                if word in NULLS and type(None) in kinds:
                    self.parser[id_] = None
                elif word in TRUTHS and str not in kinds:
                    self.parser[id_] = TRUTHS[word]
            elif str in kinds and not any(fits(value, kind) for kind in kinds) and not isinstance(value, dict):
                self.parser[id_] = _typed_text(id_, value)

    def _kinds(self, id_: str) -> list[Any]:
        """Returns the types of which a value must be one: that of a default, or what all its arguments take."""
        kinds = [kind_of(default) for default in self._defaults(id_)]
        hints = [alternatives(hint) for hint in self._hints(id_, own=any(kind is not type(None) for kind in kinds))]
        if any(get_origin(kind) is Literal for kinds_ in hints for kind in kinds_):
            kinds = [kind for kind in kinds if kind is not str]
        shared = [kind for kind in hints[0] if all(kind in others for others in hints)] if hints else []
        return list(dict.fromkeys([*kinds, *shared]))

    def _defaults(self, id_: str) -> list[Any]:
        values = []
        for default in self.shipped.get(id_) or self.offered.get(id_) or ():
            if ConfigComponent.is_instantiable(default):
                continue
            if is_computed(default):
                config = ConfigParser(_copy({**self.parser.get(), "default": default}))
                closure = _closure(config, "default")
                if any(ConfigComponent.is_instantiable(config.get(each)) for each in closure):
                    continue  # what it gives is known only when it is made
                try:
                    default = config.get_parsed_content("default")
                except Exception:  # the default of a key that depends on another that is wrong
                    continue
            values.append(default)
        return values

    def _hints(self, id_: str, own: bool) -> Iterator[Any]:
        """Yields the annotations of the arguments that a value goes to.

        Args:
            id_: of the value.
            own: whether to ask our own classes and functions alone; others take more than a bundle can use.
        """
        parent, name = ReferenceResolver.split_id(id_, last=True)
        if parent and ConfigComponent.is_instantiable(self.parser.get(parent)):
            yield from self._read(self.parser[parent], name)
        for component in self.components.values():
            for argument, value in component.items():
                takes = isinstance(value, str) and ReferenceResolver.normalize_id(value) == f"@{id_}"
                if takes and (not own or _is_own(component)):
                    yield from self._read(component, argument)

    def _read(self, component: dict[str, Any], argument: str) -> Iterator[Any]:
        """Yields the annotation of an argument; of classes that are not ours only a plain one, which is right."""
        for hint in _annotation(self._target(component), argument):
            if _is_own(component) or set(alternatives(hint)) <= _PLAIN:
                yield hint

    def wrong_values(self) -> Iterator[str]:
        """Yields a line for each value of a wrong type, or beyond what can be meant."""
        for id_ in self.changed():
            value = self.parser[id_]
            if id_ in DEVICES:
                yield from _device_faults(id_, value)
            elif id_ in RECORDS and isinstance(value, str) and not is_computed(value):
                yield from _record_faults(id_, value)
            elif not is_computed(value):
                defaults = [default for default in self._defaults(id_) if default is not None]
                wanted = self._wanted(id_, value, defaults)
                example = f", such as {shown(defaults[0])}" if defaults else ""
                if wanted:
                    yield f"{id_.replace(ID_SEP_KEY, '#')} is {shown(value)}; expected {wanted}{example}"

    def _wanted(self, id_: str, value: Any, defaults: Sequence[Any]) -> str | None:
        """Returns what is expected in place of a value; None for a good one."""
        if value is None or isinstance(value, (str, int, float)):
            shipped = self.shipped.get(id_, ())
            if shipped and all(ConfigComponent.is_instantiable(default) for default in shipped):
                return "a component, a dictionary with _target_"
        kinds = self._kinds(id_)
        if set(kinds) - {type(None)} and not any(fits(value, kind) for kind in kinds):
            return type_names(kinds)
        name = id_.rsplit(ID_SEP_KEY, 1)[-1]
        found, usual = numbers(value), [number for default in defaults for number in numbers(default)]
        if not all(math.isfinite(number) for number in found):
            return "a finite number"
        if name in THREE and len(value) != 3:
            return "three numbers"
        if name in AT_LEAST_ONE and any(number < 1 for number in found):
            return "at least 1"
        if name in ABOVE_ZERO and any(number <= 0 for number in found):
            return "a number above 0" + (", at most 1" if name in SHARES else "")
        if name in SHARES and any(not 0 <= number <= 1 for number in found):
            return "a share from 0 to 1"
        if name in PROCESSES and any(number > MAX_PROCESSES for number in found):
            return f"at most {MAX_PROCESSES}"
        if usual and min(usual) >= 0 and name not in SIGNED and any(number < 0 for number in found):
            return "no negative number"
        if name in NAMES and isinstance(value, (list, tuple)) and (not value or len(set(value)) < len(value)):
            return "at least one name, and none twice"
        return "a text that is not empty" if value == "" and "" not in defaults else None

    def refused(self) -> Iterator[str]:
        """Makes what the changed keys go to, where that touches no data, and yields what its constructors refuse."""
        changed = {id_ for id_ in self.changed() if id_ != "device"}
        if not changed:
            return
        trial = ConfigParser(_copy(self.parser.get()))
        trial.locator = self.parser.locator
        trial.parse(reset=True)
        for id_, component in _components(trial.get()):
            closure = _closure(trial, id_)
            named = changed & closure
            if named and all(self._is_checked(trial.get(each)) for each in closure):
                arguments = {value: name for name, value in component.items() if isinstance(value, str)}
                try:
                    trial.get_parsed_content(id_)
                except Exception as error:  # whatever is raised, the value was refused
                    message = describe(error)
                    words = {word.lower() for word in re.findall(r"\w+", message)}
                    ranked = sorted(named, key=lambda each: not words & self._words(each, arguments.get(f"@{each}")))
                    yield self._refusal(ranked[0], message)
                    return

    def _words(self, id_: str, argument: str | None) -> set[str]:
        """Returns what a message about a value may hold: its key, the argument that takes it, itself or its items."""
        value = self.parser[id_]
        items = value if isinstance(value, (list, tuple)) else [value]
        return {id_.lower(), str(argument).lower(), *(str(item).lower() for item in items)}

    def _refusal(self, id_: str, message: str) -> str:
        """Returns what a constructor says of a value, with the key in place of the argument."""
        key, value = id_.replace(ID_SEP_KEY, "#"), shown(self.parser[id_])
        message = re.sub(r"^\w+Error: ", "", message)
        if message.startswith((f"{key} ", f"{key}: ")):
            return message
        own = re.match(rf"\w+ is {re.escape(repr(self.parser[id_]))}; ", message)
        return f"{key} is {value}; {message[own.end() :]}" if own else f"{key} is {value}: {message}"

    def _is_checked(self, config: Any) -> bool:
        if not ConfigComponent.is_instantiable(config):
            return True
        name = ConfigComponent(config, locator=self.parser.locator).resolve_module_name()
        return isinstance(name, str) and name.startswith(CHECKED_ROOMS)

    def is_idle(self, key: str) -> bool:
        """Tells whether nothing in this run refers to a key."""
        used = {name.split(ID_SEP_KEY)[0] for name in _references(self.parser.get())}
        return ID_SEP_KEY not in ReferenceResolver.normalize_id(key) and key not in {
            *used,
            *self.allowed,
            *RENAMED,
            "debug",
        }


_PROPERTIES = {**TrainProperties, **InferProperties, **MetaProperties}


def _flatten(config: Any, id_: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every id of a config with its value; an id of several parts that a file has as one key counts."""
    for _, below, value in ReferenceResolver.iter_subconfigs(id_, config):
        below = ReferenceResolver.normalize_id(below)
        yield below, value
        if isinstance(value, (dict, list)):
            yield from _flatten(value, below)


def _normal(config: Any) -> Any:
    """Returns a config with ids written as MONAI writes them when it parses one."""
    if isinstance(config, dict):
        return {key: _normal(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_normal(value) for value in config]
    return ReferenceResolver.normalize_id(config) if isinstance(config, str) else config


def _copy(config: Any) -> Any:
    """Returns a config that can be changed; objects that a program put into it are the same."""
    if isinstance(config, dict):
        return {key: _copy(value) for key, value in config.items()}
    return [_copy(value) for value in config] if isinstance(config, list) else config


def _components(config: Any, id_: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the components of a config by their ids, the inner before the outer ones."""
    if isinstance(config, (dict, list)):
        for _, below, value in ReferenceResolver.iter_subconfigs(id_, config):
            yield from _components(value, below)
    if isinstance(config, dict) and ConfigComponent.is_instantiable(config):
        yield id_, config


def _references(config: Any) -> set[str]:
    """Returns the ids that a config refers to, by `@` or `%`."""
    if isinstance(config, (dict, list)):
        return {name for _, _, value in ReferenceResolver.iter_subconfigs("", config) for name in _references(value)}
    if not isinstance(config, str):
        return set()
    macro = {ReferenceResolver.normalize_id(config[1:])} if config.startswith("%") else set()
    return macro | set(ReferenceResolver.match_refs_pattern(config))


def _is_own(component: dict[str, Any]) -> bool:
    return str(component["_target_"]).startswith("custom_nets.")


def _closure(parser: ConfigParser, id_: str) -> set[str]:
    """Returns an id, all below it, and all that these refer to."""
    seen: set[str] = set()
    waiting = [id_]
    while waiting:
        each = waiting.pop()
        if each in seen or each not in parser:
            continue
        seen.add(each)
        config = parser[each]
        if isinstance(config, (dict, list)):
            waiting += [below for _, below, _ in ReferenceResolver.iter_subconfigs(each, config)]
        else:
            waiting += _references(config)
    return seen


def _annotation(target: Any, argument: str) -> list[Any]:
    """Returns the annotation of an argument in a list, an empty one where it has none that can be read."""
    function = target.__init__ if inspect.isclass(target) else target
    hint = getattr(function, "__annotations__", {}).get(argument)
    try:
        return [] if hint is None else [eval(hint, function.__globals__) if isinstance(hint, str) else hint]
    except (NameError, TypeError):  # a name of a package that is not installed
        return []


def _record_faults(key: str, name: str) -> Iterator[str]:
    """Yields a line when there is no such record, or it cannot be read."""
    try:
        get_record(name)
    except InputError as error:
        yield f"{key} is {shown(name)}: {error}"


def _device_faults(key: str, device: Any) -> Iterator[str]:
    """Yields a line when PyTorch cannot use a device."""
    if is_computed(device) or (device is None and key != "device"):
        return
    try:
        torch.empty(0, device=device)
    except Exception as error:  # PyTorch raises several kinds
        if str(device).startswith("cuda"):
            count = torch.cuda.device_count()
            there = "no GPU here" if not count else f"{count} here, the first is cuda:0"
            yield f"{key} is {shown(device)}, but PyTorch finds {there}; give --{key} cpu"
        else:
            yield f"{key} is {shown(device)}; expected cpu or cuda (or cuda:1 and so on)"
        logger.debug("PyTorch: %s", error)
