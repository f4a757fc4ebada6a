"""What Kubernetes takes for a label. Pure.

Source: IsQualifiedName and IsValidLabelValue in k8s.io/apimachinery/pkg/util/validation/validation.go.
"""

import re

_PART = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_PREFIX = re.compile("(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_label_value(text: str) -> bool:
    """Whether it may be a label's value: empty, or at most 63 characters, the first and last a letter or digit."""
    return not text or _PART.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether it may be a label's key: a name like a value that is not empty, after a DNS name and a slash or not."""
    prefix, slash, name = text.rpartition("/")
    return _PART.fullmatch(name) is not None and (not slash or _PREFIX.fullmatch(prefix) is not None)
