"""A command line made of functions: each is a verb, its signature says what it takes, its docstring is its help.

fire, which MONAI uses, runs a function before it finds an unknown option, reads `false` as a text that is true, and
shows help in a pager; argparse knows nothing of signatures, and the few lines between them are here.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from custom_nets.errors import InputError
from custom_nets.typed_values import NULLS, TRUTHS, alternatives, fits, shown, type_names

Verb = Callable[..., None]


def run_command(
    arguments: Sequence[str], verbs: Mapping[str, Verb], program: str, version: Callable[[], str], about: str
) -> None:
    """Runs the verb that a person typed, after everything typed was understood.

    Args:
        arguments: as typed, without the program's name.
        verbs: functions by their names; positional parameters without default are typed in their order (a tuple takes
            one or more) or with their names, all others with their names, and those of `**keys` as they come.
        program: name of the command.
        version: gives what is printed for `--version`.
        about: what the command is for.

    Raises:
        InputError: when a verb or an option is unknown, one is missing, or a value is not of its type.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_overview(verbs, program, about))
    elif name == "--version":
        print(f"{program} {version()}")
    elif name not in verbs:
        raise InputError(_unknown(f"verb '{name}'", name, list(verbs), f"{program} --help lists them"))
    else:
        given = parse_arguments(verbs[name], arguments[1:], f"{program} {name}")
        if given is not None:
            verbs[name](**given)


def parse_arguments(verb: Verb, arguments: Sequence[str], program: str) -> dict[str, Any] | None:
    """Returns what a verb is to be called with; None after its help was printed.

    >>> def phantom(directory: str, *, shape: tuple[int, ...] | None = None, plain: bool = False): ...
    >>> parse_arguments(phantom, ["here", "--shape", "96", "96", "64", "--plain"], "phantom")
    {'directory': 'here', 'shape': (96, 96, 64), 'plain': True}

    Raises:
        InputError: as of `run_command`.
    """
    hints = get_type_hints(verb)
    parameters = list(inspect.signature(verb).parameters.values())
    typed = [re.sub(r"^--[\w-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", each) for each in arguments]
    if {"-h", "--help"} & set(typed):
        print(format_help(verb, program))
        return None
    typed, keys = _split_keys(typed, parameters, program)
    names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    named = {name: keys.pop(name) for name in names if name in keys}
    parser = _parser(verb, [each for each in parameters if each.name not in named], hints, program)
    found, rest = parser.parse_known_intermixed_args(typed)
    if rest:
        msg = f"'{rest[0]}' is one argument too many; {program} --help tells what it takes"
        raise InputError(msg)
    values = {name: value for name, value in vars(found).items() if value is not None and name in hints} | named
    given = {name: _convert(name, value, hints[name]) for name, value in values.items()}
    return given | {name: _read(text) for name, text in keys.items()}


