"""Texts about config.toml: every key is in them, and what they show is valid TOML with the real defaults."""

import re

import pytest

from exclave.cli.config_text import example_config, help_text, man_page
from exclave.config import Config, config_keys, parse_config

HELP = "\n".join(help_text().splitlines()[1:])
"""Without its title: TOML."""

EXAMPLE = re.sub(r"^#(?=[a-z_]+ = )", "", example_config(), flags=re.MULTILINE)
"""With every key uncommented."""


@pytest.mark.parametrize("text", [HELP, EXAMPLE], ids=["help", "example"])
def test_a_text_names_every_key_and_shows_the_defaults(text: str) -> None:
    table, named = "", set()
    for line in text.splitlines():
        if found := re.fullmatch(r" *\[(\w+)\]", line):
            table = found[1]
        elif found := re.match(r" *(\w+) = ", line):
            named.add(f"{table}.{found[1]}")
    parsed, defaults = parse_config(text, "text"), Config()
    assert named == {f"{name}.{key}" for name in vars(defaults) for key in vars(getattr(defaults, name))}
    for (name, _), keys in config_keys().items():
        for key in keys:
            shown, default = (getattr(getattr(config, name), key.name) for config in (parsed, defaults))
            assert (shown == default) == key.has_default, f"{name}.{key.name}"


def test_the_example_file_has_the_defaults() -> None:
    assert parse_config(example_config(), "example") == Config()


def test_an_example_is_marked_as_one() -> None:
    assert '# The proxy\'s program.\n#binary = "/var/lib/exclave-proxies/linkerd2-proxy"\n' in example_config()
    assert (
        "# Connections from here to these ports are not captured. Example:\n#exclude_outbound_ports = [3306]\n"
        in example_config()
    )
    assert re.search(r"exclude_outbound_ports = \[3306\] +# \(example\) connections from here", help_text())


def test_the_man_page_has_every_key_with_its_default_or_an_example() -> None:
    page = man_page()
    for (name, _), keys in config_keys().items():
        assert f"\n.SS [{name}]\n" in page
        for key in keys:
            label = "Default" if key.has_default else "Example"
            toml = key.toml.replace("-", r"\-")
            assert re.search(rf"\n\.TP\n\.B {key.name}\n[^\n]+\.\n{label}: {re.escape(toml)}\n", page), key.name
