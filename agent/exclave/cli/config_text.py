"""Texts made from the keys of config.toml: the list in `exclave run --help`, an example file, a man page. Pure."""

from exclave.config import DEFAULT_PATH, config_keys


def help_text() -> str:
    """The list of keys in `exclave run --help`: a title, then TOML."""
    lines = ["keys of config.toml, all optional, with their defaults or an example:"]
    for (table, _), keys in config_keys().items():
        lines.append(f"  [{table}]")
        for key in keys:
            setting = f"{key.name} = {key.toml}"
            lines.append(f"    {setting:<44} # {'' if key.has_default else '(example) '}{key.summary}")
    return "\n".join(lines)


def example_config() -> str:
    """A config.toml in which every key is commented out, with its default or an example."""
    lines = [
        f"# {DEFAULT_PATH}: settings of this machine's exclave agent.",
        "# Every key is optional. A value below is the default, unless its comment says that it is an example.",
        "# After a change: systemctl reload exclave",
    ]
    for (table, summary), keys in config_keys().items():
        lines += ["", f"# {_sentence(summary)}", f"[{table}]"]
        for key in keys:
            lines += [
                f"# {_sentence(key.summary)}{'' if key.has_default else ' Example:'}",
                f"#{key.name} = {key.toml}",
            ]
    return "\n".join(lines) + "\n"


def man_page() -> str:
    """The source of the man page exclave-config(5), in roff (man(7))."""
    lines = [
        ".TH EXCLAVE-CONFIG 5",
        ".SH NAME",
        r"exclave-config \- settings of a machine's exclave agent",
        ".SH SYNOPSIS",
        f".I {DEFAULT_PATH}",
        ".SH DESCRIPTION",
        "The file is TOML. Every key is optional, and so is the file.",
        "A key that does not exist is an error, so that a misspelt key cannot be mistaken for a setting.",
    ]
    for (table, summary), keys in config_keys().items():
        lines += [f".SS [{table}]", _roff(_sentence(summary))]
        for key in keys:
            label = "Default" if key.has_default else "Example"
            lines += [".TP", f".B {_roff(key.name)}", _roff(_sentence(key.summary)), f"{label}: {_roff(key.toml)}"]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR exclave (8)"]) + "\n"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _roff(text: str) -> str:
    """Escape text for roff: a backslash, a hyphen, and a dot or quote at the start are commands."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