def checked_options(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was typed for the keyword-only parameters of a function, as their types.

    Raises:
        InputError: when one is unknown, or a value is not of its type.
    """
    hints = get_type_hints(function)
    known = [each.name for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise InputError(_unknown(f"option --{name}", name, known, f"expected {', '.join(known)}", "--"))
    return {name: _convert(name, _as_typed(value), hints[name]) for name, value in options.items()}


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def format_help(verb: Verb, program: str) -> str:
    """Returns the help of a verb."""
    parameters = list(inspect.signature(verb).parameters.values())
    return _parser(verb, parameters, get_type_hints(verb), program).format_help().rstrip()


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace("the following arguments are required", "missing")
        msg = f"{message}; {self.prog} --help tells more"
        raise InputError(msg)


def _parser(verb: Verb, parameters: Sequence[inspect.Parameter], hints: dict[str, Any], program: str) -> _Parser:
    summary, texts = _documentation(verb)
    parser = _Parser(prog=program, description=summary, add_help=False, allow_abbrev=False)
    for each in parameters:
        text = texts.get(each.name, "").replace("%", "%%")
        if each.kind is each.VAR_KEYWORD:
            parser.epilog = f"--KEY VALUE: {text}"
        elif each.kind is each.KEYWORD_ONLY or each.default is not each.empty:
            required = each.default is each.empty
            default = "" if required or each.default in (None, "", ()) else f" (default: {shown(each.default)})"
            kinds = alternatives(hints[each.name])
            options: dict[str, Any] = {"metavar": each.name.upper()}
            if bool in kinds:
                options = {"metavar": "true|false", "nargs": "?", "const": "true"}
            elif any(get_origin(kind) is tuple for kind in kinds):
                options["nargs"] = "+"
            parser.add_argument(f"--{each.name}", required=required, help=f"{text}{default}", **options)
        else:
            several = any(get_origin(kind) is tuple for kind in alternatives(hints[each.name]))
            options = {"metavar": each.name.upper(), **({"nargs": "+"} if several else {})}
            parser.add_argument(each.name, help=text, **options)
    parser.add_argument("--debug", nargs="?", metavar="true|false", help="whether an error shows its traceback.")
    return parser


def _documentation(verb: Verb) -> tuple[str, dict[str, str]]:
    """Returns the first line of a docstring, and what its `Args` say."""
    text = inspect.getdoc(verb) or ""
    body = text.partition("Args:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", body, re.MULTILINE)
    return text.split("\n")[0], {name: " ".join(words.split()) for name, words in entries}


def _overview(verbs: Mapping[str, Verb], program: str, about: str) -> str:
    width = max(map(len, verbs)) + 2
    lines = [f"  {name:<{width}}{_documentation(verb)[0]}" for name, verb in verbs.items()]
    usage = f"usage: {program} VERB ...    ({program} VERB --help; {program} --version)"
    return "\n".join([about, "", usage, "", *lines])


def _convert(name: str, value: str | list[str], hint: Any) -> Any:
    """Returns a typed value as the type of its parameter."""
    kinds = alternatives(hint)
    text = value if isinstance(value, str) else " ".join(value)
    word = text.lower()
    if word in NULLS and type(None) in kinds:
        return None
    if word in TRUTHS and bool in kinds:
        return TRUTHS[word]
    for kind in kinds:
        items = re.split(r"[,\s]+", text.strip("[]() "))
        if get_origin(kind) is tuple and (len(items) > 1 or len(kinds) == 1 or kinds[1:] == [type(None)]):
            found: Any = tuple(_number(item) for item in items) if get_args(kind)[0] is not str else tuple(items)
        else:
            found = text if kind is str else _number(text)
        if fits(found, kind) and kind is not str:
            return found
        if kind is str:
            return text
    if fits(text, hint):  # one of several words
        return text
    msg = f"{name} is '{text}'; expected {type_names(kinds)}"
    raise InputError(msg)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _split_keys(
    typed: Sequence[str], parameters: Sequence[inspect.Parameter], program: str
) -> tuple[list[str], dict[str, str]]:
    """Takes out, with their values, keys of a bundle and parameters that are typed with their names but need not be."""
    options = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY or each.default is not each.empty}
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    takes_keys = any(each.kind is each.VAR_KEYWORD for each in parameters)
    plain: list[str] = []
    keys: dict[str, str] = {}
    waiting = list(typed)
    while waiting:
        option = waiting.pop(0)
        name, equals, text = option.removeprefix("--").partition("=")
        if not option.startswith("--") or name in {*options, "debug"}:
            plain.append(option)
            continue
        if not takes_keys and name not in known:
            raise InputError(_unknown(f"option --{name}", name, known, f"{program} --help lists them", "--"))
        if not equals:
            text = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        keys[name] = text
    return plain, keys


def _read(text: str) -> Any:
    """Returns the value of a key of a bundle."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _unknown(what: str, name: str, known: Sequence[str], otherwise: str, prefix: str = "") -> str:
    similar = difflib.get_close_matches(name, known, n=1)
    return f"unknown {what}; did you mean {prefix}{similar[0]}?" if similar else f"unknown {what}; {otherwise}"
