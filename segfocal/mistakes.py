"""A mistake in a YAML file or on the command line, told in a line: what, where, and what may have been meant."""

import inspect
import re
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningArgumentParser


class ConfigError(Exception):
    """A mistake in a YAML file or on the command line: the message says which, the rule, and the remedy."""


def check_yaml(path: str) -> None:
    """Refuse what YAML's reader lets through, such as a key twice, or reports without the file's name.

    Raises:
        ConfigError: The file cannot be read, is not YAML, holds no mapping, or a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).replace('"<unicode string>"', path)
        raise ConfigError(f"{path} is not YAML: {reason}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} holds no `key: value` lines. See --print_config for what may stand there.")
    _check_node(root, path, above=(), done=set())


def _check_node(node: yaml.Node, path: str, above: tuple[int, ...], done: set[int]) -> None:
    line = node.start_mark.line + 1
    if id(node) in above:  # an alias that leads back to where it stands would keep the parser busy for ever
        raise ConfigError(f"{path}, line {line}: an alias stands inside what it names. Write the values out.")
    if id(node) in done or not isinstance(node, yaml.CollectionNode):
        return
    below = node.value
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                raise ConfigError(
                    f"{path}, line {line}: {key.value!r} stands in line {seen[str(key.value)]} too. Keep one."
                )
            seen[str(key.value)] = line
        below = [value for _, value in node.value]
    for value in below:
        _check_node(value, path, (*above, id(node)), done)
    done.add(id(node))


def import_path(path: str) -> Any:  # noqa: ANN401
    """Import what `package.module.name` names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def explain(message: str, parser: "LightningArgumentParser") -> str:
    """Cut a message of the parser down to what is wrong, where, and what may have been meant."""
    where = ".".join(re.findall(r'[Pp]arser key "([^"]+)"', message))
    paths = re.findall(r"class_path '([^']+)'", message)
    if match := re.search(r"unrecognized arguments: (.*)", message):
        return _unknown(match[1].split()[0].lstrip("-").split("=")[0], _keys(parser))
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return _unknown(f"{match[1]}.{match[2]}", _keys(parser))
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        if not paths:
            return _unknown(match[1], _keys(parser))
        return _unknown(f"{where}.{match[1]}", [f"{where}.{name}" for name in _parameters(paths[-1])], paths[-1])
    if match := re.search(r"the following arguments are required: (.*)", message):
        names = [f"{where}.{name}" if where else name for name in match[1].split(", ")]
        missing = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
        return f"{missing}. Give a file with --config FILE, a run with --ckpt_path RUN, or --{names[0]} VALUE."
    if match := re.search(r"(No module named .*|module '.*' has no attribute '[^']+')", message):
        return f"{where}: {paths[-1]!r} cannot be imported: {match[1].rstrip('.')}. Give the full path of a class."
    message = re.sub(r"NestedArg\(key='[^']*', val='([^']*)'\)", r"\1", message)
    rules = dict.fromkeys(_plain(line) for line in _LINE.findall(message))
    given = re.findall(r"(?:Given|Got) value: (.*)", message)
    got = f", got {min(given, key=len)!r}" if given else ""  # the others are what it stands in
    if rules and not any(" got " in rule for rule in rules):
        return f"{where}: expected {' or '.join(rules)}{got}."
    kept = [
        line.strip(" -") for line in message.splitlines() if line.strip(" -") and not _NOISE.match(line.strip(" -"))
    ]
    return "\n  ".join(([f"{where}:"] if where else []) + kept)


_LINE = re.compile(r"^[ -]*Expected an? ((?!<class 'NoneType'>|path but).+?)(?:\. Got value: .*)?$", re.MULTILINE)
_NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Parser key|Expected a path but"
)


def _plain(rule: str) -> str:
    rule = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", rule)
    return re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", rule)


def _unknown(key: str, known: list[str], owner: str | None = None) -> str:
    close = get_close_matches(key, known, n=1, cutoff=0.6)
    siblings = sorted(name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0])
    hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(siblings)}." if siblings else ""
    return f"no option {key!r}{f' in {owner}' if owner else ''}.{hint}"


def _keys(parser: "LightningArgumentParser") -> list[str]:
    return [action.dest for action in parser._actions if "help" not in action.dest]


def _parameters(class_path: str) -> list[str]:
    try:
        return list(inspect.signature(import_path(class_path)).parameters)
    except (ValueError, TypeError):  # built-in types, such as a tensor, have no signature
        return []
