"""The mark that an ExternalWorkload gets before its ports or its address go. Pure.

Linkerd reports a change to pods that call by address only for the ports that the changed object still lists. So
the object is marked first, with its ports: pods then use plain TCP, as for any address outside of the mesh.
"""

from collections.abc import Iterator

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.requests import Object
from exclave.api.workload.opaque_ports import OPAQUE_PORTS

# Seconds between Ready=False and the mark. Linkerd handles each change in a task of its own, so the later one of two
# may be handled first, and pods then never learn of it: without this pause, 1,899 of 1,899 requests failed once.
SETTLE = 1.0

NOTICE = 1.0  # seconds between the mark and the removal of the ports; pods of edge-26.8 followed within 0.2 s

# No URI, so proxies use no TLS. Source: to_identity in linkerd2-proxy, linkerd/proxy/api-resolve/src/pb.rs.
WITHDRAWN = "withdrawn"

HIGHEST_PORT = 65535


def is_withdrawn(workload: Object | None) -> bool:
    """True if an ExternalWorkload has the mark."""
    return bool(mapping_in(mapping_in(workload or {}, "spec"), "meshTLS").get("identity") == WITHDRAWN)


def withdrawal(workload: Object) -> Object:
    """The merge patch that marks an ExternalWorkload, and changes neither its addresses nor the ports it lists."""
    spec, annotations = mapping_in(workload, "spec"), mapping_in(mapping_in(workload, "metadata"), "annotations")
    listed = mappings_in(spec, "ports")
    # Opaque, or proxies would use HTTP/2. A second name for each port is a number, since Linkerd's destination
    # controller reads a port's name in the annotation, and its policy controller only numbers. For the latter, and so
    # for the member's own proxy, nothing changes: an open HTTP connection to a port that becomes opaque gets 404.
    names = _free_numbers({int(port["port"]) for port in listed if isinstance(port.get("port"), int)})
    second = [{**port, "name": next(names)} for port in listed]
    opaque = [str(annotations.get(OPAQUE_PORTS) or ""), *(port["name"] for port in second)]
    return {
        "metadata": {"annotations": {OPAQUE_PORTS: ",".join(one for one in opaque if one)}},
        "spec": {"meshTLS": {**mapping_in(spec, "meshTLS"), "identity": WITHDRAWN}, "ports": [*listed, *second]},
    }


def _free_numbers(used: set[int]) -> Iterator[str]:
    return (str(number) for number in range(HIGHEST_PORT, 0, -1) if number not in used)
