"""Kubernetes' rules for labels. Source: k8s.io/apimachinery/pkg/util/validation/validation.go. Pure."""

import re

DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
MOST_LABEL = 63  # characters of a DNS label, and of a label's value

_DNS_LABEL = re.compile(DNS_LABEL)
_PART = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_PREFIX = re.compile("(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_label_value(text: str) -> bool:
    """True if it is a valid value of a label: empty, or at most 63 characters, the first and last a letter or digit."""
    return not text or _PART.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """True if it is a valid key of a label: a name of the same form, with an optional DNS name and slash in front."""
    prefix, slash, name = text.rpartition("/")
    return _PART.fullmatch(name) is not None and (not slash or _PREFIX.fullmatch(prefix) is not None)


def is_dns_label(text: str) -> bool:
    """True if it is one DNS label: at most 63 small letters, digits and dashes, without a dash at either end."""
    return len(text) <= MOST_LABEL and _DNS_LABEL.fullmatch(text) is not None
