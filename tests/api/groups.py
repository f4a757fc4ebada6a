"""Groups as hypothesis draws them."""

from hypothesis import strategies as st

from exclave.api.group import FailurePolicy, GroupSpec, Port, Probe

words = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
labels = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
seconds = st.integers(60, 10**6).map(float)
numbers = st.integers(1, 65535)
networks = st.sampled_from(("10.77.0.0/24", "10.0.0.0/8", "fd00:77::/64"))

groups = st.builds(
    GroupSpec,
    service_account=words,
    networks=st.lists(networks, min_size=1, max_size=3).map(tuple),
    labels=st.dictionaries(labels, labels, max_size=3),
    ports=st.lists(st.builds(Port, words, numbers, st.booleans()), max_size=3).map(tuple),
    certificate_lifetime=seconds,
    capture=st.sampled_from(("cluster", "all", "none")),
    inbound_policy=st.sampled_from((None, "deny", "all-authenticated")),
    probes=st.lists(
        st.builds(
            Probe,
            numbers,
            every=st.integers(1, 3600).map(float),
            timeout=st.integers(1, 60).map(float),
            failures=st.integers(1, 9),
        ),
        max_size=3,
    ).map(tuple),
    failure=st.builds(FailurePolicy, seconds, st.sampled_from(("open", "closed")), st.sampled_from(("open", "closed"))),
    forget_after=seconds,
    proxy_cores=st.none() | st.integers(1, 1024),
)
